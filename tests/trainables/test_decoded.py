"""Decoded images: the same from memory and from the disk, in memory only when all fit."""

import pytest
import torch

from tests.trainables.layouts import cut, damage, folder, photograph
from trainables import decoded, decoding, listing, memory
from trainables.decoded import Decoded, fetch
from trainables.decoding import DataError
from trainables.images import Files

SIDE = 82  # what the shorter side is reduced to for squares of 72


@pytest.fixture
def parts(tmp_path) -> tuple[Files, Files]:
    """Six and three images of many sizes and modes."""
    root = folder(tmp_path, ("ape", "bee"), each=3)
    photograph(root / "ape" / "0.jpg", 50, (300, 120), "L")
    photograph(root / "bee" / "0.jpg", 51, (60, 200), "CMYK")
    photograph(root / "bee" / "1.png", 52, (500, 90), "P")
    every = listing.read(root).files(72)
    assert len(every) == 7
    return every.take(torch.arange(4)), every.take(torch.arange(4, 7))


def images(found: Decoded) -> list[torch.Tensor]:
    shared = found.prepare()
    return [fetch(found.place(row), shared, found.shorter_side) for row in range(found.count)]


def test_images_are_the_same_from_memory_and_from_the_disk(parts):
    held, not_held = Decoded(parts, 1.0), Decoded(parts, 0.0)
    assert isinstance(held.prepare(), memory.Shared)
    assert not_held.prepare() is None
    paths = [path for part in parts for path in part.paths()]
    for row, (one, other) in enumerate(zip(images(held), images(not_held), strict=True)):
        assert torch.equal(one, other)
        expected = torch.from_numpy(decoding.reduced(paths[row], SIDE)).permute(2, 0, 1)
        assert torch.equal(one, expected)


def test_each_image_that_is_brought_into_memory_is_a_sign_of_life(parts):
    """Of a large set that takes longer than a training may stand still."""
    beats = []
    Decoded(parts, 1.0).prepare(lambda: beats.append(1))
    assert len(beats) == 7


def test_they_are_held_when_the_last_byte_fits(parts):
    size = sum(image.numel() for image in images(Decoded(parts, 0.0)))
    assert len(Decoded(parts, size / 2**30).prepare().pixels) == size
    assert Decoded(parts, (size - 1) / 2**30).prepare() is None


def test_by_default_they_take_half_of_this_process_share_of_the_free_memory(parts, monkeypatch):
    size = sum(image.numel() for image in images(Decoded(parts, 0.0)))
    monkeypatch.setattr(decoded.os, "cpu_count", lambda: 4)  # the tests use one thread
    for free, fits in ((8 * size, True), (8 * size - 8, False)):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        assert (Decoded(parts, None).prepare() is not None) == fits


def test_images_that_another_trial_holds_need_no_room(parts, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0)
    assert Decoded(parts, None).prepare() is None
    others = Decoded(parts, 1.0).prepare()
    assert Decoded(parts, None).prepare().pixels.tolist() == others.pixels.tolist()
    (parts[0].root / "ape" / "2.jpg").touch()
    assert Decoded(parts, None).prepare() is None, "a file has changed since"


def test_a_file_is_read_once_however_often_it_is_asked_for(parts, monkeypatch):
    found = Decoded(parts, 1.0)
    shared = found.prepare()
    monkeypatch.setattr(decoding, "reduced", None)
    assert found.prepare() is shared
    assert len(images(found)) == 7


def test_every_file_is_looked_at_before_the_training(parts):
    cut(parts[0].root / "ape" / "2.jpg")
    (parts[1].root / "bee" / "2.jpg").unlink()
    with pytest.raises(DataError, match="2 of 7 images cannot be read: ") as raised:
        Decoded(parts, None)
    assert "ape/2.jpg: " in str(raised.value)
    assert "bee/2.jpg: No such file" in str(raised.value)


def test_damage_within_is_found_when_all_are_decoded(parts):
    photograph(parts[1].root / "bee" / "1.png", 60)
    damage(parts[1].root / "bee" / "1.png")
    found = Decoded(parts, 1.0)
    with pytest.raises(DataError, match=r"1 of 7 images cannot be read: .*bee/1\.png"):
        found.prepare()


def test_of_many_files_a_sample_is_looked_at(parts, monkeypatch):
    monkeypatch.setattr(decoded, "LOOKED_AT", 6)
    monkeypatch.setattr(decoded, "SAMPLED", 2)
    looked, inner = [], decoding.look
    monkeypatch.setattr(decoding, "look", lambda path: (looked.append(path), inner(path))[1])
    found = Decoded(parts, 1.0)
    assert len(looked) == 2
    assert found.prepare() is not None  # all had to be looked at to hold them
    assert len(looked) == 9
    assert Decoded(parts, 0.0).prepare() is None
    assert len(looked) == 11
