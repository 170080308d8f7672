"""What is trained on and what is scored: exact shares, disjoint, the test part untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.layouts import folder, photograph
from trainables import data, decoded, decoding, sources
from trainables.images import Files, Images, Source, sample
from trainables.loading import BatchRequest
from trainables.sources import DataError

COUNTS = (10, 21, 33, 7)


def numbered(counts, first: int = 0) -> Images:
    """Images that carry their own number in two pixels, in shuffled order."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    numbers = torch.arange(len(labels)) + first
    pixels = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8)
    return Images(pixels.reshape(-1, 1, 1, 2), labels.long())


def numbers(images: Images) -> list[int]:
    high, low = images.pixels.long().flatten(1).T
    return (high * 256 + low).tolist()


def never() -> Images:
    raise AssertionError("the test part was read")


@pytest.fixture
def use(monkeypatch):
    """Makes a source the data set `mine`."""

    def use(counts=COUNTS, test=never, validation=None) -> list[Source]:
        made = []

        def mine(root) -> Source:
            made.append(Source(tuple("abcd"), numbered(counts), test, validation))
            return made[-1]

        known = {**sources.readers(), "mine": mine}
        monkeypatch.setattr(sources, "readers", lambda: known)
        return made

    return use


@pytest.mark.parametrize(
    ("fraction", "held"),
    [(0.1, (1, 2, 3, 1)), (0.25, (3, 5, 8, 2)), (0.5, (5, 11, 17, 4)), (0.99, (9, 20, 32, 6))],
)
def test_the_split_holds_out_the_same_share_of_every_class(use, fraction, held):
    use()
    sets = data.build("mine", validation_fraction=fraction)
    assert tuple(torch.bincount(sets.held_out.labels).tolist()) == held
    assert sorted(numbers(sets.train) + numbers(sets.held_out)) == list(range(sum(COUNTS)))
    whole = numbered(COUNTS)
    for part in (sets.train, sets.held_out):
        assert part.labels.tolist() == whole.labels[numbers(part)].tolist()


def test_the_split_follows_its_seed_and_nothing_else(use):
    made = use()

    def held_out(**settings):
        data._build.cache_clear()
        torch.rand(3)
        return numbers(data.build("mine", **{"validation_fraction": 0.3, **settings}).held_out)

    first = held_out()
    assert held_out() == held_out(batch_size=3) == first
    assert held_out(split_seed=1) != first
    assert held_out(split_seed=1) == held_out(split_seed=1)
    assert len(made) == 6


def test_one_set_serves_the_trials_of_a_process(use):
    made = use()
    one, two = data.build("mine", batch_size=2), data.build("mine", batch_size=5)
    assert len(made) == 1
    assert one.train.pixels.data_ptr() == two.train.pixels.data_ptr()
    assert (one.batch_size, two.batch_size) == (2, 5)


def test_the_search_never_touches_the_test_part(use):
    use(test=never)
    data.build("mine")
    use(test=never, validation=numbered(COUNTS, first=500))
    data._build.cache_clear()
    sets = data.build("mine")
    assert sorted(numbers(sets.train)) == list(range(sum(COUNTS)))  # nothing is split off
    assert min(numbers(sets.held_out)) == 500
    with pytest.raises(AssertionError, match="the test part was read"):
        data.build("mine", final=True)


@pytest.mark.parametrize("own_validation", [False, True])
def test_final_training_joins_train_and_validation_and_holds_out_the_test_part(use, own_validation):
    validation = numbered((2, 2, 2, 2), first=300) if own_validation else None
    use(test=lambda: numbered((3, 3, 3, 3), first=900), validation=validation)
    sets = data.build("mine", final=True)
    expected = list(range(sum(COUNTS))) + (list(range(300, 308)) if own_validation else [])
    assert sorted(numbers(sets.train)) == expected
    assert sorted(numbers(sets.held_out)) == list(range(900, 912))


@pytest.mark.parametrize("own_validation", [False, True])
def test_final_training_can_leave_out_what_the_search_scores_on(use, own_validation):
    validation = numbered((2, 2, 2, 2), first=300) if own_validation else None
    use(test=lambda: numbered((3, 3, 3, 3), first=900), validation=validation)
    split = {"split_seed": 2, "validation_fraction": 0.3}
    searched = data.build("mine", **split)
    final = data.build("mine", **split, final=True, train_on_validation=False)
    assert numbers(final.train) == numbers(searched.train)
    assert sorted(numbers(final.held_out)) == list(range(900, 912))
    assert final.unseen == searched.unseen == ({} if own_validation else split)
    assert data.build("mine", **split, final=True).unseen is None


def test_a_set_without_a_test_part_keeps_one_apart_from_every_search(use):
    use(test=None)
    final = data.build("mine", final=True)
    test = set(numbers(final.held_out))
    assert torch.bincount(final.held_out.labels).tolist() == [2, 4, 7, 1]
    for seed in range(4):
        sets = data.build("mine", split_seed=seed, validation_fraction=0.3)
        train, validation = set(numbers(sets.train)), set(numbers(sets.held_out))
        assert not test & (train | validation)
        assert not train & validation
        assert train | validation == set(numbers(final.train))


@pytest.mark.parametrize("counts", [(5, 1, 5, 5), (5, 0, 5, 5)])
def test_a_class_too_small_to_split_is_named(use, counts):
    use(counts)
    with pytest.raises(DataError, match=rf"a class to hold one out.*: b has {counts[1]}$"):
        data.build("mine")


def test_statistics_equal_numpys(use):
    sets = data.build("synthetic", images=200, channels=3)
    pixels = sets.train.pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(sets.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(sets.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_constant_channel_does_not_divide_by_zero():
    pixels = torch.full((4, 1, 2, 2), 7, dtype=torch.uint8)
    assert data._statistics(Images(pixels, torch.zeros(4)))[1].item() > 0


def test_the_fingerprint_tells_a_changed_set_and_a_changed_split_apart(use):
    use()
    one = data.build("mine").fingerprint()
    assert data.build("mine", batch_size=3).fingerprint() == one
    assert data.build("mine", split_seed=1).fingerprint() != one
    sets = data.build("mine")
    data._build.cache_clear()
    assert data.build("mine").fingerprint() == one
    sets.train.pixels[3, 0, 0, 0] += 1
    assert sets.fingerprint() != one


def test_real_digits():
    sets = data.build("digits", validation_fraction=0.25)
    assert sets.image_shape == (1, 8, 8)
    assert sets.classes == tuple("0123456789")
    assert len(sets.train) + len(sets.held_out) + len(
        data.build("digits", final=True).held_out
    ) == (1797)
    assert (sets.train.pixels.min(), sets.train.pixels.max()) == (0, 255)


# ---- images that are files


@pytest.fixture
def photographs(tmp_path) -> dict:
    """Settings of a set of 36 photographs of 4 classes, 7 or 8 of them to be held out."""
    folder(tmp_path / "set", classes="abcd", each=9)
    return {"name": "imagefolder", "root": str(tmp_path / "set"), "image_size": 72}


def test_large_images_stay_files_and_have_the_facts_of_a_set(photographs):
    sets = data.build(**photographs)
    assert isinstance(sets.train, Files)
    assert sets.image_shape == (3, 72, 72)
    assert sets.classes == tuple("abcd")
    assert torch.bincount(sets.train.labels).tolist() == [6, 6, 6, 6]
    assert torch.bincount(sets.held_out.labels).tolist() == [1, 1, 1, 1]
    assert sets.loader is not None
    assert data.build("synthetic").loader is None


def test_trials_of_a_process_share_decoded_images_and_not_their_workers(photographs):
    one, two = data.build(**photographs, workers=0), data.build(**photographs, workers=1)
    assert one.loader is not two.loader
    assert one.loader.decoded is two.loader.decoded
    assert (one.loader.workers, two.loader.workers) == (0, 1)


def test_statistics_of_files_are_those_of_their_centres(photographs, monkeypatch):
    photographs["workers"] = 0
    sets = data.build(**photographs)
    centres = torch.stack([pixels for batch in sets.loader.load(whole(sets)) for pixels in batch])
    mean, std = data._statistics(Images(centres[: len(sets.train)], sets.train.labels))
    torch.testing.assert_close((sets.mean, sets.std), (mean, std))
    data.forget()
    monkeypatch.setattr(data, "SAMPLED", 3)
    few = data.build(**photographs)
    rows = sample(len(few.train), 3, 3)
    expected = data._statistics(Images(centres[rows], few.train.labels))
    torch.testing.assert_close((few.mean, few.std), expected)


def whole(sets: data.Sets) -> list[BatchRequest]:
    return [BatchRequest(torch.arange(len(sets.train) + len(sets.held_out)))]


def test_nothing_is_measured_or_split_by_whether_memory_holds_the_images(photographs):
    one, two = (data.build(**photographs, cache_gib=gib) for gib in (0.0, 1.0))
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.std, two.std)
    assert one.train.names == two.train.names
    assert one.fingerprint() == two.fingerprint()


def test_the_fingerprint_of_files_tells_a_changed_set_apart(photographs):
    first = data.build(**photographs).fingerprint()
    data.forget()
    assert data.build(**photographs).fingerprint() == first
    assert data.build(**photographs, split_seed=1).fingerprint() != first
    assert data.build(**{**photographs, "image_size": 80}).fingerprint() != first
    photograph(Path(photographs["root"]) / "a" / "3.jpg", number=99)
    data.forget()
    assert data.build(**photographs).fingerprint() != first


def test_final_training_on_files_joins_train_and_validation(tmp_path):
    for part, each in (("train", 5), ("val", 2), ("test", 3)):
        folder(tmp_path / part, each=each)
    sets = data.build("imagefolder", root=str(tmp_path), image_size=72, final=True)
    assert len(sets.train) == 21
    assert len(sets.held_out) == 9
    assert all(Path(path).is_file() for path in (*sets.train.paths(), *sets.held_out.paths()))
    assert sum("/val/" in path for path in sets.train.paths()) == 6


def test_a_list_of_millions_is_sampled_and_not_decoded(photographs, monkeypatch):
    monkeypatch.setattr(decoded, "LOOKED_AT", 10)
    monkeypatch.setattr(decoded, "SAMPLED", 4)
    monkeypatch.setattr(data, "SAMPLED", 5)
    looked, read = [], []
    look, reduced = decoding.look, decoding.reduced
    monkeypatch.setattr(decoding, "look", lambda path: (looked.append(path), look(path))[1])
    monkeypatch.setattr(
        decoding, "reduced", lambda path, side: (read.append(path), reduced(path, side))[1]
    )
    data.build(**photographs)
    assert (len(looked), len(read)) == (4, 5)
