"""Order, companions and evaluation, on images whose pixels are their own numbers."""

import dataclasses

import pytest
import torch

from tests.trainables.layouts import folder
from trainables import batches, data, decoding, views
from trainables.augment import Augment, normalise
from trainables.data import Sets
from trainables.images import Images

OFF = Augment(4, crop_padding=0, flip=False)


def numbered(count: int, classes: int) -> Images:
    """Image i is full of i; its class is i modulo `classes`."""
    numbers = torch.arange(count)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return Images(pixels, numbers % classes)


def sets(count: int = 50, classes: int = 4, batch_size: int = 8) -> Sets:
    images = numbered(count, classes)
    names = tuple(map(str, range(classes)))
    return Sets(images, images, names, torch.zeros(1), torch.ones(1) / 255, batch_size)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_are_whole_no_image_comes_twice_and_indices_name_them():
    seen = []
    for inputs, labels, indices in batches.training(sets(), OFF, None, generator()):
        assert len(indices) == 8
        assert inputs[:, 0, 0, 0].round().long().tolist() == indices.tolist()
        assert labels.tolist() == (indices % 4).tolist()
        seen += indices.tolist()
    assert len(seen) == len(set(seen)) == 48


def test_the_order_is_random_and_the_generators():
    def order(seed):
        return torch.cat(list(batches.order(sets().train.labels, 8, None, generator(seed))))

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))
    assert not torch.equal(order(0), order(0).sort().values)


def test_fewer_images_than_a_batch_make_one_batch():
    (indices,) = batches.order(torch.zeros(5, dtype=torch.long), 8, None, generator())
    assert sorted(indices.tolist()) == list(range(5))


def test_a_view_is_the_same_image_augmented_for_itself():
    few = sets(count=255)
    augment = Augment(4, crop_padding=0, flip=False, cutout=2)
    differ = 0
    for inputs, labels, indices in batches.training(few, augment, "view", generator()):
        one, other = inputs.chunk(2)
        assert len(inputs) == 16
        assert torch.equal(*indices.chunk(2))
        assert torch.equal(*labels.chunk(2))
        differ += (one != other).flatten(1).any(dim=1).sum().item()
    assert differ > 100


def test_a_class_companion_is_another_image_of_the_class_drawn_evenly():
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 0])  # class 2 has one image alone
    met = {index: set() for index in range(7)}
    draws = generator()
    for _ in range(200):
        for indices in batches.order(labels, 3, "class", draws):
            for image, partner in zip(*indices.chunk(2), strict=True):
                assert labels[image] == labels[partner]
                met[image.item()].add(partner.item())
    assert met == {0: {2, 4, 6}, 1: {3}, 2: {0, 4, 6}, 3: {1}, 4: {0, 2, 6}, 5: {5}, 6: {0, 2, 4}}


def test_evaluation_goes_through_every_image_once_and_in_order():
    labels = torch.arange(2401)
    images = Images(torch.zeros(2401, 1, 2, 2, dtype=torch.uint8), labels)
    held = Sets(numbered(4, 2), images, ("a", "b"), torch.zeros(1), torch.ones(1), 8)
    seen = [batch for _, batch in batches.evaluation(held)]
    assert [len(batch) for batch in seen] == [1000, 1000, 401]
    assert torch.equal(torch.cat(seen), labels)


# ---- images that are files


@pytest.fixture
def photographs(tmp_path) -> Sets:
    folder(tmp_path, each=9)
    return data.build("imagefolder", root=str(tmp_path), image_size=72, batch_size=5, workers=0)


def epoch(found: Sets, augment: Augment, companion=None, seed: int = 0):
    """Images, labels and indices of one epoch."""
    made = list(batches.training(found, augment, companion, generator(seed)))
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


def test_files_come_in_whole_batches_once_with_their_labels(photographs):
    images, labels, indices = epoch(photographs, Augment(72))
    assert images.shape == (15, 3, 72, 72)  # 18 in batches of 5
    assert len(set(indices.tolist())) == 15
    assert torch.equal(labels, photographs.train.labels[indices])


def test_without_augmentation_files_are_their_centres(photographs):
    images, _, indices = epoch(photographs, Augment(72, crop_padding=0, flip=False))
    for image, row in zip(images, indices.tolist(), strict=True):
        pixels = decoding.reduced(photographs.train.path(row), views.shorter_side(72))
        expected = views.centre(torch.from_numpy(pixels).permute(2, 0, 1), 72)
        mean, std = photographs.mean, photographs.std
        torch.testing.assert_close(image, normalise(expected[None], mean, std)[0])


def test_an_epoch_of_files_is_its_generators(photographs):
    augment = Augment(72, cutout=20)
    first = epoch(photographs, augment, seed=1)
    assert all(map(torch.equal, epoch(photographs, augment, seed=1), first))
    other = epoch(photographs, augment, seed=2)
    assert not torch.equal(other[2], first[2])
    assert not torch.equal(other[0], first[0])


def test_every_option_of_the_augmentation_reaches_files(photographs):
    def differs(**settings) -> bool:
        plain = {"crop_padding": 0, "flip": False, "cutout": 0}
        augmented = epoch(photographs, Augment(72, **{**plain, **settings}))
        return not torch.equal(augmented[0], epoch(photographs, Augment(72, **plain))[0])

    assert not differs()
    for settings in ({"crop_padding": 9}, {"crop_area": 0.5}, {"flip": True}, {"cutout": 9}):
        assert differs(**settings)


def test_two_views_of_a_file_are_drawn_apart(photographs):
    images, labels, indices = epoch(photographs, Augment(72, flip=False), "view")
    for start in range(0, len(images), 10):
        one, other = images[start : start + 10].chunk(2)
        assert torch.equal(*indices[start : start + 10].chunk(2))
        assert torch.equal(*labels[start : start + 10].chunk(2))
        assert (one != other).flatten(1).any(dim=1).all()


def test_a_class_companion_of_a_file_is_of_its_class(photographs):
    _, labels, indices = epoch(photographs, Augment(72), "class")
    for start in range(0, len(labels), 10):
        assert torch.equal(*labels[start : start + 10].chunk(2))
        one, other = indices[start : start + 10].chunk(2)
        assert (one != other).all()


def test_evaluation_of_files_sees_each_once_in_order_as_its_centre(photographs):
    made = list(batches.evaluation(photographs))
    assert [len(labels) for _, labels in made] == [3]
    images, labels = made[0]
    assert torch.equal(labels, photographs.held_out.labels)
    for image, path in zip(images, photographs.held_out.paths(), strict=True):
        pixels = torch.from_numpy(decoding.reduced(path, views.shorter_side(72))).permute(2, 0, 1)
        expected = normalise(views.centre(pixels, 72)[None], photographs.mean, photographs.std)
        torch.testing.assert_close(image, expected[0])
    small = dataclasses.replace(photographs, batch_size=2)
    assert [len(labels) for _, labels in batches.evaluation(small)] == [2, 1]
