"""Checkpoints: whatever is done to the files, what is loaded is what was saved, or nothing."""

import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.trainables.tiny import same
from trainables import checkpoint
from trainables.checkpoint import Checkpoints
from trainables.storage import Folder


def state(trial: str, epoch: int) -> dict:
    generator = torch.Generator().manual_seed(1000 * ord(trial) + epoch)
    weights = torch.randn(40, generator=generator)
    return {"epoch": epoch, "history": [{"epoch": epoch, "val/loss": 0.5}], "weights": weights}


def saved(folder: Path, trial: str, epochs: int = 3, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(Folder(folder), trial, keep=keep)
    for epoch in range(1, epochs + 1):
        checkpoints.save(epoch, state(trial, epoch))
    return checkpoints


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def forge(folder: Path, data: bytes, **changes) -> None:
    """Makes `data` the state of a checkpoint, with a manifest that vouches for it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    (folder / "state.pt").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def torch_bytes(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def truncate(folder, rng, other):
    file = folder / rng.choice(["state.pt", "manifest.json"])
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def flip_a_bit(folder, rng, other):
    file = folder / "state.pt"
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def fill_with_zeros(folder, rng, other):
    file = folder / rng.choice(["state.pt", "manifest.json"])
    data = bytearray(file.read_bytes())
    start = rng.randrange(len(data) // 2)
    data[start:] = bytes(len(data) - start)
    file.write_bytes(data)


def delete_a_file(folder, rng, other):
    (folder / rng.choice(["state.pt", "manifest.json"])).unlink()


def empty_the_folder(folder, rng, other):
    shutil.rmtree(folder)
    folder.mkdir()


def make_the_folder_a_file(folder, rng, other):
    shutil.rmtree(folder)
    folder.write_bytes(rng.randbytes(50))


def swap_with_another_trial(folder, rng, other):
    for name in rng.choice([["state.pt"], ["manifest.json"], ["state.pt", "manifest.json"]]):
        shutil.copy(other / name, folder / name)


def put_another_epoch_in_its_place(folder, rng, other):
    epoch = int(folder.name.removeprefix("epoch_"))
    forge(folder, torch_bytes({**state("a", epoch), "epoch": epoch + 5}))


def write_another_format(folder, rng, other):
    forge(folder, (folder / "state.pt").read_bytes(), format=rng.choice([0, 2, "1", None]))


def write_no_state(folder, rng, other):
    value = rng.choice([[1, 2], None, {"weights": torch.zeros(2)}, "epoch"])
    forge(folder, torch_bytes(value))


def write_random_bytes(folder, rng, other):
    forge(folder, rng.randbytes(300))


def garble_the_manifest(folder, rng, other):
    (folder / "manifest.json").write_text(rng.choice(["[]", "3", "null", '{"format": 1}', "{"]))


def write_a_malicious_pickle(folder, rng, other):
    evil = Evil(folder.parents[1] / "executed")
    epoch = int(folder.name.removeprefix("epoch_"))
    hidden = {**state("a", epoch), "extra": evil}
    forge(folder, rng.choice([pickle.dumps(evil, 2), pickle.dumps(hidden, 2), torch_bytes(hidden)]))


DAMAGES = [
    truncate,
    flip_a_bit,
    fill_with_zeros,
    delete_a_file,
    empty_the_folder,
    make_the_folder_a_file,
    swap_with_another_trial,
    put_another_epoch_in_its_place,
    write_another_format,
    write_no_state,
    write_random_bytes,
    garble_the_manifest,
    write_a_malicious_pickle,
]


def test_200_random_damages_each_fall_back_to_the_one_before_or_to_none(tmp_path):
    rng = random.Random(0)
    saved(tmp_path / "whole" / "a", "a")
    saved(tmp_path / "whole" / "b", "b")
    for number in range(200):
        damage = DAMAGES[number % len(DAMAGES)]
        place = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", place)
        damage(place / "a" / "epoch_000003", rng, place / "b" / "epoch_000003")
        both = rng.random() < 0.3
        if both:
            again = rng.choice(DAMAGES)
            again(place / "a" / "epoch_000002", rng, place / "b" / "epoch_000002")
        checkpoints = Checkpoints(Folder(place / "a"), "a")
        expected = None if both else state("a", 2)
        assert same(checkpoints.latest(), expected), (number, damage.__name__)
        assert len(checkpoints.skipped) == 1 + both
        assert "epoch_000003 skipped: " in checkpoints.skipped[0]
        assert not (place / "executed").exists(), damage.__name__
        shutil.rmtree(place)


def test_the_malicious_pickle_would_execute_if_it_were_trusted(tmp_path):
    with pytest.raises(FileExistsError):  # its mkdir ran
        pickle.loads(pickle.dumps(Evil(tmp_path)))  # noqa: S301 - shows that the test above bites


def test_a_flipped_bit_of_a_manifest_never_yields_a_wrong_state(tmp_path):
    saved(tmp_path, "a")
    manifest = tmp_path / "epoch_000003" / "manifest.json"
    whole = manifest.read_bytes()
    fell_back = 0
    for bit in range(len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(data)
        found = Checkpoints(Folder(tmp_path), "a").latest()
        assert same(found, state("a", found["epoch"]))
        fell_back += found["epoch"] == 2
    assert fell_back > 0.8 * len(whole) * 8


def test_saving_goes_on_after_damage(tmp_path):
    saved(tmp_path, "a")
    fill_with_zeros(tmp_path / "epoch_000003", random.Random(1), None)
    checkpoints = Checkpoints(Folder(tmp_path), "a")
    assert checkpoints.latest()["epoch"] == 2
    checkpoints.save(3, state("a", 3))
    checkpoints = Checkpoints(Folder(tmp_path), "a")
    assert same(checkpoints.latest(), state("a", 3))
    assert checkpoints.skipped == []


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    checkpoints = Checkpoints(Folder(tmp_path), "a")
    assert checkpoints.latest() is None
    whole = {
        "epoch": 12,
        "none": None,
        "half": torch.tensor([0.1, float("nan")], dtype=torch.bfloat16),
        "nested": {"list": [1, 2.5, "x", True], 3: torch.arange(4)},
    }
    assert checkpoints.save(12, whole) == "epoch_000012"
    found = checkpoints.latest()
    assert found["half"].view(torch.int16).tolist() == whole["half"].view(torch.int16).tolist()
    del found["half"], whole["half"]
    assert same(found, whole)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_and_nothing_else_is_left(tmp_path, keep):
    saved(tmp_path, "a", epochs=11, keep=keep)
    names = [f"epoch_{epoch:06d}" for epoch in range(12 - keep, 12)]
    expected = {f"{name}/{file}" for name in names for file in ("state.pt", "manifest.json")}
    assert files(tmp_path) == expected


@pytest.mark.parametrize("failing", [1, 2])
def test_a_save_that_is_cut_off_leaves_the_one_before(tmp_path, monkeypatch, failing):
    checkpoints = saved(tmp_path, "a", epochs=2)
    calls, replace = [], os.replace

    def fails(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(3, state("a", 3))
    monkeypatch.undo()
    assert same(Checkpoints(Folder(tmp_path), "a").latest(), state("a", 2))
    assert not any(Path(name).name.startswith(".") for name in files(tmp_path))


def test_a_checkpoint_of_another_trial_is_not_believed(tmp_path):
    saved(tmp_path, "b")
    checkpoints = Checkpoints(Folder(tmp_path), "a")
    assert checkpoints.latest() is None
    assert "of trial b" in checkpoints.skipped[0]


def test_a_trial_that_starts_over_keeps_its_new_checkpoints_beside_damaged_ones(tmp_path: Path):
    checkpoints = Checkpoints(Folder(tmp_path), "0001")
    for epoch in (19, 20):
        checkpoints.save(epoch, {"epoch": epoch})
        (tmp_path / f"epoch_{epoch:06d}" / "state.pt").write_bytes(b"damaged")
    assert checkpoints.latest() is None
    checkpoints.save(1, {"epoch": 1})
    assert Checkpoints(Folder(tmp_path), "0001").latest() == {"epoch": 1}


@pytest.mark.parametrize("epoch_s", [0.5, 3.0, 60.0])
def test_writing_checkpoints_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch, epoch_s):
    clock = SimpleNamespace(now=1000.0)
    write = Folder.write

    def slow(self, name, data):
        clock.now += 0.5  # two files: a second each time
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", slow)
    monkeypatch.setattr(checkpoint, "MOST_OF_THE_TIME", 0.05)
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: clock.now))
    checkpoints, written = Checkpoints(Folder(tmp_path), "a"), []
    for epoch in range(1, 101):
        clock.now += epoch_s
        if checkpoints.is_due:
            written.append(epoch)
            checkpoints.save(epoch, state("a", epoch))
    gaps = {after - before for before, after in pairwise(written)}
    assert written[0] == 1
    assert gaps == {math.ceil(19 / epoch_s)}  # no less often than that allows either
    assert same(Checkpoints(Folder(tmp_path), "a").latest(), state("a", written[-1]))
