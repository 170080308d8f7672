"""Published data sets in small copies of their layout: splits, labels, and one error that says all
that is wrong."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.trainables import layouts
from tests.trainables.layouts import BIRDS, BREEDS, WNIDS, cut, matlab_list
from trainables import data, decoding
from trainables.images import Files, Images
from trainables.sources import DataError, readers

MAKERS = {
    name: getattr(layouts, name)
    for name in ("cub200", "stanford_dogs", "caltech101", "imagenet", "tiny_imagenet")
}
SUBFOLDERS = {
    "cub200": "CUB_200_2011",
    "stanford_dogs": "stanford_dogs",
    "caltech101": "caltech101",
    "tiny_imagenet": "tiny-imagenet-200",
}
every = pytest.mark.parametrize("name", MAKERS)


def numbers(part: Files | Images) -> list[int]:
    """The number that each image is full of."""
    if isinstance(part, Images):
        return part.pixels[:, 0, 0, 0].tolist()
    return [int(decoding.reduced(path, 80)[0, 0, 0]) for path in part.paths()]


def labels(part: Files | Images) -> dict[int, int]:
    """Number of the image -> its label."""
    return dict(zip(numbers(part), part.labels.tolist(), strict=True))


def test_cub200_has_the_official_split(tmp_path):
    source = readers()["cub200"](layouts.cub200(tmp_path))
    assert source.classes == BIRDS
    assert labels(source.train) == {number: number * 7 % 3 for number in range(7, 19)}
    assert labels(source.test()) == {number: number * 7 % 3 for number in range(1, 7)}
    assert source.train.image_shape == (3, 224, 224)


def test_stanford_dogs_has_the_official_split(tmp_path):
    source = readers()["stanford_dogs"](layouts.stanford_dogs(tmp_path))
    assert source.classes == ("Chihuahua", "German_short-haired_pointer", "Basset")
    assert labels(source.train) == {number: number % 3 for number in range(12)}
    assert labels(source.test()) == {number: number % 3 for number in range(12, 18)}


def test_caltech101_leaves_out_the_folder_that_is_no_class(tmp_path):
    source = readers()["caltech101"](layouts.caltech101(tmp_path))
    assert source.classes == ("Faces", "accordion", "yin_yang")
    assert source.test is None
    found = labels(source.train)
    assert [number for number in found if found[number] == 0] == list(range(20, 30))
    assert not set(found) & set(range(10, 20))


def test_caltech101_gets_a_test_part_that_no_search_sees(tmp_path):
    layouts.caltech101(tmp_path)
    final = data.build("caltech101", root=str(tmp_path), image_size=72, final=True)
    test = set(final.held_out.paths())
    assert torch.bincount(final.held_out.labels).tolist() == [2, 2, 2]
    for seed in range(3):
        sets = data.build("caltech101", root=str(tmp_path), image_size=72, split_seed=seed)
        seen = {*sets.train.paths(), *sets.held_out.paths()}
        assert not seen & test
        assert len(seen | test) == 30


def test_imagenet_labels_follow_the_sorted_wnids_and_val_is_the_test_part(tmp_path):
    source = readers()["imagenet"](layouts.imagenet(tmp_path))
    assert source.classes == WNIDS
    assert labels(source.train) == {number: number // 8 for number in range(24)}
    assert labels(source.test()) == {100 + number: number // 2 for number in range(6)}


def test_imagenet_stays_files_however_small(tmp_path):
    source = readers()["imagenet"](layouts.imagenet(tmp_path), image_size=32)
    assert isinstance(source.train, Files)
    assert source.train.image_shape == (3, 32, 32)


def test_tiny_imagenet_reads_val_by_its_annotations(tmp_path):
    source = readers()["tiny_imagenet"](layouts.tiny_imagenet(tmp_path))
    tench, goldfish, crane = source.classes
    assert (tench, goldfish, crane) == ("tench", "goldfish, Carassius auratus", "crane")
    assert source.train.pixels.shape == (12, 3, 64, 64)
    assert labels(source.train) == {number: number % 3 for number in range(12)}
    assert labels(source.test()) == {100 + number: 2 - number % 3 for number in range(6)}


def test_classes_that_mean_the_same_word_are_told_apart(tmp_path):
    layouts.tiny_imagenet(tmp_path)
    words = tmp_path / "words.txt"
    words.write_text(words.read_text().replace("tench", "crane"))
    classes = readers()["tiny_imagenet"](tmp_path).classes
    assert classes[0] == f"crane ({WNIDS[0]})"
    assert classes[2] == f"crane ({WNIDS[2]})"


@every
def test_a_search_splits_validation_from_train_and_never_reads_the_test_part(tmp_path, name):
    root = MAKERS[name](tmp_path)
    options = {"root": str(root), "image_size": 72, "validation_fraction": 0.25}
    final = data.build(name, **options, final=True)
    count = len(final.train)
    for path in final.held_out.paths():
        cut(Path(path))
    data.forget()
    sets = data.build(name, **options)
    assert len(sets.train) + len(sets.held_out) == count
    assert not set(numbers(sets.train)) & set(numbers(sets.held_out))
    counts = torch.bincount(sets.held_out.labels)
    assert (counts == counts[0]).all()
    with pytest.raises(DataError, match=f"{len(final.held_out)} of .* images cannot be read"):
        data.build(name, **options, final=True)


@every
def test_small_images_are_read_as_pixels_unless_there_are_millions(tmp_path, name):
    source = readers()[name](MAKERS[name](tmp_path), image_size=16)
    assert isinstance(source.train, Files if name == "imagenet" else Images)


@pytest.mark.parametrize(("name", "below"), SUBFOLDERS.items())
def test_the_set_may_lie_in_the_folder_that_its_archive_makes(tmp_path, name, below):
    whole = readers()[name](MAKERS[name](tmp_path / "here"))
    found = readers()[name](MAKERS[name](tmp_path / "data" / below).parent)
    assert found.classes == whole.classes
    assert numbers(found.train) == numbers(whole.train)


@pytest.mark.parametrize(
    ("name", "expected", "origin"),
    [
        (
            "cub200",
            "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/",
            "CUB_200_2011.tgz from the CUB-200-2011 page",
        ),
        (
            "stanford_dogs",
            "train_list.mat, test_list.mat, Images/",
            "images.tar and lists.tar from the Stanford Dogs page",
        ),
        ("caltech101", "101_ObjectCategories/", "caltech-101.zip from the Caltech 101 page"),
        ("imagenet", "train/, val/", "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"),
        (
            "tiny_imagenet",
            "wnids.txt, words.txt, train/, val/val_annotations.txt, val/images/",
            "tiny-imagenet-200.zip from the course page",
        ),
    ],
)
def test_a_root_without_the_set_is_told_all_that_is_expected_and_where_it_comes_from(
    tmp_path, name, expected, origin
):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as raised:
            data.build(name, root=str(root))
        text = str(raised.value)
        assert text.startswith(f"{root}: missing {expected}; expected there")
        assert f"; get {origin}" in text
        assert "\n" not in text


def test_of_a_layout_in_part_only_what_lacks_is_called_missing(tmp_path):
    layouts.cub200(tmp_path / "CUB_200_2011")
    (tmp_path / "CUB_200_2011" / "classes.txt").unlink()
    shutil.rmtree(tmp_path / "CUB_200_2011" / "images")
    with pytest.raises(DataError, match=r"CUB_200_2011: missing classes\.txt, images/; expected"):
        data.build("cub200", root=str(tmp_path))


@every
def test_all_damaged_and_missing_images_are_named_in_one_error(tmp_path, name):
    root = MAKERS[name](tmp_path)
    sets = data.build(name, root=str(root), image_size=72)
    first, second = sets.train.paths()[:2]
    data.forget()
    cut(Path(first))
    Path(second).write_bytes(b"")
    for size in (72, 32):  # decoded when it is needed, and read at once
        if name == "imagenet" and size == 32:
            continue
        with pytest.raises(DataError, match=r"^2 of .* images cannot be read: ") as raised:
            data.build(name, root=str(root), image_size=size)
        assert first in str(raised.value)
        assert second in str(raised.value)


def test_all_that_is_wrong_with_the_tables_of_cub200_is_said_at_once(tmp_path):
    root = layouts.cub200(tmp_path)
    table = root / "image_class_labels.txt"
    table.write_text(table.read_text().replace("3 1\n", "3 9\n").replace("5 3\n", "55 3\n"))
    split = root / "train_test_split.txt"
    split.write_text(split.read_text().replace("8 1\n", "8 2\n"))
    with pytest.raises(DataError) as raised:
        data.build("cub200", root=str(root))
    assert "image_class_labels.txt does not number the images as images.txt does" in str(
        raised.value
    )
    assert "image_class_labels.txt: not in classes.txt at the images 3" in str(raised.value)
    assert "train_test_split.txt: neither 0 nor 1 at the images 8, 18" in str(raised.value)


@pytest.mark.parametrize(("content", "what"), [("", "it is empty"), ("1 a\nb\n", "line 2: not a")])
def test_a_table_of_cub200_that_is_none_is_named(tmp_path, content, what):
    root = layouts.cub200(tmp_path)
    (root / "classes.txt").write_text(content)
    with pytest.raises(DataError, match=rf"classes\.txt: {what}"):
        data.build("cub200", root=str(root))


def test_lists_of_stanford_dogs_that_cannot_be_are_refused(tmp_path):
    root = layouts.stanford_dogs(tmp_path)
    path = root / "train_list.mat"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train_list\.mat: cannot be read as a list of images"):
        data.build("stanford_dogs", root=str(root))
    for names, labels in (
        ([f"{BREEDS[0]}/1.png", f"{BREEDS[1]}/1.png"], [1, 1]),
        ([f"{BREEDS[0]}/1.png", f"{BREEDS[1]}/1.png"], [1, 3]),
    ):
        matlab_list(path, names, labels)
        with pytest.raises(DataError, match="its labels are not one a folder, from 1 on"):
            data.build("stanford_dogs", root=str(root))


def test_lists_of_stanford_dogs_must_number_the_breeds_alike(tmp_path):
    root = layouts.stanford_dogs(tmp_path)
    matlab_list(root / "test_list.mat", [f"{breed}/1.png" for breed in BREEDS], [2, 1, 3])
    data.build("stanford_dogs", root=str(root))
    with pytest.raises(DataError, match="number the breeds differently"):
        data.build("stanford_dogs", root=str(root), final=True)


def test_a_flat_val_of_imagenet_is_told_how_to_be_sorted(tmp_path):
    root = layouts.imagenet(tmp_path)
    for index, path in enumerate(sorted((root / "val").rglob("*.png"))):
        path.rename(root / "val" / f"ILSVRC2012_val_{index:08}.png")
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    with pytest.raises(DataError, match="val: it has no class folders; the images must be sorted"):
        data.build("imagenet", root=str(root))


def test_classes_that_only_one_part_has_are_named(tmp_path):
    root = layouts.imagenet(tmp_path)
    shutil.move(root / "val" / WNIDS[1], root / "val" / "n99")
    with pytest.raises(DataError) as raised:
        data.build("imagenet", root=str(root))
    assert f"1 class folder(s) missing that are in train/: {WNIDS[1]}; 1 class" in str(raised.value)
    assert str(raised.value).endswith("that are not in train/: n99")
    tiny = layouts.tiny_imagenet(tmp_path / "tiny")
    shutil.rmtree(tiny / "train" / WNIDS[0])
    with pytest.raises(DataError, match=f"missing that are in wnids.txt: {WNIDS[0]}"):
        data.build("tiny_imagenet", root=str(tiny))


@pytest.mark.parametrize(
    ("line", "what"), [("val_9.png\tn77\t0\t0\t1\t1", "line 7"), ("val_9.png", "line 7")]
)
def test_annotations_of_tiny_imagenet_that_name_no_class_are_found(tmp_path, line, what):
    root = layouts.tiny_imagenet(tmp_path)
    table = root / "val" / "val_annotations.txt"
    table.write_text(table.read_text() + line + "\n")
    data.build("tiny_imagenet", root=str(root))  # the search has no use for it
    with pytest.raises(DataError, match=rf"val_annotations\.txt: {what}: not a file and a wnid"):
        data.build("tiny_imagenet", root=str(root), final=True)
