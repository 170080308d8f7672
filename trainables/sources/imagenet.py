"""ImageNet, and the part of it in small images that courses use."""

from pathlib import Path

import torch

from trainables import listing
from trainables.bounds import Count
from trainables.decoding import DataError
from trainables.images import Files, Images, Source
from trainables.sources._layout import lines, locate

__all__ = ["imagenet", "tiny_imagenet"]

_IMAGENET = (
    "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org and unpack each class "
    "into a folder of its own"
)
_TINY = "tiny-imagenet-200.zip from the course page of Stanford's CS231n and unpack it there"
_SHOWN = 5


def imagenet(root: Path, *, image_size: Count = 224) -> Source:
    """ILSVRC2012: `train/WNID/*.JPEG`, 1,281,167 images of 1,000 classes, and `val/WNID/*.JPEG`,
    50,000, which are the test part. Labels follow the sorted wnids. The images stay files whatever
    their size, and a sample of them is looked at."""
    folder = locate(root, (), ("train/", "val/"), _IMAGENET)
    train = listing.read(folder / "train")
    _must_be_sorted(folder / "val", train.classes)
    return Source(
        train.classes,
        train.files(image_size),
        lambda: listing.read(folder / "val").files(image_size),
    )


def tiny_imagenet(root: Path, *, image_size: Count = 64) -> Source:
    """tiny-imagenet-200: 100,000 + 10,000 colour images of 64x64, 200 classes. `val/` is the test
    part, for `test/` has no labels. Labels follow the sorted wnids, classes are named as in
    words.txt."""
    expected = ("wnids.txt", "words.txt", "train/", "val/val_annotations.txt", "val/images/")
    folder = locate(root, ("tiny-imagenet-200",), expected, _TINY)
    wnids = sorted(filter(None, map(str.strip, lines(folder / "wnids.txt"))))
    train = listing.read(folder / "train")
    _must_have_classes(folder / "train", train.classes, wnids, "wnids.txt")

    def test() -> Files | Images:
        return _annotated(folder / "val", wnids, image_size).loaded()

    return Source(_words(folder, wnids), train.files(image_size).loaded(), test)


def _must_be_sorted(val: Path, classes: tuple[str, ...]) -> None:
    found = listing.class_folders(val)
    if not found:
        raise DataError(
            f"{val}: it has no class folders; the images must be sorted into one folder a wnid, "
            "by the ground truth in the development kit (ILSVRC2012_devkit_t12.tar.gz), as "
            "torchvision.datasets.ImageNet(root, split='val') does with the two archives"
        )
    _must_have_classes(val, found, classes, "train/")


def _must_have_classes(folder: Path, found, wanted, where: str) -> None:
    missing, more = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    words = [
        f"{len(names)} class folder(s) {what} {where}: {', '.join(names[:_SHOWN])}"
        for names, what in ((missing, "missing that are in"), (more, "that are not in"))
        if names
    ]
    if words:
        raise DataError(f"{folder}: {'; '.join(words)}")


def _words(folder: Path, wnids: list[str]) -> tuple[str, ...]:
    """What each wnid means; with the wnid where two mean the same."""
    meanings = dict(line.split("\t", 1) for line in lines(folder / "words.txt") if "\t" in line)
    names = [meanings.get(wnid, wnid).strip() for wnid in wnids]
    return tuple(
        f"{name} ({wnid})" if names.count(name) > 1 else name
        for name, wnid in zip(names, wnids, strict=True)
    )


def _annotated(val: Path, wnids: list[str], image_size: int) -> Files:
    """The images that val_annotations.txt names, each line `file, wnid, box` split by tabs."""
    rows = [line.split("\t") for line in lines(val / "val_annotations.txt") if line.strip()]
    label = {wnid: index for index, wnid in enumerate(wnids)}
    odd = [str(number) for number, row in enumerate(rows, 1) if row[1:2] and row[1] not in label]
    odd += [str(number) for number, row in enumerate(rows, 1) if not row[1:2]]
    if odd or not rows:
        what = f"line {', '.join(odd[:_SHOWN])}: not a file and a wnid" if odd else "it is empty"
        raise DataError(f"{val / 'val_annotations.txt'}: {what}")
    labels = torch.tensor([label[row[1]] for row in rows])
    return Files(val / "images", [row[0] for row in rows], labels, image_size)
