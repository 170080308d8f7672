"""What is seen of an image: torchvision's published views, their draws a seed's alone."""

import torch
from torchvision.transforms import v2

from trainables import views


def image(height: int, width: int):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_the_centre_is_that_of_imagenets_evaluation():
    evaluation = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    for size in ((300, 400), (256, 700), (100, 90)):
        assert torch.equal(views.centre(image(*size), 224), evaluation(image(*size)))


def test_the_centre_has_the_size_asked_for():
    for size in (65, 72, 96, 128, 299):
        assert views.shorter_side(size) >= size
        assert views.centre(image(120, 90), size).shape == (3, size, size)


def test_a_random_crop_is_torchvisions_under_its_seed():
    for seed in (3, 2**61 + 5):
        torch.manual_seed(seed)
        expected = v2.RandomResizedCrop(72, scale=(0.3, 1.0), antialias=True)(image(90, 120))
        assert torch.equal(views.random_crop(image(90, 120), 72, 0.3, seed), expected)


def test_a_random_crop_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first = views.random_crop(image(90, 120), 72, 0.08, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(9)
    assert torch.equal(views.random_crop(image(90, 120), 72, 0.08, seed=1), first)
    assert not torch.equal(views.random_crop(image(90, 120), 72, 0.08, seed=2), first)


def test_the_smallest_area_counts():
    whole = image(80, 80)
    smallest = [views.random_crop(whole, 80, 1.0, seed) for seed in range(5)]
    assert all(torch.equal(crop, whole) for crop in smallest)
    assert not torch.equal(views.random_crop(whole, 80, 0.08, 0), whole)
