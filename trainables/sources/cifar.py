"""CIFAR, downloaded and verified by torchvision."""

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from trainables.decoding import DataError
from trainables.images import Images, Source

__all__ = ["cifar10", "cifar100"]

_DOWNLOAD = ".skdtune-download-"
_SILENCE_S = 30.0

if TYPE_CHECKING:  # its import takes 2 s, which no other source need wait for
    from torchvision.datasets import CIFAR10 as Cifar  # CIFAR-100 is a subclass of it


def cifar10(root: Path, *, download: bool = True) -> Source:
    """CIFAR-10: 50,000 + 10,000 colour images of 32x32, 10 classes."""
    from torchvision.datasets import CIFAR10

    return read(CIFAR10, root, download)


def cifar100(root: Path, *, download: bool = True) -> Source:
    """CIFAR-100: 50,000 + 10,000 colour images of 32x32, 100 classes."""
    from torchvision.datasets import CIFAR100

    return read(CIFAR100, root, download)


def read(dataset: "type[Cifar]", root: Path, download: bool) -> Source:
    """The set as it lies in `root`, downloaded when it is missing or damaged there and may be.
    Errors: DataError."""
    train = _train(dataset, root)
    if train is None and download:
        train = _download_once(dataset, root)
    if train is None:
        raise DataError(
            f"{root}: {dataset.__name__} is not there or damaged; set trial.data.download to "
            f"true, or put {dataset.base_folder}/ there"
        )
    return Source(tuple(train.classes), _images(train), lambda: _images(dataset(root, train=False)))


def _train(dataset: "type[Cifar]", root: Path) -> "Cifar | None":
    """The training part, its checksums verified; None when it is missing or damaged."""
    try:
        return dataset(root, train=True)
    except RuntimeError:
        return None


def _download_once(dataset: "type[Cifar]", root: Path) -> "Cifar":
    """One download a node however many processes ask: the others wait at a lock on the node's
    own disk.

    It lands in a temporary folder, is verified by torchvision's checksums and then renamed, so a
    download that was killed is never taken for the data.
    """
    tag = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"skdtune-{os.getuid()}-{dataset.__name__}-{tag}.lock"
    with FileLock(lock):
        train = _train(dataset, root)  # another process may have brought it
        if train is not None:
            return train
        try:
            root.mkdir(parents=True, exist_ok=True)
            mine = f"{_DOWNLOAD}{socket.gethostname()}-"  # other nodes may share the folder
            for left in root.glob(f"{mine}*"):  # of a download that was killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=mine) as part:
                with _patience(_SILENCE_S):
                    train = dataset(part, train=True, download=True)
                target = root / dataset.base_folder
                if target.exists():  # it failed its checksums: set it aside, delete nothing
                    target.rename(f"{target}.damaged-{part.rpartition('-')[2]}")
                (Path(part) / dataset.base_folder).rename(target)
                return train
        except (OSError, RuntimeError) as error:
            raise DataError(f"{root}: cannot download {dataset.__name__}: {error}") from error


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """How long a server may say nothing: torchvision would wait for ever, and takes no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _images(dataset: "Cifar") -> Images:
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(dataset.targets))
