"""Main memory: how much a process has had and may still take, and a block of it that processes
share."""

import mmap
import os
import resource
import sys
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that can be taken without swapping, within the limits of the container that this
    process is in; half of what the machine has where the kernel does not say."""
    found = [_of_machine()]
    for line in _lines(_PROC / "self" / "cgroup"):
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2 or version 1
            folder = _CGROUPS / controllers / place.lstrip("/")
            found += [_of_group(group) for group in (folder, *folder.parents)]
    return min(room for room in found if room is not None)


def peak() -> int:
    """The most bytes that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux KiB


class Shared:
    """Bytes that processes share: pickled into a new process it is the same memory there, and it
    is gone with the last of them. It takes no room in /dev/shm, which is small in containers.

    pixels: uint8 [size]. descriptor: of the memory, as a file. name: what other processes see
    of it."""

    def __init__(self, size: int, name: str = "skdtune-images"):
        self._attach(_anonymous(size, name), size)

    @classmethod
    def at(cls, descriptor: int, size: int) -> Self:
        """The memory that a descriptor is of; it is closed with this."""
        shared = cls.__new__(cls)
        shared._attach(descriptor, size)
        return shared

    def _attach(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.pixels: Tensor = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)

    def __reduce__(self):
        return _attached, (DupFd(self.descriptor), len(self.pixels))


def _attached(duplicate, size: int) -> Shared:
    return Shared.at(duplicate.detach(), size)


def _anonymous(size: int, name: str) -> int:
    """A descriptor of `size` bytes, all zero, in no file system."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    else:  # not on Linux: a file that is deleted already
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _of_machine() -> int:
    for line in _lines(_PROC / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _of_group(folder: Path) -> int | None:
    """Room below the limit of a control group, the file cache counted as room; None without a
    limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        words = _lines(folder / limit)
        if words and words[0].isdigit():
            stat = dict(line.split() for line in _lines(folder / "memory.stat"))
            return int(words[0]) - int(_lines(folder / used)[0]) + int(stat.get(cache, 0))
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
