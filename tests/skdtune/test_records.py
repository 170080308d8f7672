"""A study on disk: to the bit, whole or not at all, and an error that names what is damaged."""

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdtune import records
from skdtune.errors import ConfigError
from skdtune.records import Record, Study
from tests.skdtune.builders import mixed_study, report
from trainables.storage import Folder


def one_trial(folder: Folder) -> Study:
    study = Study("tiny", "search", {"trial": {}}, "tiny", folder=folder)
    study.records["0000"] = Record("0000", records.DEFAULT, {}, {"epochs": 4})
    return study


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    study = mixed_study(tmp_path / "実験 é", "実験 é", unfinished=True)
    study.tracking_uri = "sqlite:///a b.db"
    study.save()
    loaded = records.load(Folder(tmp_path / "実験 é"))
    assert loaded.folder.uri == study.folder.uri
    loaded.folder = study.folder
    assert loaded == study
    assert [record.status for record in loaded.records.values()] == [
        *(["finished"] * 3),
        *("stopped", "diverged", "failed", "interrupted", "pending"),
    ]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    text=st.text(),
    number=st.integers(),
)
def test_every_float_comes_back_to_the_bit_and_every_text_as_it_was(
    tmp_path_factory, values, text, number
):
    study = one_trial(Folder(tmp_path_factory.mktemp("study")))
    record = study.records["0000"]
    record.params = {"a/b": values[0], "a/c": number, "a/d": text, "a/e": None, "a/f": True}
    record.epochs = [{"epoch": i + 1, "val/loss": value} for i, value in enumerate(values)]
    record.error = text
    study.save()
    study.save_record(record)
    loaded = records.load(study.folder).records["0000"]
    assert loaded == record
    assert [bits(e["val/loss"]) for e in loaded.epochs] == [bits(value) for value in values]
    assert bits(loaded.params["a/b"]) == bits(values[0])
    kinds = {name: type(value) for name, value in record.params.items()}
    assert {name: type(value) for name, value in loaded.params.items()} == kinds


def test_an_error_text_of_bytes_that_are_no_text_can_be_written(tmp_path):
    study = one_trial(Folder(tmp_path))
    record = study.records["0000"]
    record.error = "FileNotFoundError: /data/\udcff.png"  # how Python names a file of such bytes
    study.save()
    study.save_record(record)
    assert records.load(study.folder).records["0000"].error == record.error


def test_an_epoch_on_record_is_not_taken_twice(tmp_path):
    record = Record("0000", records.SEARCH, {}, {"epochs": 4})
    assert record.epoch == 0
    assert record.last == {}
    first = report(1, 0.5)
    assert record.add(first)
    first["val/accuracy"] = 0.0
    assert record.last["val/accuracy"] == 0.5, "the record keeps a copy"
    assert record.add(report(2, 0.6))
    for epoch in (1, 2):
        assert not record.add(report(epoch, 0.9))
    assert [line["val/accuracy"] for line in record.epochs] == [0.5, 0.6]


def test_which_trials_have_ended(tmp_path):
    study = mixed_study(tmp_path, unfinished=True)
    assert [record.key for record in study.unfinished] == ["0006", "0007"]


# Loading what is damaged


def test_a_folder_without_a_study(tmp_path):
    assert not records.is_study(Folder(tmp_path))
    with pytest.raises(ConfigError, match=r"no study here \(study.json is missing\)") as caught:
        records.load(Folder(tmp_path / "nowhere"))
    assert caught.value.source == str(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"[1]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "name": "x", "odd": 1}',
        b'{"format": 2, "name": "x"}',
        b'{"format": "1"}',
        b"\xff\xfe\x00",
        b"PK\x03\x04 a zip",
    ],
)
def test_a_study_file_that_is_damaged_or_foreign_is_named(tmp_path, content):
    mixed_study(tmp_path)
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"study\.json") as caught:
        records.load(Folder(tmp_path))
    assert caught.value.source == str(tmp_path)


def test_another_format_says_which_is_read(tmp_path):
    study = mixed_study(tmp_path)
    content = json.loads(study.folder.read("study.json")) | {"format": 2}
    study.folder.write("study.json", json.dumps(content).encode())
    with pytest.raises(ConfigError, match=f"another format than {records.FORMAT}"):
        records.load(study.folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "null", "list", "unknown", "zeros"])
def test_a_record_that_is_damaged_is_named(tmp_path, damage):
    study = mixed_study(tmp_path)
    whole = study.folder.read("trials/0002.json")
    content = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "null": b"null",
        "list": b"[1, 2]",
        "unknown": whole.replace(b'"attempts"', b'"tries"'),
        "zeros": bytes(len(whole)),
    }[damage]
    study.folder.write("trials/0002.json", content)
    with pytest.raises(ConfigError, match=r"trials/0002\.json") as caught:
        records.load(study.folder)
    assert caught.value.source == str(tmp_path)


def test_a_write_that_was_cut_off_leaves_no_trace(tmp_path):
    study = mixed_study(tmp_path)
    (tmp_path / "trials" / ".0002.json.1a2b3c4d").write_bytes(b'{"half":')
    assert records.load(study.folder).records == study.records
