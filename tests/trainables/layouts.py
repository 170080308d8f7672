"""Small copies of image folders and of published data sets, in their exact layout."""

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

BIRDS = ("001.Albatross", "002.Auklet", "010.Bunting")
BREEDS = ("n01-Chihuahua", "n02-German_short-haired_pointer", "n03-Basset")
WNIDS = ("n01440764", "n01443537", "n02012849")


def photograph(path: Path, number: int = 0, size: tuple[int, int] = (100, 80), mode="RGB") -> None:
    """Smooth colours that no other number has, in the format of the path's suffix. size: (width,
    height)."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    (image.quantize() if mode == "P" else image.convert(mode)).save(path)


def numbered(path: Path, number: int, side: int = 80) -> None:
    """A grey PNG whose every pixel is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (number,) * 3).save(path)


def folder(root: Path, classes=("ape", "bee", "cat"), each: int = 6, **look) -> Path:
    """One folder of photographs a class."""
    number = 0
    for name in classes:
        for index in range(each):
            photograph(root / name / f"{index}.jpg", number, **look)
            number += 1
    return root


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage(path: Path) -> None:
    """Leaves the header and the end of a file and nothing right between them."""
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes(len(content) - 80) + content[-20:])


def cub200(root: Path, side: int = 80) -> Path:
    """Of each of three classes four images to train on and two to test on, in mixed order. The red
    of image `i` is `i`."""
    images, labels, split = [], [], []
    for number in range(1, 19):
        bird = (number * 7) % 3
        name = f"{BIRDS[bird]}/Bird_{number:04}.png"
        numbered(root / "images" / name, number, side)
        images.append(f"{number} {name}")
        labels.append(f"{number} {bird + 1}")
        split.append(f"{number} {int(number > 6)}")
    (root / "images.txt").write_text("\n".join(images) + "\n")
    (root / "image_class_labels.txt").write_text("\n".join(labels) + "\n")
    (root / "train_test_split.txt").write_text("\n".join(split) + "\n")
    classes = [f"{index} {bird}" for index, bird in enumerate(BIRDS, 1)]
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root


def stanford_dogs(root: Path, side: int = 80) -> Path:
    """Of each of three breeds four images to train on and two to test on."""
    lists = {"train_list.mat": ([], []), "test_list.mat": ([], [])}
    for number in range(18):
        breed = number % 3
        name = f"{BREEDS[breed]}/{number}.png"
        numbered(root / "Images" / name, number, side)
        names, labels = lists["train_list.mat" if number < 12 else "test_list.mat"]
        names.append(name)
        labels.append(breed + 1)
    for name, (names, labels) in lists.items():
        matlab_list(root / name, names, labels)
    return root


def matlab_list(path: Path, names: list[str], labels: list[int]) -> None:
    """A list as MATLAB wrote it: a column of cells, a column of numbers."""
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    content = {"file_list": cells, "labels": np.array(labels, dtype=np.uint8)[:, None]}
    scipy.io.savemat(path, content)


def caltech101(root: Path, side: int = 80) -> Path:
    """Three classes of ten images, and the folder that is none."""
    number = 0
    for name in ("accordion", "BACKGROUND_Google", "Faces", "yin_yang"):
        for index in range(10):
            numbered(root / "101_ObjectCategories" / name / f"image_{index:04}.png", number, side)
            number += 1
    return root


def imagenet(root: Path, side: int = 80) -> Path:
    """Three classes, eight images each in train/, two in val/ with numbers from 100 on."""
    for part, each, first in (("train", 8, 0), ("val", 2, 100)):
        for label, wnid in enumerate(WNIDS):
            for index in range(each):
                name = f"{part}_{index}.png"
                numbered(root / part / wnid / name, first + label * each + index, side)
    return root


def tiny_imagenet(root: Path) -> Path:
    """Three classes, four images each in train/, two in val/ with numbers from 100 on."""
    rows = []
    for index in range(12):
        wnid = WNIDS[index % 3]
        numbered(root / "train" / wnid / "images" / f"{wnid}_{index:02}.png", index, 64)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 9 9\n")
    for index in range(6):
        name = f"val_{index}.png"
        numbered(root / "val" / "images" / name, 100 + index, 64)
        rows.append(f"{name}\t{WNIDS[-1 - index % 3]}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    numbered(root / "test" / "images" / "test_0.png", 200, 64)
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    words = [f"{WNIDS[0]}\ttench", f"{WNIDS[1]}\tgoldfish, Carassius auratus", "n9\tcrane"]
    (root / "words.txt").write_text("\n".join([*words, f"{WNIDS[2]}\tcrane"]) + "\n")
    return root
