"""Image files: every mode and shape, whole or cut off, one error for all that are damaged."""

import numpy as np
import pytest
from PIL import Image

from tests.trainables.layouts import cut, photograph
from trainables import decoding
from trainables.decoding import DataError


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("RGB", "webp")],
)
@pytest.mark.parametrize("size", [(300, 120), (90, 200), (40, 60), (128, 128)])
def test_the_shorter_side_is_reduced_and_never_enlarged(tmp_path, mode, suffix, size):
    path = tmp_path / f"x.{suffix}"
    photograph(path, size=size, mode=mode)
    image = decoding.reduced(str(path), 100)
    assert image.dtype == np.uint8
    height, width, channels = image.shape
    assert channels == 3
    assert (height, width) == decoding.reduced_size(*decoding.look(str(path)), 100)
    assert min(height, width) == min(100, *size)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


def test_what_is_reduced_is_pillows_bilinear_resize(tmp_path):
    photograph(tmp_path / "x.png", size=(300, 150))
    with Image.open(tmp_path / "x.png") as image:
        expected = np.asarray(image.resize((200, 100), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decoding.reduced(str(tmp_path / "x.png"), 100), expected)


def test_a_jpeg_far_too_large_looks_the_same(tmp_path):
    """It is decoded at a fraction of its size."""
    photograph(tmp_path / "x.jpg", size=(1200, 900))
    with Image.open(tmp_path / "x.jpg") as image:
        expected = np.asarray(image.resize((133, 100), Image.Resampling.BILINEAR)).astype(int)
    found = decoding.reduced(str(tmp_path / "x.jpg"), 100)
    assert found.shape == (100, 133, 3)
    assert np.abs(found - expected).max() < 12


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_a_look_finds_a_file_that_was_cut_off(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    photograph(path, size=(70, 50))
    assert decoding.look(str(path)) == (50, 70)
    cut(path)
    with pytest.raises(decoding.UNREADABLE):
        decoding.look(str(path))


def test_a_whole_jpeg_with_something_behind_it_is_no_damage(tmp_path):
    path = tmp_path / "x.jpg"
    photograph(path, size=(70, 50))
    path.write_bytes(path.read_bytes() + bytes(300))
    assert decoding.look(str(path)) == (50, 70)


def test_all_that_cannot_be_read_is_one_error(tmp_path):
    paths = [str(tmp_path / f"{index}.jpg") for index in range(12)]
    for path in paths[:3]:
        photograph(tmp_path / path)
    cut(tmp_path / "1.jpg")
    (tmp_path / "3.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^10 of 12 images cannot be read: ") as raised:
        decoding.each(paths, lambda _, path: decoding.look(path))
    text = str(raised.value)
    assert "\n" not in text
    assert f"{paths[1]}: " in text
    assert f"{paths[3]}: cannot identify image file" in text
    assert f"{paths[4]}: No such file or directory" in text
    assert paths[11] not in text  # five are shown


def test_results_come_in_order_with_their_index(tmp_path):
    found = decoding.each(["a", "b", "c"], lambda index, path: (index, path))
    assert found == [(0, "a"), (1, "b"), (2, "c")]
