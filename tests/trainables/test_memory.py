"""Memory: within the container's limit, and shared by processes without a copy."""

import multiprocessing
import os
import resource

import pytest
import torch

from trainables import memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes what the kernel would say. Paths are below proc/ and groups/."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")

    def write(**files: str):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    write(proc__meminfo=f"MemTotal: 99 kB\nMemAvailable:  {8 * 2**20} kB\n")
    return write


def test_without_a_limit_it_is_what_the_machine_has(machine):
    assert memory.available() == 8 * GIB
    machine(proc__self__cgroup="0::/\n", groups__memory_dot_max="max\n")
    assert memory.available() == 8 * GIB


def test_the_tightest_limit_above_the_process_counts_and_the_file_cache_is_room(machine):
    machine(
        proc__self__cgroup="0::/slice/job\n",
        groups__slice__job__memory_dot_max="max\n",
        groups__slice__memory_dot_max=f"{4 * GIB}\n",
        groups__slice__memory_dot_current=f"{3 * GIB}\n",
        groups__slice__memory_dot_stat=f"anon 5\ninactive_file {GIB}\n",
    )
    assert memory.available() == 2 * GIB


def test_limits_of_version_1(machine):
    machine(
        proc__self__cgroup="5:cpu:/elsewhere\n4:memory:/box\n",
        groups__memory__box__memory_dot_limit_in_bytes=f"{GIB}\n",
        groups__memory__box__memory_dot_usage_in_bytes=f"{GIB // 4}\n",
        groups__memory__box__memory_dot_stat="total_inactive_file 0\n",
    )
    assert memory.available() == GIB - GIB // 4


def test_where_the_kernel_says_nothing_it_is_half_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", tmp_path / "none")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.available() == total // 2


def test_this_machine_has_some():
    assert 2**24 < memory.available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _add_one(shared: memory.Shared, done) -> None:
    shared.pixels += 1
    done.set()


def test_another_process_sees_the_same_bytes():
    context = multiprocessing.get_context("forkserver")
    shared, done = memory.Shared(1000), context.Event()
    shared.pixels[:] = torch.arange(1000).to(torch.uint8)
    process = context.Process(target=_add_one, args=(shared, done))
    process.start()
    assert done.wait(60)
    process.join()
    assert torch.equal(shared.pixels, (torch.arange(1000) + 1).to(torch.uint8))


def test_memory_is_given_back():
    before = len(os.listdir("/proc/self/fd"))
    blocks = [memory.Shared(4096) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) > before
    del blocks
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_peak_is_in_bytes_whatever_the_system_counts_in(monkeypatch, platform, unit):
    monkeypatch.setattr(memory.sys, "platform", platform)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert before * unit <= memory.peak() < 2 * before * unit
