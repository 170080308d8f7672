"""One copy of a data set for all trials on a machine: memory that the processes of one user find by
what is in it."""

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from trainables.images import Files, Images
from trainables.memory import Shared

_PREFIX = "skdtune-"
_LOOK_EVERY_S = 0.05


def images(part: Images | Files) -> tuple[Images | Files, Shared | None]:
    """The same images, with their pixels where every process has them that asks for the same; and
    what to hold on to for as long as others shall find them. Files stay files."""
    if isinstance(part, Files) or not hasattr(os, "memfd_create"):
        return part, None
    pixels = part.pixels.contiguous()
    digest = hashlib.sha256(pixels.numpy().data).hexdigest()
    shared = block(digest, pixels.numel(), lambda room: room.copy_(pixels.flatten()))
    return Images(shared.pixels.view(pixels.shape), part.labels), shared


def block(
    key: str,
    size: int,
    fill: Callable[[Tensor], object],
    beat: Callable[[], object] = lambda: None,
) -> Shared:
    """`size` bytes that `fill` has written, the same memory in every process of this user on this
    machine that asks for the key while one of them holds the result. One fills it, the others
    wait. Where a process cannot reach another's memory, or there is no place to say where it is,
    each has its own.

    key: names all of the content. beat: called now and then while another process fills it. The
    memory has no name in a file system and is gone with its last holder; one that is killed leaves
    an empty file behind, until the next one looks. Errors: those of `fill`."""
    name = _name(key)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_locked(name, beat))
        except OSError:
            return _filled(Shared(size), fill)
        shared = _found(folder, name, size) or _filled(Shared(size, name), fill)
        entry = folder / f"{name}.{os.getpid()}.{shared.descriptor}"
        with contextlib.suppress(OSError):  # the disk is full: it will not be found
            entry.touch()
            weakref.finalize(shared, entry.unlink, missing_ok=True)
    return shared


def is_held(key: str) -> bool:
    """Whether a process of this user holds it now."""
    try:
        return any(map(_memory, _folder().glob(f"{_name(key)}.*.*")))
    except OSError:
        return False


def _filled(shared: Shared, fill: Callable[[Tensor], object]) -> Shared:
    fill(shared.pixels)
    return shared


def _found(folder: Path, name: str, size: int) -> Shared | None:
    for entry in folder.glob(f"{_PREFIX}*.*.*"):
        place = _memory(entry)
        if place is None:
            entry.unlink(missing_ok=True)
        elif entry.name.startswith(name):
            with contextlib.suppress(OSError):  # its holder has just ended
                return Shared.at(os.open(place, os.O_RDWR | os.O_CLOEXEC), size)
    return None


def _memory(entry: Path) -> Path | None:
    """Where the memory is that an entry NAME.PROCESS.DESCRIPTOR speaks of; None when it is gone."""
    name, process, descriptor = entry.name.split(".")
    place = Path("/proc", process, "fd", descriptor)
    try:
        return place if os.readlink(place).startswith(f"/memfd:{name} ") else None
    except OSError:
        return None


def _name(key: str) -> str:
    return _PREFIX + hashlib.sha256(key.encode()).hexdigest()[:32]


def _folder() -> Path:
    """This user's own, where the holders of memory are listed. Errors: OSError when there can be
    none, or somebody else has put something in its place."""
    if not hasattr(os, "memfd_create"):
        raise OSError("not on Linux")
    folder = Path(tempfile.gettempdir(), f"skdtune-shared-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} is not this user's folder")
    return folder


@contextlib.contextmanager
def _locked(name: str, beat: Callable[[], object]) -> Iterator[Path]:
    """The folder, while no other process fills or looks for the same. beat: called until then."""
    folder = _folder()
    path = folder / f"{name}.lock"
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                beat()
                time.sleep(_LOOK_EVERY_S)
                continue
            if not _is_at(path, lock.fileno()):
                continue  # whoever had it has removed it
            try:
                yield folder
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
