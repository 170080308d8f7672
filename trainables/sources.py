"""Image sets as they come: each function reads one into uint8 tensors, checked, without
splitting it."""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from filelock import FileLock
from PIL import Image
from torch import Tensor

from trainables.bounds import Count

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_LARGEST_NATIVE_SIZE = 64
_DOWNLOAD = ".skdtune-download-"


class DataError(ValueError):
    """A data set that is missing or damaged; the message says which and how to mend it."""


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [N, C, H, W]. labels: int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Images":
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A data set as published. `test` is read only when it is called: the search never does."""

    classes: tuple[str, ...]
    train: Images
    test: Callable[[], Images] | None  # None: the set has no test part of its own
    validation: Images | None = None  # None: to be split from train


def digits(root: Path) -> Source:
    """scikit-learn's 1,797 real handwritten digits, 8x8 grey, 10 classes; `root` is not used.
    Has no test part of its own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).long()
    return Source(tuple("0123456789"), Images(pixels, labels), test=None)


def cifar10(root: Path, *, download: bool = True) -> Source:
    """CIFAR-10: 50,000 + 10,000 colour images of 32x32, 10 classes."""
    return _cifar(torchvision.datasets.CIFAR10, root, download)


def cifar100(root: Path, *, download: bool = True) -> Source:
    """CIFAR-100: 50,000 + 10,000 colour images of 32x32, 100 classes."""
    return _cifar(torchvision.datasets.CIFAR100, root, download)


def imagefolder(root: Path, *, image_size: Count | None = None) -> Source:
    """A folder of one folder of images a class, of any size and mode, read as RGB.

    `train/` with `test/`: these. `train/` with `val/` alone: `val/` is the test part, as on
    ImageNet, and validation is split from train. All three: each is what it says. None of them:
    one folder to split. image_size: side of the square that images are resized and cropped to;
    None takes their own size when all share one of at most 64 pixels, else 64."""
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; trial.data.root must be a folder of class folders"
        )
    train_folder = root / "train"  # a class may have that name too: it holds images, not folders
    if not (train_folder.is_dir() and any(entry.is_dir() for entry in train_folder.iterdir())):
        listing = _Listing(root)
        return Source(listing.classes, listing.read(listing.size(image_size)), test=None)
    train = _Listing(root / "train")
    size = train.size(image_size)
    parts = {name: _Listing(root / name) for name in ("val", "test") if (root / name).is_dir()}
    for name, part in parts.items():
        if part.classes != train.classes:
            odd = sorted(set(part.classes) ^ set(train.classes))
            raise DataError(
                f"{root}: train/ and {name}/ differ in the classes {', '.join(odd[:5])}"
            )
    validation = parts.pop("val").read(size) if len(parts) == 2 else None
    held_out = next(iter(parts.values()), None)
    test = None if held_out is None else lambda: held_out.read(size)
    return Source(train.classes, train.read(size), test, validation)


def synthetic(
    root: Path,
    *,
    classes: Count = 4,
    images: Count = 256,
    image_size: Count = 8,
    channels: Count = 3,
) -> Source:
    """Noise around a pattern a class, for tests: learnable in seconds, made on the spot; no
    `root`."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(
        0, 256, (classes, channels, image_size, image_size), generator=generator
    )

    def make(count: int) -> Images:
        labels = torch.arange(count) % classes
        noise = torch.randn((count, *patterns.shape[1:]), generator=generator) * 64
        return Images((patterns[labels] * 0.5 + 64 + noise).clamp(0, 255).to(torch.uint8), labels)

    train, test = make(images), make(images // 2)
    return Source(tuple(map(str, range(classes))), train, lambda: test)


READERS: dict[str, Callable[..., Source]] = {
    reader.__name__: reader for reader in (digits, cifar10, cifar100, imagefolder, synthetic)
}


def _cifar(dataset: type[torchvision.datasets.CIFAR10], root: Path, download: bool) -> Source:
    if download:
        _download_once(dataset, root)
    try:
        train = dataset(root, train=True)
    except RuntimeError as error:
        raise DataError(
            f"{root}: {dataset.__name__} is not there or damaged; set trial.data.download to "
            f"true, or put {dataset.base_folder}/ there"
        ) from error
    return Source(
        tuple(train.classes), _from_cifar(train), lambda: _from_cifar(dataset(root, train=False))
    )


def _download_once(dataset: type[torchvision.datasets.CIFAR10], root: Path) -> None:
    """One download a node however many processes ask: the others wait at a lock on the node's
    own disk.

    It lands in a temporary folder, is verified by torchvision's checksums and then renamed, so a
    download that was killed is never taken for the data.
    """
    tag = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"skdtune-{os.getuid()}-{dataset.__name__}-{tag}.lock"
    with FileLock(lock):
        if _is_there(dataset, root):
            return
        try:
            root.mkdir(parents=True, exist_ok=True)
            mine = f"{_DOWNLOAD}{socket.gethostname()}-"  # other nodes may share the folder
            for left in root.glob(f"{mine}*"):  # of a download that was killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=mine) as part:
                dataset(part, train=True, download=True)
                target = root / dataset.base_folder
                if target.exists():  # it failed its checksums: set it aside, delete nothing
                    target.rename(f"{target}.damaged-{part.rpartition('-')[2]}")
                (Path(part) / dataset.base_folder).rename(target)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{root}: cannot download {dataset.__name__}: {error}") from error


def _is_there(dataset: type[torchvision.datasets.CIFAR10], root: Path) -> bool:
    try:
        dataset(root, train=True)
    except RuntimeError:
        return False
    return True


def _from_cifar(dataset: torchvision.datasets.CIFAR10) -> Images:
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(dataset.targets))


class _Listing:
    """The image files of one folder of class folders."""

    def __init__(self, root: Path):
        self.root = root
        folders = sorted(
            entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."
        )
        self.classes = tuple(folder.name for folder in folders)
        found = [
            sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
            for folder in folders
        ]
        empty = [folder.name for folder, paths in zip(folders, found, strict=True) if not paths]
        if len(folders) < 2 or empty:
            what = (
                f"no images in {', '.join(empty[:5])}"
                if empty
                else f"{len(folders)} class folder(s)"
            )
            raise DataError(
                f"{root}: {what}; expected one folder of images for each of at least 2 classes"
            )
        self.paths = [path for paths in found for path in paths]
        self.labels = torch.tensor([label for label, paths in enumerate(found) for _ in paths])

    def size(self, asked: int | None) -> int:
        if asked is not None:
            return asked
        sizes = set(self._each(lambda _, path: _read_size(path)))
        height, width = next(iter(sizes))
        own = len(sizes) == 1 and height == width and height <= _LARGEST_NATIVE_SIZE
        return height if own else _LARGEST_NATIVE_SIZE

    def read(self, size: int) -> Images:
        pixels = np.empty((len(self.paths), 3, size, size), np.uint8)  # filled in place: one copy

        def read(index: int, path: Path) -> None:
            pixels[index] = _read_image(path, size).transpose(2, 0, 1)

        self._each(read)
        return Images(torch.from_numpy(pixels), self.labels)

    def _each(self, function: Callable[[int, Path], object]) -> list:
        """The function of every file with its index, in order; all damaged files are named in one
        error."""

        def attempt(index: int, path: Path) -> object:
            try:
                return function(index, path)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                return DataError(f"{path}: {error}")

        with ThreadPoolExecutor() as pool:
            results = list(pool.map(attempt, range(len(self.paths)), self.paths))
        damaged = [result for result in results if isinstance(result, DataError)]
        if damaged:
            shown = "; ".join(str(error) for error in damaged[:5])
            raise DataError(f"{len(damaged)} of {len(results)} images cannot be read: {shown}")
        return results


def _read_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def _read_image(path: Path, size: int) -> np.ndarray:
    # -> uint8 [size, size, 3]
    with Image.open(path) as image:
        rgb = _as_rgb(image)
    if rgb.size != (size, size):
        scale = size / min(rgb.size)
        wide, high = (max(size, round(side * scale)) for side in rgb.size)
        left, top = (wide - size) // 2, (high - size) // 2
        rgb = rgb.resize((wide, high), Image.Resampling.BILINEAR).crop(
            (left, top, left + size, top + size)
        )
    return np.asarray(rgb)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255, not scale
        grey = np.clip(np.asarray(image), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
