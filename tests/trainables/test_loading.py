"""Batches of files: the same whatever the workers, and no worker outlives its training."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.programs import wait_for
from tests.trainables.layouts import damage, folder, photograph
from tests.trainables.workers import gone, workers_of
from trainables import listing
from trainables.decoded import Decoded
from trainables.decoding import DataError
from trainables.images import Files
from trainables.loading import BatchRequest, Loader

CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path):
    root = folder(tmp_path / "set", each=5)
    photograph(root / "ape" / "0.jpg", 50, (200, 90), "L")
    photograph(root / "bee" / "0.jpg", 51, (75, 130), "CMYK")
    return listing.read(root).files(72)


def loader(files, workers: int, gib: float = 1.0) -> Loader:
    return Loader(Decoded([files], gib), workers, CPU)


def crops(count: int = 4, epoch: int = 0) -> list[BatchRequest]:
    """Three batches; the second has image 7 twice."""
    rows = torch.tensor([[0, 1, 2, 3], [7, 7, 8, 9], [14, 13, 12, 11]])[:, :count]
    return [BatchRequest(r, r + 100 * epoch + torch.arange(count), 0.2) for r in rows]


@pytest.mark.slow
def test_batches_do_not_depend_on_workers_or_memory(files):
    centres = [BatchRequest(rows) for rows in torch.arange(15).split(4)]
    made = []
    for workers, gib in ((0, 0.0), (0, 1.0), (2, 0.0), (2, 1.0)):
        one = loader(files, workers, gib)
        epochs = [list(one.load(crops(epoch=epoch))) for epoch in range(2)]
        made.append([*epochs[0], *epochs[1], *one.load(centres)])
        one.close()
    assert [batch.shape[0] for batch in made[0]] == [4] * 6 + [4, 4, 4, 3]
    for other in made[1:]:
        assert all(map(torch.equal, made[0], other))
    twice = made[0][1]
    assert not torch.equal(twice[0], twice[1])  # one image, two seeds
    assert not torch.equal(made[0][0], made[0][3])  # another epoch


def test_workers_stay_for_the_next_epoch_and_end_with_close(files):
    one = loader(files, 2)
    list(one.load(crops()))
    first = workers_of(os.getpid())
    assert len(first) == 2
    list(one.load(crops(epoch=1)))
    assert workers_of(os.getpid()) == first
    one.close()
    assert gone(first, within_s=5)


def test_workers_end_when_the_loader_is_dropped_within_an_epoch(files):
    one = loader(files, 2)
    batches = one.load(crops())
    next(batches)
    pids = workers_of(os.getpid())
    assert len(pids) == 2
    del one, batches
    assert gone(pids, within_s=5)


def test_an_epoch_that_was_left_does_not_reach_the_next(files):
    expected = list(loader(files, 0).load(crops(epoch=1)))
    one = loader(files, 2)
    next(one.load(crops()))
    assert all(map(torch.equal, one.load(crops(epoch=1)), expected))
    one.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_within_a_file_is_one_error_that_names_all_of_a_batch(files, workers):
    for name in ("x1.png", "x2.png"):
        photograph(files.root / name, 60)
        damage(files.root / name)
    names = ["ape/0.jpg", "x1.png", "ape/1.jpg", "x2.png"]
    one = loader(Files(files.root, names, files.labels[:4], 72), workers, gib=0.0)
    batches = one.load(crops()[:1])
    with pytest.raises(DataError, match=r"^2 of 4 images cannot be read: ") as raised:
        next(batches)
    assert workers_of(os.getpid()) == set()  # although the traceback still holds the frame
    assert "x1.png: " in str(raised.value)
    assert "x2.png: " in str(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_the_disk_does_not_give_is_worth_another_attempt(files, workers):
    one = loader(files, workers, gib=0.0)
    (files.root / "ape" / "2.jpg").unlink()
    with pytest.raises(OSError, match=r"1 of 4 images .*ape/2\.jpg: No such file"):
        next(one.load(crops()))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_worth_another_attempt(files):
    one = loader(files, 2)
    list(one.load(crops()))
    pids = workers_of(os.getpid())
    os.kill(min(pids), signal.SIGKILL)
    with pytest.raises(OSError, match="a process that reads images was lost: "):
        list(one.load(crops(epoch=1)))
    one.close()
    assert gone(pids, within_s=12)
    expected = list(loader(files, 0).load(crops(epoch=1)))
    assert all(map(torch.equal, one.load(crops(epoch=1)), expected))  # it starts others
    one.close()


def test_workers_by_default_are_the_threads_of_this_process(files):
    found = Decoded([files], 0.0)
    for threads, workers in ((1, 1), (3, 3), (40, 16)):
        torch.set_num_threads(threads)
        assert Loader(found, None, CPU).workers == workers
    torch.set_num_threads(1)


MAIN = """
import sys, time
from pathlib import Path
import torch
from trainables import listing
from trainables.decoded import Decoded
from trainables.loading import Loader, BatchRequest

assert __name__ == "__main__"  # no worker runs the program again
files = listing.read(Path(sys.argv[1])).files(72)
loader = Loader(Decoded([files], 1.0), 2, torch.device("cpu"))
batches = loader.load([BatchRequest(torch.arange(4))] * 100)
next(batches)
assert __file__ == sys.argv[0]
print("ready", flush=True)
if sys.argv[2] != "end":
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["end", "SIGKILL"])
def test_workers_end_with_their_process_however_it_ends(files, tmp_path, ending):
    (tmp_path / "main.py").write_text(MAIN)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "main.py", files.root, ending],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        if ending != "end":  # one that has only begun does not bear its name yet
            wait_for(lambda: len(workers_of(process.pid)) == 2, 20, "both workers")
        pids = workers_of(process.pid)
        if ending != "end":
            process.send_signal(signal.Signals[ending])
        process.wait(20)
        assert gone(pids)
    finally:
        process.kill()
        process.communicate()


def test_workers_are_forks_of_a_process_with_one_thread_and_all_that_they_import(files):
    """So none of them begins with a lock that a thread held which it has not, or imports for
    itself."""
    one = loader(files, 1)
    list(one.load(crops()))
    (pid,) = workers_of(os.getpid())
    server = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(server) != os.getpid()
    assert len(os.listdir(f"/proc/{server}/task")) == 1
    assert "/torchvision/" in Path(f"/proc/{server}/maps").read_text()
    one.close()
