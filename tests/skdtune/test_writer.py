"""Records on their way to the disk: the newest wins, none is lost in silence."""

import errno
import json
import os
import random
import threading
import time
from types import SimpleNamespace

import pytest

from skdtune import records
from skdtune import writer as writing
from skdtune.errors import ConfigError
from skdtune.records import Record
from skdtune.writer import Writer
from tests.skdtune.builders import curve, end, report, wait_for
from tests.skdtune.test_recorder import Watched
from tests.skdtune.test_records import one_trial
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


def test_the_newest_version_wins_and_closing_writes_all(tmp_path):
    study = one_trial(Folder(tmp_path))
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
    study = one_trial(Folder(tmp_path))
    study.save()
    record = study.records["0000"]
    writer = Writer(study)
    end(record, records.FINISHED, curve(1))
    writer.put(record)
    record.epochs = []
    writer.close()
    assert len(records.load(study.folder).records["0000"].epochs) == 4


def test_a_reader_never_sees_a_torn_file(tmp_path):
    study = one_trial(Folder(tmp_path))
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
    study = one_trial(folder)
    folder.write("checkpoints/0000/epoch_000001/state.pt", b"x")
    folder.write("checkpoints/0001/epoch_000001/state.pt", b"x")
    writer = Writer(study)
    end(study.records["0000"], records.STOPPED, curve(1)[:2])
    writer.put(study.records["0000"])
    writer.close()
    steps = folder.seen[2:]
    assert steps == [("write", "trials/0000.json"), ("delete", "checkpoints/0000")]
    assert folder.names("checkpoints") == ["0001"]


@pytest.fixture
def impatient(monkeypatch):
    """The pauses between attempts, without waiting for them."""
    paused = []
    clock = SimpleNamespace(sleep=paused.append, time=time.time)
    monkeypatch.setattr(writing, "time", clock)
    return paused


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_is_an_error_after_three_attempts(tmp_path):
    folder = FullDisk(tmp_path)
    study = one_trial(folder)
    writer = Writer(study)
    writer.put(study.records["0000"])
    wait_for(lambda: writer.error, 5, "the error is seen while the study runs")
    with pytest.raises(OSError, match="No space left") as caught:
        writer.close()
    assert caught.value.errno == errno.ENOSPC
    assert folder.attempts == ["trials/0000.json"] * 6, "three of them when all is closed"


def test_a_write_that_works_at_the_third_attempt_is_no_error(tmp_path, impatient):
    folder = FullDisk(tmp_path)
    study = one_trial(folder)
    folder.failures = 2
    writer = Writer(study)
    writer.put(study.records["0000"])
    writer.close()
    assert writer.error is None
    assert impatient == [0.2, 1.0]
    assert json.loads(folder.read("trials/0000.json"))["key"] == "0000"


def test_a_share_that_is_away_is_waited_for_as_a_store_is(tmp_path, impatient):
    folder = FullDisk(tmp_path, errno.ESTALE)
    study = one_trial(folder)
    folder.failures = 4
    writer = Writer(study)
    writer.put(study.records["0000"])
    writer.close()
    assert writer.error is None
    assert impatient == [0.2, 1.0, 5.0, 20.0]


@pytest.mark.usefixtures("impatient")
def test_a_record_that_cannot_be_written_keeps_its_checkpoints(tmp_path):
    folder = FullDisk(tmp_path)
    study = one_trial(folder)
    writer = Writer(study)
    end(study.records["0000"], records.STOPPED, curve(1)[:2])
    writer.put(study.records["0000"])
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert folder.deleted == []


@pytest.mark.usefixtures("impatient")
def test_a_folder_that_has_become_a_file_is_an_error(tmp_path):
    study = one_trial(Folder(tmp_path / "study"))
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

    study = one_trial(Odd(tmp_path))
    writer = Writer(study)
    writer.put(study.records["0000"])
    with pytest.raises(OSError, match="the store has a bug"):
        writer.close()


def test_many_threads_may_hand_over_records(tmp_path):
    study = one_trial(Folder(tmp_path))
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


def test_a_write_that_succeeds_later_is_no_error_any_more(tmp_path, impatient):
    folder = FullDisk(tmp_path)
    study = one_trial(folder)
    folder.failures = 3
    writer = Writer(study)
    writer.put(study.records["0000"])
    wait_for(lambda: writer.error, 5, "the disk is full")
    writer.put(study.records["0000"])
    writer.close()
    assert writer.error is None
    assert folder.exists("trials/0000.json")


def test_a_store_that_is_away_is_waited_for_once_and_not_for_each_record(tmp_path, impatient):
    folder = FullDisk(tmp_path, errno.ESTALE)
    study = one_trial(folder)
    writer = Writer(study)
    writer.put(study.records["0000"])
    wait_for(lambda: writer.error, 5, "it is given up")
    for number in range(1, 33):
        record = Record(f"{number:04d}", records.SEARCH, {}, {"epochs": 4}, status=records.RUNNING)
        study.records[record.key] = record
    with pytest.raises(OSError, match="Stale"):
        writer.close()
    assert len(folder.attempts) == 6 + 33
    assert sum(impatient) < 90


def test_what_could_not_be_written_is_tried_again_when_all_is_closed(tmp_path, impatient):
    folder = FullDisk(tmp_path)
    study = one_trial(folder)
    folder.failures = 3
    Folder(tmp_path).write("checkpoints/0000/epoch_000001/state.pt", b"x")
    writer = Writer(study)
    end(study.records["0000"], records.STOPPED, curve(1)[:2])
    writer.put(study.records["0000"])
    wait_for(lambda: writer.error, 5, "the disk is full")
    assert folder.deleted == []
    writer.close()
    assert folder.exists("trials/0000.json")
    assert not folder.exists("checkpoints/0000"), "of no more use, now that the record says so"


def test_a_checkpoint_that_cannot_be_deleted_is_no_error_and_keeps_no_record_waiting(tmp_path):
    class Busy(FullDisk):
        failures = 0

        def delete(self, name: str = "") -> None:
            raise OSError(errno.EBUSY, "Device or resource busy")

    folder = Busy(tmp_path)
    study = one_trial(folder)
    writer = Writer(study)
    end(study.records["0000"], records.STOPPED, curve(1)[:2])
    writer.put(study.records["0000"])
    writer.close()
    assert folder.exists("trials/0000.json")


def test_what_a_killed_driver_left_is_deleted_when_the_study_goes_on(tmp_path):
    folder, study = Folder(tmp_path), one_trial(Folder(tmp_path))
    for number, status in enumerate((records.STOPPED, records.FINISHED, records.FAILED)):
        record = Record(f"{number:04d}", records.SEARCH, {}, {"epochs": 4})
        study.records[record.key] = record
        end(record, status, curve(1))
        for name in ("epoch_000003", "epoch_000004"):
            folder.write(f"checkpoints/{record.key}/{name}/state.pt", b"x")
    study.records["0001"].checkpoint = "checkpoints/0001/epoch_000004"
    writer = Writer(study)
    wait_for(lambda: folder.names("checkpoints") == ["0001", "0002"], 5, "what was stopped is gone")
    wait_for(lambda: folder.names("checkpoints/0001") == ["epoch_000004"], 5, "so is the spare")
    writer.close()
    assert folder.names("checkpoints/0002") == ["epoch_000003", "epoch_000004"]


def test_a_deletion_that_fails_in_any_way_ends_no_writer_in_silence(tmp_path):
    class Odd(Folder):
        def delete(self, name: str = "") -> None:
            raise ValueError("the store has a bug")

    study = one_trial(Odd(tmp_path))
    writer = Writer(study)
    end(study.records["0000"], records.STOPPED, curve(1)[:2])
    writer.put(study.records["0000"])
    time.sleep(0.3)
    study.records["0001"] = Record("0001", records.SEARCH, {}, {"epochs": 4})
    writer.put(study.records["0001"])
    writer.close()
    assert study.folder.exists("trials/0001.json")


def test_what_was_running_when_all_is_closed_is_gone_on_with(tmp_path):
    study = one_trial(Folder(tmp_path))
    study.save()
    writer = Writer(study)
    study.records["0000"].begin()
    writer.put(study.records["0000"])
    writer.close()
    found = records.load(study.folder).records["0000"]
    assert (found.status, found.attempts) == (records.INTERRUPTED, 1)
