"""Order, companions and evaluation, on images whose pixels are their own numbers."""

import torch

from trainables import batches
from trainables.augment import Augment
from trainables.data import Sets
from trainables.sources import Images

OFF = Augment(crop_padding=0, flip=False)


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
    augment = Augment(crop_padding=0, flip=False, cutout=2)
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
