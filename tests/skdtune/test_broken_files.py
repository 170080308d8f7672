"""Files that hold no space, and data sets that are missing or damaged: refused before anything
starts."""

import os
from pathlib import Path

import pytest
from PIL import Image

from skdtune import search
from tests.skdtune.breakable import FIXED, Refuse


def _bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        levels.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(levels)


# Files that hold no space at all
CONTENTS = {
    "empty": (b"", "it must hold sections: trial, search, resources"),
    "only a comment": (b"# nothing\n", "it must hold sections"),
    "a list at the top": (b"- trial\n- search\n", "it must hold sections"),
    "a word": (b"trial\n", "it must hold sections"),
    "sections of nothing": (b"trial:\nsearch:\nresources:\n", "trial: must hold the config"),
    "sections that are scalars": (b"trial: 1\nsearch: 5\n", "search: must be a section"),
    "no section": (b"{}", "trial.data.name: is missing"),
    "not UTF-8": (b"trial: \xff\xfe\n", "it is not UTF-8 text: invalid start byte at byte 7"),
    "UTF-16": ("trial: {}".encode("utf-16"), "it is not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "it is not UTF-8 text"),
    "deep nesting": (b"[" * 100 + b"]" * 100, "nested deeper than 50 levels"),
    "very deep nesting": (b"[" * 200_000, "nested deeper than 50 levels"),
    "deep block nesting": (
        "\n".join(f"{' ' * level}k:" for level in range(300)).encode(),
        "nested deeper than 50 levels",
    ),
    "300 KB": (b"#" * 300 * 1024, "307200 bytes: a file has at most 262144"),
    "very many values": (b"[" + b"a," * 120_000 + b"a]", "more than 10000 values"),
    "very many keys": (
        "\n".join(f"k{n}: {n}" for n in range(11_000)).encode(),
        "more than 10000 values",
    ),
    "an alias bomb": (_bomb().encode(), "more than 10000 values"),
    "very many aliases": (b"a: &a 1\nb: [" + b"*a, " * 200 + b"1]", "more than 100 aliases"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_that_is_no_space_is_refused(case: str, refuse: Refuse, tmp_path: Path) -> None:
    content, expected = CONTENTS[case]
    (tmp_path / "mine.yaml").write_bytes(content)

    said = refuse(search.main, "mine.yaml")

    assert said.startswith("mine.yaml: ")
    assert expected in said


def test_what_is_no_regular_file_is_refused_at_once(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    os.symlink("nowhere", tmp_path / "dangling.yaml")

    assert "folder.yaml: 1 problem\n  it is not a regular file" in refuse(
        search.main, "folder.yaml"
    )
    assert "it is not a regular file" in refuse(search.main, "/dev/zero")
    assert "it is not a regular file" in refuse(search.main, "pipe.yaml")
    assert "No such file or directory" in refuse(search.main, "dangling.yaml")
    assert "No such file or directory" in refuse(search.main, "missing.yaml")
    assert "Not a directory" in refuse(search.main, "/dev/null/x.yaml")
    assert "File name too long" in refuse(search.main, f"{'a' * 300}.yaml")
    assert "no such name in search_spaces" in refuse(search.main, "a" * 300)


def test_data_that_is_missing_or_damaged_is_found_before_anything_starts(
    refuse: Refuse, tmp_path: Path
) -> None:
    def said(data: str) -> str:
        (tmp_path / "mine.yaml").write_text(FIXED.replace("{name: digits}", data))
        return refuse(search.main, "mine.yaml")

    assert f"data set imagefolder: 1 problem\n  {tmp_path}/nowhere: no such folder" in said(
        "{name: imagefolder, root: nowhere}"
    )
    assert "CIFAR100 is not there or damaged; set trial.data.download to true" in said(
        "{name: cifar100, root: nowhere, download: false}"
    )
    for name in ("images/cat/1.png", "images/cat/2.png", "images/dog/1.png", "images/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    whole = (tmp_path / "images/cat/1.png").read_bytes()
    (tmp_path / "images/cat/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/dog/2.png").write_bytes(b"not an image")
    found = said("{name: imagefolder, root: images}")
    assert "of 4 images cannot be read" in found
    assert f"{tmp_path}/images/dog/2.png: " in found
    found = said("{name: imagefolder, root: images, image_size: 8}")
    assert "2 of 4 images cannot be read" in found
    assert f"{tmp_path}/images/cat/1.png: " in found
    (tmp_path / "images/dog/1.png").unlink()
    (tmp_path / "images/dog/2.png").unlink()
    assert f"{tmp_path}/images: no images in dog" in said("{name: imagefolder, root: images}")
    assert "too few images of a class to hold one out: 0 has 1, 1 has 1" in said(
        "{name: synthetic, images: 4}"
    )
