"""Fine-grained sets: birds and dogs, in the split that was published with them."""

from collections.abc import Callable
from pathlib import Path

import torch

from trainables.bounds import Count
from trainables.decoding import DataError
from trainables.images import Files, Images, Source
from trainables.sources._layout import lines, locate

__all__ = ["cub200", "stanford_dogs"]

_CUB = "CUB_200_2011.tgz from the CUB-200-2011 page of Caltech Vision and unpack it there"
_DOGS = "images.tar and lists.tar from the Stanford Dogs page and unpack both there"
_SHOWN = 5


def cub200(root: Path, *, image_size: Count = 224) -> Source:
    """CUB-200-2011: 5,994 + 5,794 photographs of birds, 200 classes, in the official split. (That
    of the released code of arXiv:2305.09183 trains on some classes and tests on others.)"""
    tables = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    folder = locate(root, ("CUB_200_2011",), (*tables, "images/"), _CUB)
    names, numbers, split, classes = (_table(folder / table) for table in tables)
    label = {number: index for index, number in enumerate(classes)}
    problems = [
        f"{table} does not number the images as images.txt does"
        for table, rows in zip(tables[1:3], (numbers, split), strict=True)
        if rows.keys() != names.keys()
    ]
    problems += _odd(tables[1], numbers, lambda value: value in label, "not in classes.txt")
    problems += _odd(tables[2], split, lambda value: value in ("0", "1"), "neither 0 nor 1")
    if problems:
        raise DataError(f"{folder}: {'; '.join(problems)}")

    def part(wanted: str) -> Files:
        rows = [row for row in names if split[row] == wanted]
        labels = torch.tensor([label[numbers[row]] for row in rows], dtype=torch.long)
        return Files(folder / "images", [names[row] for row in rows], labels, image_size)

    return Source(tuple(classes.values()), part("1").loaded(), lambda: part("0").loaded())


def stanford_dogs(root: Path, *, image_size: Count = 224) -> Source:
    """Stanford Dogs: 12,000 + 8,580 photographs, 120 breeds, in the official split."""
    lists = ("train_list.mat", "test_list.mat")
    folder = locate(root, ("stanford_dogs", "StanfordDogs"), (*lists, "Images/"), _DOGS)

    def part(table: str) -> tuple[tuple[str, ...], Files]:
        names, labels = _matlab_list(folder / table)
        breeds = sorted(
            {(label, name.split("/")[0]) for label, name in zip(labels, names, strict=True)}
        )
        if [label for label, _ in breeds] != list(range(len(breeds))):
            raise DataError(f"{folder / table}: its labels are not one a folder, from 1 on")
        files = Files(folder / "Images", names, torch.tensor(labels), image_size)
        return tuple(breed for _, breed in breeds), files

    breeds, train = part(lists[0])

    def test() -> Images | Files:
        others, files = part(lists[1])
        if others != breeds:
            raise DataError(f"{folder}: {' and '.join(lists)} number the breeds differently")
        return files.loaded()

    classes = tuple(breed.partition("-")[2] or breed for breed in breeds)  # n02085620-Chihuahua
    return Source(classes, train.loaded(), test)


def _table(path: Path) -> dict[str, str]:
    """A text file of lines `number value`. Errors: DataError."""
    rows = [line.split(maxsplit=1) for line in lines(path) if line.strip()]
    odd = [str(index) for index, row in enumerate(rows, 1) if len(row) != 2]
    if odd or not rows:
        what = f"line {', '.join(odd[:_SHOWN])}: not a number and a value" if odd else "it is empty"
        raise DataError(f"{path}: {what}")
    return {number: value.strip() for number, value in rows}


def _odd(table: str, rows: dict[str, str], is_right: Callable[[str], bool], what: str) -> list[str]:
    odd = [row for row, value in rows.items() if not is_right(value)]
    return [f"{table}: {what} at the images {', '.join(odd[:_SHOWN])}"] if odd else []


def _matlab_list(path: Path) -> tuple[list[str], list[int]]:
    """The authors' list: `file_list`, paths below Images/, and `labels`, here from 0 on.
    Errors: DataError."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        names = [str(row.item()) for row in content["file_list"].flatten()]
        labels = [int(label) - 1 for label in content["labels"].flatten()]
        if len(names) != len(labels) or not names:
            raise ValueError(f"{len(names)} names and {len(labels)} labels")
        return names, labels
    except Exception as error:  # noqa: BLE001 - damage takes any form
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a list of images: {what}") from None
