"""Folders of any kind of image: modes, sizes, layouts, damage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables import data
from trainables.images import Images
from trainables.sources import DataError
from trainables.sources.folder import imagefolder


def picture(size=(12, 12), value: int = 100) -> Image.Image:
    return Image.new("RGB", size, (value, value // 2, 255 - value))


def folder(
    root: Path, classes=("ape", "bee"), each: int = 3, size=(12, 12), first: int = 0
) -> Path:
    """Images whose red is a number of their own."""
    number = first
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(size, number).save(root / name / f"{i}.png")
            number += 1
    return root


def reds(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "grey-tif"])
def test_every_mode_of_image_is_read_as_rgb(tmp_path, mode):
    """A vertical edge: the left half dark, the right half light, whatever the file holds."""
    folder(tmp_path)
    values = np.zeros((12, 12), dtype=np.uint8)
    values[:, 6:] = 200 if mode != "1" else 255
    grey = Image.fromarray(values)
    path = tmp_path / "ape" / "edge.png"
    if mode == "CMYK":
        path = path.with_suffix(".jpg")
        grey.convert("CMYK").save(path, quality=95)
    elif mode == "I;16":
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    elif mode == "grey-tif":
        path = path.with_suffix(".tif")
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    elif mode == "P":
        grey.quantize().save(path)
    else:
        grey.convert("RGB").convert(mode).save(path)
    pixels = imagefolder(tmp_path).train.pixels
    assert pixels.shape == (7, 3, 12, 12)
    edge = pixels[3].numpy().astype(int)  # after 0.png, 1.png and 2.png
    assert np.abs(edge - values.astype(int)).max() <= (12 if mode == "CMYK" else 1)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    folder(tmp_path)
    image = picture(value=80).quantize()
    image.save(tmp_path / "ape" / "9.png", transparency=bytes([128] * 8))
    assert imagefolder(tmp_path).train.pixels[3, :, 0, 0].tolist() == [80, 40, 175]


def test_labels_follow_the_sorted_names_of_the_folders(tmp_path):
    folder(tmp_path, ("zebra", "ape", "Bee"), each=2)
    source = imagefolder(tmp_path)
    assert source.classes == ("Bee", "ape", "zebra")
    assert source.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert reds(source.train) == [4, 5, 2, 3, 0, 1]
    assert source.train.pixels.dtype == torch.uint8


def test_what_is_no_image_is_left_out_and_folders_below_a_class_are_not(tmp_path):
    folder(tmp_path)
    (tmp_path / "ape" / "notes.txt").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").write_text("x")
    (tmp_path / "bee" / "more").mkdir()
    picture(value=77).save(tmp_path / "bee" / "more" / "x.PNG")
    source = imagefolder(tmp_path)
    assert source.classes == ("ape", "bee")
    assert reds(source.train) == [0, 1, 2, 3, 4, 5, 77]


@pytest.mark.parametrize(
    ("sizes", "asked", "side"),
    [
        ([(12, 12)], None, 12),
        ([(64, 64)], None, 64),
        ([(65, 65)], None, 64),
        ([(12, 14)], None, 64),
        ([(12, 12), (14, 14)], None, 64),
        ([(12, 12), (90, 30)], 16, 16),
    ],
)
def test_the_size_is_the_images_own_when_they_share_a_small_one(tmp_path, sizes, asked, side):
    folder(tmp_path, size=sizes[0])
    picture(sizes[-1]).save(tmp_path / "ape" / "9.png")
    assert imagefolder(tmp_path, image_size=asked).train.pixels.shape == (7, 3, side, side)


def test_a_resized_image_keeps_its_shape_and_is_cut_around_its_centre(tmp_path):
    folder(tmp_path)
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 30:] = 255
    wide[:, :10], wide[:, 50:] = 99, 99  # outside the middle square
    Image.fromarray(wide).save(tmp_path / "ape" / "9.png")
    image = imagefolder(tmp_path, image_size=10).train.pixels[3, 0]
    assert image[:, :4].max() == 0
    assert image[:, 6:].min() == 255


@pytest.mark.parametrize("parts", [(), ("test",), ("val",), ("val", "test")])
def test_layouts(tmp_path, parts):
    if parts:
        folder(tmp_path / "train", each=10)
        for number, part in enumerate(parts):
            folder(tmp_path / part, each=4, first=100 * (number + 1))
    else:
        folder(tmp_path, each=10)
    search = data.build("imagefolder", root=str(tmp_path), validation_fraction=0.25)
    final = data.build("imagefolder", root=str(tmp_path), final=True)
    if not parts:
        assert len(search.train) + len(search.held_out) == len(final.train) == 16
        assert not set(reds(search.train) + reds(search.held_out)) & set(reds(final.held_out))
    elif len(parts) == 1:
        assert sorted(reds(search.train) + reds(search.held_out)) == list(range(20))
        assert reds(final.train) == list(range(20))
        assert reds(final.held_out) == list(range(100, 108))
    else:
        assert reds(search.train) == list(range(20))
        assert reds(search.held_out) == list(range(100, 108))
        assert sorted(reds(final.train)) == list(range(20)) + list(range(100, 108))
        assert reds(final.held_out) == list(range(200, 208))


def test_a_damaged_test_image_does_not_disturb_the_search(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test")
    (tmp_path / "test" / "ape" / "0.png").write_bytes(b"no image")
    data.build("imagefolder", root=str(tmp_path))
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read: .*test/ape/0\.png"):
        data.build("imagefolder", root=str(tmp_path), final=True)


def test_all_damaged_images_are_named_in_one_error(tmp_path):
    folder(tmp_path, each=4)
    whole = (tmp_path / "ape" / "0.png").read_bytes()
    (tmp_path / "ape" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "ape" / "2.png").write_bytes(b"")
    (tmp_path / "bee" / "3.png").write_bytes(b"\0" * 500)
    with pytest.raises(DataError, match="3 of 8 images cannot be read: ") as raised:
        imagefolder(tmp_path, image_size=12)
    for name in ("ape/1.png", "ape/2.png", "bee/3.png"):
        assert str(tmp_path / name) in str(raised.value)
    assert "ape/0.png" not in str(raised.value)


def test_hundreds_of_damaged_images_make_a_short_error(tmp_path):
    folder(tmp_path, each=2)
    for i in range(300):
        (tmp_path / "bee" / f"x{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="300 of 304 images") as raised:
        imagefolder(tmp_path)
    assert len(str(raised.value)) < 3000


def test_parts_of_unlike_classes_are_refused(tmp_path):
    folder(tmp_path / "train", ("ape", "bee"))
    folder(tmp_path / "test", ("ape", "cat"))
    with pytest.raises(DataError, match="train/ and test/ differ in the classes bee, cat"):
        imagefolder(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no images in cat"):
        imagefolder(tmp_path)


@pytest.mark.parametrize("classes", [(), ("ape",)])
def test_fewer_than_two_classes_are_refused(tmp_path, classes):
    folder(tmp_path, classes)
    with pytest.raises(DataError, match=f"{len(classes)} class folder"):
        imagefolder(tmp_path)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match="missing: no such folder"):
        data.build("imagefolder", root=str(tmp_path / "missing"))


@pytest.mark.parametrize("parts", [("val", "test"), ("training", "val"), ("Train", "Test")])
def test_parts_without_train_are_not_taken_for_classes(tmp_path, parts):
    for part in parts:
        folder(tmp_path / part)
    with pytest.raises(DataError, match="but no train/ with class folders"):
        imagefolder(tmp_path)


def test_a_class_may_bear_the_name_of_a_part(tmp_path):
    folder(tmp_path, classes=("test", "ape"))
    assert imagefolder(tmp_path).classes == ("ape", "test")
