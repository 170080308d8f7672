"""A study on disk: to the bit, whole or not at all, and an error that names what is damaged."""

import errno
import json
import os
import random
import struct
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdtune import records
from skdtune.errors import ConfigError
from skdtune.records import Record, Study, Writer
from tests.skdtune.builders import curve, end, mixed_study, report, wait_for
from trainables.storage import Folder


class FullDisk(Folder):
    """A folder whose first `failures` writes find no space left, or what else goes wrong."""

    failures = 10**9

    def __init__(self, place, error: int = errno.ENOSPC):
        super().__init__(place)
        self.error = error
        self.attempts: list[str] = []
        self.deleted: list[str] = []

    def write(self, name: str, data: bytes) -> None:
        self.attempts.append(name)
        if len(self.attempts) <= self.failures:
            raise OSError(self.error, os.strerror(self.error), name)
        super().write(name, data)

    def delete(self, name: str = "") -> None:
        self.deleted.append(name)
        super().delete(name)


class Watched(Folder):
    """Notes in which order things are written and deleted."""

    def __init__(self, place):
        super().__init__(place)
        self.seen: list[tuple[str, str]] = []

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self.seen.append(("write", name))

    def delete(self, name: str = "") -> None:
        super().delete(name)
        self.seen.append(("delete", name))


def simple(folder: Folder) -> Study:
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
    study = simple(Folder(tmp_path_factory.mktemp("study")))
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
    study = simple(Folder(tmp_path))
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


# The writer


def test_the_newest_version_wins_and_closing_writes_all(tmp_path):
    study = simple(Folder(tmp_path))
    study.save()
    for index in range(1, 20):
        study.records[f"{index:04d}"] = Record(f"{index:04d}", records.SEARCH, {}, {"epochs": 4})
    writer = Writer(study)
    for epoch in range(1, 31):
        for record in study.records.values():
            record.add(report(epoch, 1.0 / epoch))
            writer.put(record)
    writer.close()
    assert records.load(study.folder).records == study.records


def test_a_record_is_written_as_it_was_handed_over(tmp_path):
    study = simple(Folder(tmp_path))
    study.save()
    record = study.records["0000"]
    writer = Writer(study)
    end(record, records.FINISHED, curve(1))
    writer.put(record)
    record.epochs = []
    writer.close()
    assert len(records.load(study.folder).records["0000"].epochs) == 4


def test_a_reader_never_sees_a_torn_file(tmp_path):
    study = simple(Folder(tmp_path))
    study.save()
    study.save_record(study.records["0000"])
    record, stop, seen, wrong = study.records["0000"], threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(records.load(Folder(tmp_path)).records["0000"].epoch)
            except ConfigError as error:
                wrong.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    writer = Writer(study)
    try:
        for epoch in range(1, 501):
            record.add({"epoch": epoch, "val/accuracy": 1.0 / epoch})
            writer.put(record)
            time.sleep(0.001)
        writer.close()
        wait_for(lambda: seen and seen[-1] == 500, 5, "the reader sees the last version")
    finally:
        stop.set()
        reader.join()
    assert wrong == []
    assert seen == sorted(seen), "no older version comes after a newer one"
    assert len(set(seen)) > 5, "it read while the writer wrote"


def test_checkpoints_are_deleted_after_the_record_is_written(tmp_path):
    folder = Watched(tmp_path)
    study = simple(folder)
    folder.write("checkpoints/0000/epoch_000001/state.pt", b"x")
    folder.write("checkpoints/0001/epoch_000001/state.pt", b"x")
    writer = Writer(study)
    end(study.records["0000"], records.STOPPED, curve(1)[:2])
    writer.put(study.records["0000"])
    writer.discard(study.records["0000"])
    writer.close()
    steps = folder.seen[2:]
    assert steps == [("write", "trials/0000.json"), ("delete", "checkpoints/0000")]
    assert folder.names("checkpoints") == ["0001"]


@pytest.fixture
def impatient(monkeypatch):
    """The pauses between attempts, without waiting for them."""
    paused = []
    clock = SimpleNamespace(sleep=paused.append, time=time.time)
    monkeypatch.setattr(records, "time", clock)
    return paused


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_is_an_error_after_three_attempts(tmp_path):
    folder = FullDisk(tmp_path)
    study = simple(folder)
    writer = Writer(study)
    writer.put(study.records["0000"])
    wait_for(lambda: writer.error, 5, "the error is seen while the study runs")
    with pytest.raises(OSError, match="No space left") as caught:
        writer.close()
    assert caught.value.errno == errno.ENOSPC
    assert folder.attempts == ["trials/0000.json"] * 3


def test_a_write_that_works_at_the_third_attempt_is_no_error(tmp_path, impatient):
    folder = FullDisk(tmp_path)
    study = simple(folder)
    folder.failures = 2
    writer = Writer(study)
    writer.put(study.records["0000"])
    writer.close()
    assert writer.error is None
    assert impatient == [0.2, 1.0]
    assert json.loads(folder.read("trials/0000.json"))["key"] == "0000"


def test_a_share_that_is_away_is_waited_for_as_a_store_is(tmp_path, impatient):
    folder = FullDisk(tmp_path, errno.ESTALE)
    study = simple(folder)
    folder.failures = 4
    writer = Writer(study)
    writer.put(study.records["0000"])
    writer.close()
    assert writer.error is None
    assert impatient == [0.2, 1.0, 5.0, 20.0]


@pytest.mark.usefixtures("impatient")
def test_a_record_that_cannot_be_written_keeps_its_checkpoints(tmp_path):
    folder = FullDisk(tmp_path)
    study = simple(folder)
    writer = Writer(study)
    writer.put(study.records["0000"])
    writer.discard(study.records["0000"])
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert folder.deleted == []


@pytest.mark.usefixtures("impatient")
def test_a_folder_that_has_become_a_file_is_an_error(tmp_path):
    study = simple(Folder(tmp_path / "study"))
    study.save()
    (tmp_path / "study" / "trials").write_text("in the way")
    writer = Writer(study)
    writer.put(study.records["0000"])
    with pytest.raises(OSError, match="trials"):
        writer.close()


@pytest.mark.usefixtures("impatient")
def test_an_error_of_any_kind_ends_no_writer_in_silence(tmp_path):
    class Odd(Folder):
        def write(self, name: str, data: bytes) -> None:
            raise ValueError("the store has a bug")

    study = simple(Odd(tmp_path))
    writer = Writer(study)
    writer.put(study.records["0000"])
    with pytest.raises(OSError, match="the store has a bug"):
        writer.close()


def test_many_threads_may_hand_over_records(tmp_path):
    study = simple(Folder(tmp_path))
    study.save()
    writer = Writer(study)

    def work(index: int) -> None:
        generator = random.Random(index)
        record = Record(f"{index:04d}", records.SEARCH, {}, {"epochs": 9})
        study.records[record.key] = record
        for epoch in range(1, 10):
            record.add(report(epoch, generator.random()))
            writer.put(record)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert records.load(study.folder).records == dict(sorted(study.records.items()))
