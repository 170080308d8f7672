"""Augmentation: what comes out is a crop, a mirror image or a hole, and nothing else."""

import itertools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as V

from tests.trainables.tiny import config
from trainables import sections
from trainables.augment import Augment, normalise

MEAN, STD = torch.tensor([0.3, 0.6]), torch.tensor([0.2, 0.4])
PLAIN = torch.zeros(1), torch.ones(1) / 255  # normalising by these leaves the pixels


def augmented(images, seed: int = 0, **settings):
    off = {"crop_padding": 0, "flip": False, "cutout": 0}
    mean, std = PLAIN if images.shape[1] == 1 else (MEAN, STD)
    augment = Augment(8, **{**off, **settings})
    return augment(images, mean, std, torch.Generator().manual_seed(seed))


def pictures(count: int, height: int = 5, width: int = 4):
    """The same picture, every pixel unlike the others and none black.  # [B, 1, H, W]"""
    picture = torch.arange(1, height * width + 1, dtype=torch.uint8).reshape(1, 1, height, width)
    return picture.expand(count, -1, -1, -1)


def test_all_off_is_plain_normalising():
    images = torch.randint(256, (6, 2, 5, 4), dtype=torch.uint8)
    expected = torch.empty(6, 2, 5, 4)
    for channel in range(2):
        expected[:, channel] = (images[:, channel] / 255 - MEAN[channel]) / STD[channel]
    torch.testing.assert_close(augmented(images), expected)
    torch.testing.assert_close(normalise(images, MEAN, STD), expected)


@pytest.mark.parametrize("padding", [1, 2])
def test_every_crop_is_a_slice_of_the_padded_image_and_every_offset_is_drawn(padding):
    images = pictures(600)
    cropped = augmented(images, crop_padding=padding)
    padded = F.pad(images[0, 0].float(), (padding,) * 4)
    choices = range(2 * padding + 1)
    slices = {
        (down, right): padded[down : down + 5, right : right + 4]
        for down in choices
        for right in choices
    }
    drawn = Counter()
    for image in cropped:
        (offset,) = [at for at, part in slices.items() if torch.allclose(part, image[0])]
        drawn[offset] += 1
    assert set(drawn) == set(slices)
    assert min(drawn.values()) > 600 / len(slices) / 3


def test_a_crop_takes_all_channels_of_an_image_together():
    images = torch.arange(1, 41, dtype=torch.uint8).reshape(1, 2, 5, 4).repeat(50, 1, 1, 1)
    one = torch.ones(2)
    cropped = Augment(5, crop_padding=1, flip=False)(
        images, torch.zeros(2), one / 255, torch.Generator().manual_seed(0)
    )
    inside = cropped[:, 0] > 0.5
    torch.testing.assert_close(
        (cropped[:, 1] - cropped[:, 0])[inside], torch.tensor(20.0).expand(int(inside.sum()))
    )


def test_half_of_the_images_are_mirrored_and_the_others_are_not():
    images = pictures(400)
    flipped = augmented(images, flip=True)
    mirrored = 0
    for image, original in zip(flipped, images.float(), strict=True):
        same, mirror = (torch.allclose(image, o) for o in (original, original.flip(2)))
        assert same != mirror
        mirrored += mirror
    assert 160 < mirrored < 240


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_a_cutout_is_one_square_around_a_centre_anywhere(side):
    images = pictures(800, 6, 7)
    cut = augmented(images, cutout=side)
    low, high = -(side // 2), side - side // 2
    holes = {}
    for row in range(6):
        for column in range(7):
            hole = torch.zeros(6, 7, dtype=torch.bool)
            hole[max(0, row + low) : row + high, max(0, column + low) : column + high] = True
            holes[row, column] = hole
    drawn = Counter()
    for image, original in zip(cut, images.float(), strict=True):
        hole = image[0] == 0
        (centre,) = [at for at, expected in holes.items() if torch.equal(hole, expected)]
        drawn[centre] += 1
        torch.testing.assert_close(image[0][~hole], original[0][~hole])
    assert set(drawn) == set(holes)
    assert int((cut == 0).flatten(1).sum(1).max()) == side * side


def test_a_cutout_is_the_mean_in_every_channel():
    images = torch.full((20, 2, 6, 6), 255, dtype=torch.uint8)
    holes = augmented(images, cutout=3) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    assert holes.any(dim=(1, 2, 3)).all()


def test_a_cutout_larger_than_the_image_covers_it():
    assert not augmented(pictures(5), cutout=50).any()


def test_the_draws_are_the_generators():
    images = torch.randint(256, (16, 2, 6, 6), dtype=torch.uint8)
    settings = {"crop_padding": 2, "flip": True, "cutout": 2}
    first = augmented(images, seed=3, **settings)
    torch.rand(5)
    assert torch.equal(augmented(images, seed=3, **settings), first)
    assert not torch.equal(augmented(images, seed=4, **settings), first)


def test_the_images_given_are_left_as_they_were():
    images = torch.randint(256, (16, 2, 6, 6), dtype=torch.uint8)
    before = images.clone()
    augmented(images, crop_padding=2, flip=True, cutout=2)
    assert torch.equal(images, before)


# ---- a crop of random area and shape


def test_the_crop_that_is_not_given_follows_the_size_of_the_images():
    for size, padding, area in ((8, 4, None), (64, 4, None), (65, 0, 0.08), (224, 0, 0.08)):
        augment = Augment(size)
        assert (augment.crop_padding, augment.crop_area) == (padding, area)
    assert Augment(32, crop_area=0.3).crop_padding == 0
    assert Augment(224, crop_padding=9).crop_area is None
    off = Augment(224, crop_padding=0)
    assert (off.crop_padding, off.crop_area) == (0, None)
    assert Augment(224, crop_padding=0, crop_area=0.5).crop_area == 0.5


def test_two_ways_to_crop_are_refused():
    with pytest.raises(ValueError, match=r"^augment\.crop_area: .*give one"):
        Augment(32, crop_padding=4, crop_area=0.08)


def test_a_config_with_two_ways_to_crop_is_refused_before_anything_is_built():
    both = config(augment={"crop_padding": 4, "crop_area": 0.08})
    assert sections.problems(both) == [
        ("augment.crop_area", "crop_padding is the other way to crop; give one")
    ]
    assert sections.problems(config(augment={"crop_padding": None, "crop_area": 0.08})) == []
    (found,) = sections.problems(config(augment={"crop_padding": None, "crop_area": 1.5}))
    assert found[0] == "augment.crop_area"


def test_a_resized_crop_is_torchvisions_resize_of_a_part_of_the_image():
    """Every crop is found among those of all boxes; a smallest area of 1/4 and shapes from 3:4 to
    4:3 leave the others out."""
    size, count = 12, 150
    noise = torch.randint(256, (1, 2, size, size), dtype=torch.uint8).expand(count, -1, -1, -1)
    draws = torch.Generator().manual_seed(0)
    plain = torch.zeros(2), torch.ones(2) / 255
    crops = Augment(size, crop_area=0.25, flip=False)(noise, *plain, draws)
    sides = range(1, size + 1)
    every = [
        (top, left, height, width)
        for height, width in itertools.product(sides, sides)
        for top in range(size - height + 1)
        for left in range(size - width + 1)
    ]
    drawn = Counter()
    whole = noise[0].float()
    table = torch.stack([V.resized_crop(whole, *box, [size, size]) for box in every])
    for crop in crops:
        distance = (table - crop).abs().flatten(1).amax(dim=1)
        assert distance.min() < 0.01
        drawn[every[distance.argmin()]] += 1
    for _, _, height, width in drawn:
        assert 0.25 * size * size - size <= height * width <= size * size
        assert 0.6 < width / height < 1.7  # 3:4 to 4:3 before the sides were rounded
    assert len(drawn) > 100
    areas = [height * width for _, _, height, width in drawn]
    assert min(areas) < 0.4 * size * size
    assert max(areas) > 0.85 * size * size


def test_a_crop_is_drawn_for_each_image():
    crops = augmented(pictures(40, 9, 9), crop_padding=None, crop_area=0.08)
    assert len({crop.numpy().tobytes() for crop in crops}) > 30


def test_a_crop_of_all_the_area_is_the_whole_square():
    images = torch.randint(256, (30, 1, 16, 16), dtype=torch.uint8)
    crops = augmented(images, crop_padding=None, crop_area=1.0)
    torch.testing.assert_close(crops, images.float(), atol=0.01, rtol=0)


def test_what_was_cropped_already_is_not_cropped_again():
    images = torch.randint(256, (6, 1, 9, 9), dtype=torch.uint8)
    augment = Augment(9, crop_area=0.1, flip=False)
    draws = torch.Generator().manual_seed(0)
    torch.testing.assert_close(augment(images, *PLAIN, draws, is_cropped=True), images.float())
