"""A folder of bytes: awkward names, whole writes, nothing half done."""

import os
from urllib.parse import quote

import pytest
from pyarrow import fs

from trainables.storage import Folder, absolute

AWKWARD = [
    "plain",
    "with space",
    "日本-é-🙂",
    "a#b",
    "100%",
    "50%20off",
    "q?x=1&y",
    "a+b",
    "'\"$x;",
]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("form", ["path", "text", "uri"])
def test_any_name_works_as_a_place_and_as_a_file(tmp_path, name, form):
    place = tmp_path / name
    given = {"path": place, "text": str(place), "uri": f"file://{quote(str(place))}"}[form]
    folder = Folder(given)
    folder.write(f"{name}.bin", b"1")
    folder.folder(name).write("inside/two", b"22")
    assert (place / f"{name}.bin").read_bytes() == b"1"
    assert (place / name / "inside" / "two").read_bytes() == b"22"
    assert folder.read(f"{name}.bin") == b"1"
    assert folder.read(f"{name}/inside/two") == b"22"
    assert folder.names() == sorted([name, f"{name}.bin"])
    assert folder.local == place
    assert Folder(folder.uri).read(f"{name}.bin") == b"1"


def test_places_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute("x/../y") == str(tmp_path / "y")
    assert absolute("~/z") == str(tmp_path / "home" / "z")
    assert absolute("file:///a%20b/c") == "/a b/c"
    assert absolute("s3://bucket/x/") == "s3://bucket/x"


def test_reading_what_is_not_there(tmp_path):
    folder = Folder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        folder.read("x")
    with pytest.raises(FileNotFoundError):
        folder.copy_to("x", tmp_path / "y")
    assert folder.names() == []
    assert not folder.exists()
    assert not folder.exists("x")
    folder.delete("x")
    folder.delete()
    assert not (tmp_path / "missing").exists()


def test_writing_replaces_the_whole_file(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a", b"long content")
    folder.write("a", b"short")
    assert folder.read("a") == b"short"
    folder.write("a", b"")
    assert folder.read("a") == b""
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_content_and_no_temporary_file(
    tmp_path, monkeypatch, function
):
    folder = Folder(tmp_path)
    folder.write("a", b"old")

    def fails(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fails)
    with pytest.raises(OSError, match="No space left"):
        folder.write("a", b"new")
    with pytest.raises(OSError, match="No space left"):
        folder.write("b", b"new")
    monkeypatch.undo()
    assert folder.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Folder(tmp_path).write("a", b"new")
    assert os.listdir(tmp_path) == []


def test_names_hides_temporary_files_and_sorts(tmp_path):
    folder = Folder(tmp_path)
    for name in ("b", "a/inside", ".a.12345678"):
        folder.write(name, b"")
    assert folder.names() == ["a", "b"]
    assert folder.names("a") == ["inside"]


def test_names_of_255_bytes_can_be_written(tmp_path):
    folder = Folder(tmp_path)
    folder.write("x" * 255, b"1")
    assert folder.names() == ["x" * 255]


def test_copying_a_folder_leaves_temporary_files_behind(tmp_path):
    folder = Folder(tmp_path / "from")
    for name in ("x/a", "x/y/b", "x/.tmp.1"):
        folder.write(name, name.encode())
    folder.copy_to("x", tmp_path / "to" / "x")
    found = {str(p.relative_to(tmp_path / "to")) for p in (tmp_path / "to").rglob("*")}
    assert found == {"x", "x/a", "x/y", "x/y/b"}
    folder.copy_to("x/a", tmp_path / "new" / "a")
    assert (tmp_path / "new" / "a").read_bytes() == b"x/a"


def test_deleting(tmp_path):
    folder = Folder(tmp_path)
    for name in ("x/a", "x/y/b", "z"):
        folder.write(name, b"")
    folder.delete("x")
    assert folder.names() == ["z"]
    folder.delete("z")
    assert folder.names() == []


def test_a_uri_that_no_file_system_takes_is_a_value_error():
    with pytest.raises(ValueError, match="nosuch://x"):
        Folder("nosuch://x/y")


def test_an_object_store_is_written_without_a_temporary_name():
    folder = Folder("mock://bucket/study")
    assert folder.local is None
    assert not isinstance(folder._files, fs.LocalFileSystem)
    folder.write("a/b", b"12")
    assert folder.read("a/b") == b"12"
    assert folder.names("a") == ["b"]
    folder.write("a/b", b"3")
    assert folder.read("a/b") == b"3"
    folder.delete("a")
    assert folder.names() == []


def test_a_stores_options_stay_behind_the_path():
    study = Folder("s3://bucket/study?region=us-east-1&scheme=http")
    trial = study.folder("checkpoints/0001")
    assert trial.uri == "s3://bucket/study/checkpoints/0001?region=us-east-1&scheme=http"
    assert trial._path("state.pt") == "bucket/study/checkpoints/0001/state.pt"
    assert (study.name, trial.name) == ("study", "0001")
