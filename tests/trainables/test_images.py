"""Sets of images: parts of them, what tells them apart, which of many are looked at."""

from pathlib import Path

import pytest
import torch

from tests.trainables.layouts import folder, photograph
from trainables import images, listing
from trainables.decoding import DataError
from trainables.images import Files, Images, sample


@pytest.fixture
def files(tmp_path) -> Files:
    return listing.read(folder(tmp_path / "a", each=3)).files(72)


def test_parts_keep_names_and_labels_together(files, tmp_path):
    part = files.take(torch.tensor([5, 0, 7]))
    assert list(part.names) == ["bee/2.jpg", "ape/0.jpg", "cat/1.jpg"]
    assert part.labels.tolist() == [1, 0, 2]
    other = listing.read(folder(tmp_path / "b", each=2)).files(72)
    both = part.joined(other)
    assert both.labels.tolist() == [1, 0, 2, 0, 0, 1, 1, 2, 2]
    contents = [Path(path).read_bytes() for path in (*part.paths(), *other.paths())]
    assert [Path(path).read_bytes() for path in both.paths()] == contents


def test_small_images_are_loaded_and_larger_ones_stay_files(files):
    assert files.loaded() is files
    assert files.image_shape == (3, 72, 72)
    small = Files(files.root, files.names, files.labels, 64).loaded()
    assert isinstance(small, Images)
    assert small.image_shape == (3, 64, 64)
    assert small.labels.tolist() == files.labels.tolist()


def test_the_identity_of_files_tells_changes_apart(files):
    first = files.identity()
    assert files.identity() == first
    assert Files(files.root, files.names, files.labels, 96).identity() != first
    assert Files(files.root, files.names, files.labels.flip(0), 72).identity() != first
    assert files.take(torch.arange(8)).identity() != first
    photograph(files.root / "ape" / "1.jpg", number=99)
    assert files.identity() != first


def test_files_that_are_gone_are_named(files):
    (files.root / "ape" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 9 .*ape/1\.jpg: No such file"):
        files.identity()


def test_of_many_files_only_a_sample_is_looked_at(files, monkeypatch):
    monkeypatch.setattr(images, "LOOKED_AT", 8)
    monkeypatch.setattr(images, "SAMPLED", 3)
    monkeypatch.setattr(images, "_HASHED", 2)
    first = files.identity()
    looked = {*sample(9, 8, 3), *sample(9, 2, 2)}
    for row in set(range(9)) - looked:
        (files.root / files.names[row]).unlink()
    assert files.identity() == first


def test_a_sample_is_even_sorted_and_the_same_each_time():
    assert sample(5, 5, 2) == [0, 1, 2, 3, 4]
    drawn = sample(1000, 999, 100)
    assert drawn == sample(1000, 999, 100) == sorted(set(drawn))
    assert len(drawn) == 100
    assert 400 < sum(drawn) / 100 < 600
