"""Image files of any size and mode to RGB pixels; all that cannot be read are named in one
error."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

# Pillow's ways to say that a file is no image, or a damaged one.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

_SHOWN = 5
_ENDS = {"JPEG": (b"\xff\xd9", 2), "PNG": (b"IEND", 12)}  # what the last bytes of a whole file hold


class DataError(ValueError):
    """A data set that is missing or damaged; the message says which and how to mend it."""


def nothing() -> None:
    """What is called where nobody listens."""


def each(
    paths: Sequence[str], function: Callable[[int, str], Any], beat: Callable[[], None] = nothing
) -> list:
    """The function of every file with its index, in order. beat: called after each.
    Errors: DataError that counts the files that cannot be read and names the first."""

    def attempt(index: int, path: str) -> Any:
        try:
            return function(index, path)
        except UNREADABLE as error:
            return DataError(damage(path, error))

    results = []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(attempt, range(len(paths)), paths):
            results.append(result)
            beat()
    damaged = [str(result) for result in results if isinstance(result, DataError)]
    if damaged:
        raise DataError(unreadable(damaged, len(paths)))
    return results


def damage(path: str, error: Exception) -> str:
    """What is wrong with the file, in one line."""
    known = isinstance(error, OSError) and error.errno is not None
    words = os.strerror(error.errno) if known else " ".join(str(error).split())
    return f"{path}: {words or type(error).__name__}"


def unreadable(damaged: Sequence[str], count: int) -> str:
    """What is said of all damaged files among `count`."""
    return f"{len(damaged)} of {count} images cannot be read: {'; '.join(damaged[:_SHOWN])}"


def header_size(path: str) -> tuple[int, int]:
    """Height and width as the header says."""
    with Image.open(path) as image:
        return image.height, image.width


def look(path: str) -> tuple[int, int]:
    """Height and width, after a look at whether the file ends as it should; only one that does not
    is decoded to be sure."""
    with Image.open(path) as image:
        size = image.height, image.width
        mark, reach = _ENDS.get(image.format, (b"", 0))
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - reach))
            ends_well = bool(mark) and mark in file.read()
        if not ends_well:
            image.load()
    return size


def reduced_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Height and width of what `reduced` makes of an image of that size."""
    scale = shorter_side / min(height, width)
    if scale >= 1:
        return height, width
    return max(shorter_side, round(height * scale)), max(shorter_side, round(width * scale))


def reduced(path: str, shorter_side: int) -> np.ndarray:
    """The image, made smaller where its shorter side is longer than `shorter_side`, never larger.
    # -> uint8 [H, W, 3]"""
    with Image.open(path) as image:
        height, width = reduced_size(image.height, image.width, shorter_side)
        image.draft(None, (width, height))  # a JPEG far too large is decoded at 1/2, 1/4 or 1/8
        rgb = _as_rgb(image)
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(rgb)


def square(path: str, size: int) -> np.ndarray:
    """The image with its shorter side resized to `size`, cut around its centre.
    # -> uint8 [size, size, 3]"""
    with Image.open(path) as image:
        rgb = _as_rgb(image)
    if rgb.size != (size, size):
        scale = size / min(rgb.size)
        wide, high = (max(size, round(side * scale)) for side in rgb.size)
        left, top = (wide - size) // 2, (high - size) // 2
        rgb = rgb.resize((wide, high), Image.Resampling.BILINEAR).crop(
            (left, top, left + size, top + size)
        )
    return np.asarray(rgb)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255, not scale
        grey = np.clip(np.asarray(image), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
