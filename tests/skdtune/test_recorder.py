"""Tune's events to records, with stand-ins for Tune's trials: no cluster."""

import io

import pytest
from rich.console import Console

from skdtune import recorder, records
from skdtune.interrupt import Interrupt
from skdtune.plan import Plan
from skdtune.progress import Progress
from skdtune.recorder import Recorder
from skdtune.records import Record
from skdtune.writer import Writer
from tests.skdtune.builders import build_space, curve, new_study, report, tune_trial, wait_for
from trainables.storage import Folder


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


class Desk:
    """A recorder with all it needs, and the trials it is told of."""

    def __init__(self, folder):
        self.space = build_space(trials=8)
        self.study = new_study(folder, self.space)
        self.study.folder = Watched(folder)
        self.study.save()
        self.stops, self.doubts = 0, []
        self.resumed()

    def resumed(self) -> None:
        """Begins with the study as it stands."""
        self.plan = Plan(self.study, self.space)
        self.plan.queue.clear()  # as when all have been started
        self.interrupt = Interrupt()
        self.interrupt.on_stop = self._stopped
        self.output = io.StringIO()
        progress = Progress(self.plan, Console(file=self.output, width=300))
        self.writer = Writer(self.study)
        self.recorder = Recorder(
            self.plan, self.writer, self.interrupt, progress, lambda: self.doubts.append(1)
        )

    def _stopped(self) -> None:
        self.stops += 1
        self.plan.interrupted = True

    def trial(self, key: str):
        if key not in self.study.records:
            assert self.plan.new({"method/variant": "dsr"}).key == key
        return tune_trial(f"tune-{key}", self.study.records[key])

    def start(self, key: str):
        trial = self.trial(key)
        self.recorder.on_trial_start(0, [], trial)
        return trial

    def result(self, trial, **result) -> None:
        trial.last_result = {"host": "node-7", "worker": 1, "warnings": [], **result}
        self.recorder.on_trial_result(0, [], trial, trial.last_result)

    def epoch(self, trial, line: dict, **more) -> None:
        self.result(trial, report=list(line.items()), **line, **more)

    def complete(self, trial) -> None:
        self.recorder.on_trial_complete(0, [], trial)

    def fail(self, key: str, text: str, tmp_path) -> None:
        """Tune gave the trial's process up."""
        trial = self.start(key)
        if text:
            place = tmp_path / f"error-{key}.txt"
            place.write_bytes(text.encode(errors="surrogateescape"))
            trial.error_file = str(place)
        self.recorder.on_trial_error(0, [], trial)


@pytest.fixture
def desk(tmp_path):
    found = Desk(tmp_path / "study")
    yield found
    if found.writer._thread.is_alive():
        found.writer.close()


def on_disk(desk: Desk, key: str) -> Record:
    desk.writer.close()
    return records.load(desk.study.folder).records[key]


def test_a_trial_that_finishes(desk):
    trial = desk.start("0000")
    assert desk.study.records["0000"].status == records.RUNNING
    for line in curve(0)[:3]:
        desk.epoch(trial, line)
    desk.epoch(trial, curve(0)[3], outcome="finished", done=True)
    desk.complete(trial)
    record = on_disk(desk, "0000")
    assert record == desk.study.records["0000"]
    assert record.status == records.FINISHED
    assert record.epochs == curve(0)
    assert (record.attempts, record.host, record.error) == (1, "node-7", "")
    assert record.started <= record.ended
    assert ("delete", "checkpoints/0000") not in desk.study.folder.seen
    assert "trial 0000 finished" in desk.output.getvalue()


def test_a_trial_that_the_scheduler_stops(desk):
    trial = desk.start("0002")
    desk.epoch(trial, curve(2)[0])
    desk.complete(trial)
    record = on_disk(desk, "0002")
    assert (record.status, record.epochs) == (records.STOPPED, curve(2)[:1])
    assert record.ended is not None


def test_a_trial_that_diverges_keeps_its_curve_and_says_why(desk):
    trial = desk.start("0002")
    desk.epoch(trial, curve(2)[0])
    desk.result(trial, outcome="diverged", error="not finite in epoch 2: loss/ce", details="")
    desk.complete(trial)
    record = on_disk(desk, "0002")
    assert record.status == records.DIVERGED
    assert record.error == "not finite in epoch 2: loss/ce"
    assert record.epochs == curve(2)[:1]


def test_a_trial_whose_code_fails_keeps_the_traceback(desk):
    trial = desk.start("0002")
    desk.result(trial, outcome="failed", error="ValueError: no", details="Traceback ...")
    desk.complete(trial)
    record = on_disk(desk, "0002")
    assert (record.status, record.error) == (records.FAILED, "ValueError: no")
    assert record.details == "Traceback ..."
    assert record.epochs == []


def test_a_trial_whose_process_dies_has_the_last_line_of_tunes_text(desk, tmp_path):
    desk.fail("0002", "Traceback\n  File x\nRayActorError: it died\n\n", tmp_path)
    desk.fail("0003", "", tmp_path)
    desk.fail("0004", "OSError: \udcff.png", tmp_path)
    desk.writer.close()
    found = records.load(desk.study.folder).records
    assert {key: record.status for key, record in found.items()} == {
        "0002": records.FAILED,
        "0003": records.FAILED,
        "0004": records.FAILED,
    }
    assert found["0002"].error == "RayActorError: it died"
    assert found["0002"].details.startswith("Traceback")
    assert found["0003"].error == "its process died"
    assert found["0004"].error == "OSError: �.png"


@pytest.mark.parametrize("how", ["complete", "error"])
def test_a_trial_that_a_signal_ends_is_to_be_gone_on_with(desk, how):
    trial = desk.start("0002")
    desk.epoch(trial, curve(2)[0])
    desk.interrupt.request("SIGTERM")
    getattr(desk.recorder, f"on_trial_{how}")(0, [], trial)
    record = on_disk(desk, "0002")
    assert (record.status, record.ended) == (records.INTERRUPTED, None)
    assert record.epochs == curve(2)[:1]
    assert not [step for step in desk.study.folder.seen if step[0] == "delete"]


def test_a_trial_that_comes_to_its_end_while_a_signal_stops_the_rest_has_ended(desk):
    trial = desk.start("0002")
    desk.interrupt.request("SIGINT")
    desk.epoch(trial, {**report(4, 0.5)}, outcome="finished", done=True)
    desk.complete(trial)
    assert on_disk(desk, "0002").status == records.FINISHED


def test_every_start_is_an_attempt_and_the_first_is_when_it_began(desk):
    trial = desk.start("0002")
    began = desk.study.records["0002"].started
    desk.epoch(trial, curve(2)[0])
    desk.start("0002")
    desk.start("0002")
    record = on_disk(desk, "0002")
    assert (record.attempts, record.started) == (3, began)
    assert record.epochs == curve(2)[:1]


def test_an_epoch_that_a_retry_reports_again_changes_nothing(desk):
    trial = desk.start("0002")
    for line in curve(2)[:2]:
        desk.epoch(trial, line)
    desk.epoch(trial, {**curve(2)[0], "val/accuracy": 0.0})
    desk.epoch(trial, curve(2)[2])
    assert on_disk(desk, "0002").epochs == curve(2)[:3]


def test_warnings_are_kept_once_each(desk):
    trial = desk.start("0002")
    skipped = "checkpoint epoch_000002 skipped: its bytes are not those that were written"
    for line in curve(2)[:2]:
        desk.epoch(trial, line, warnings=[skipped])
    desk.result(trial, warnings=[skipped, "another"])
    assert on_disk(desk, "0002").warnings == [skipped, "another"]


@pytest.mark.parametrize("outcome", ["diverged", None])
def test_checkpoints_go_only_when_the_record_says_that_they_are_not_needed(desk, outcome):
    trial = desk.start("0002")
    desk.study.folder.write("checkpoints/0002/epoch_000001/state.pt", b"x")
    wait_for(lambda: desk.study.folder.exists("trials/0002.json"), 5, "the start is written")
    desk.study.folder.seen.clear()
    if outcome:
        desk.result(trial, outcome=outcome, error="e", details="")
    desk.complete(trial)
    desk.writer.close()
    assert on_disk(desk, "0002").status == (outcome or "stopped")
    assert desk.study.folder.seen[-1] == ("delete", "checkpoints/0002")
    assert desk.study.folder.seen[-2] == ("write", "trials/0002.json")


def test_what_finished_keeps_its_last_checkpoint_alone(desk):
    trial = desk.start("0000")
    for name in ("epoch_000003/state.pt", "epoch_000004/state.pt", "attempt.json"):
        desk.study.folder.write(f"checkpoints/0000/{name}", b"x")
    newest = "checkpoints/0000/epoch_000004"
    desk.epoch(trial, curve(0)[0], outcome="finished", checkpoint=newest, done=True)
    desk.complete(trial)
    desk.writer.close()
    assert desk.study.folder.names("checkpoints/0000") == ["epoch_000004"]
    seen = desk.study.folder.seen
    written = max(index for index, what in enumerate(seen) if what[1] == "trials/0000.json")
    deleted = min(index for index, (what, _) in enumerate(seen) if what == "delete")
    assert written < deleted


def test_what_failed_keeps_its_checkpoints_for_a_resume(desk):
    trial = desk.start("0002")
    desk.study.folder.write("checkpoints/0002/epoch_000001/state.pt", b"x")
    desk.result(trial, outcome="failed", checkpoint="checkpoints/0002/epoch_000001", details="")
    desk.complete(trial)
    desk.writer.close()
    assert desk.study.folder.exists("checkpoints/0002/epoch_000001/state.pt")
    assert desk.study.records["0002"].checkpoint == "checkpoints/0002/epoch_000001"


def test_a_full_storage_stops_the_search_and_the_trial_is_gone_on_with(desk):
    trial = desk.start("0002")
    desk.result(trial, outcome="storage full", error="StorageFull: no space left", details="")
    desk.complete(trial)
    assert desk.interrupt.stop_all()
    assert desk.interrupt.failure == "the study's storage is full: StorageFull: no space left"
    assert desk.study.records["0002"].status == records.INTERRUPTED


def test_three_first_failures_of_one_kind_stop_the_search(desk):
    """Alike but for numbers: of processes, of bytes."""
    for index, key in enumerate(("0000", "0001", "0002")):
        assert not desk.interrupt.stop_all()
        trial = desk.start(key)
        text = f"OutOfMemoryError: process {1000 + index} has 2.{index} GiB"
        desk.result(trial, outcome="failed", error=text, details="")
        desk.complete(trial)
    assert desk.interrupt.stop_all()
    alike = "the first 3 trials failed alike: OutOfMemoryError: process 1000 has 2.0 GiB"
    assert desk.interrupt.reason == alike
    assert desk.stops == 1
    assert desk.plan.interrupted
    assert desk.study.records["0002"].status == records.FAILED, "its failure counts"


def test_three_failures_that_a_resume_tries_again_do_not_stop_a_search_that_has_worked(desk):
    for number, status in enumerate(["finished"] * 4 + ["failed"]):
        desk.trial(f"{number:04d}")
        desk.study.records[f"{number:04d}"].end(status)
        desk.study.records[f"{number:04d}"].retry()
    desk.resumed()
    for number in range(4, 8):
        trial = desk.start(f"{number:04d}")
        desk.result(trial, outcome="failed", error="as before", details="")
        desk.complete(trial)
    assert not desk.interrupt.stop_all()


def test_more_failures_than_are_allowed_stop_the_search(desk):
    """Of all that have ended; what a resume tries again has not, until it fails again."""
    outcomes = ["finished", "failed", "diverged", "failed", "failed"]
    for index, outcome in enumerate(outcomes):
        assert not desk.interrupt.stop_all()
        trial = desk.start(f"{index:04d}")
        desk.result(trial, outcome=outcome, error=f"error {index}", details="")
        desk.complete(trial)
    told = "3 of 5 trials failed, more than search.max_failed_fraction (0.5) allows; the last: err"
    assert desk.interrupt.reason.startswith(told)
    for record in desk.study.records.values():
        record.retry()
    desk.resumed()
    for key, outcome in (("0001", "failed"), ("0003", "finished"), ("0004", "failed")):
        trial = desk.start(key)
        desk.result(trial, outcome=outcome, error="again", details="")
        desk.complete(trial)
    assert not desk.interrupt.stop_all()


@pytest.mark.parametrize(
    "outcomes",
    [
        [("failed", "a"), ("failed", "a")],
        [("failed", "a"), ("failed", "aa"), ("failed", "a")],
        [("failed", "a"), ("failed", "b"), ("failed", "a")],
        [("finished", ""), ("failed", "a"), ("failed", "a"), ("failed", "a")],
        [("diverged", "a"), ("diverged", "a"), ("diverged", "a")],
        [("failed", "a"), ("failed", "a"), ("diverged", "a"), ("failed", "a")],
    ],
)
def test_other_failures_do_not(desk, outcomes):
    for index, (outcome, error) in enumerate(outcomes):
        trial = desk.start(f"{index:04d}")
        desk.result(trial, outcome=outcome, error=error, details="")
        desk.complete(trial)
    assert not desk.interrupt.stop_all()


def test_a_study_that_cannot_be_written_stops_the_search(desk):
    desk.recorder.on_step_end(0, [])
    assert not desk.interrupt.stop_all()
    desk.writer._failed["trials/0000.json"] = OSError(28, "No space left on device")
    desk.recorder.on_step_end(1, [])
    desk.recorder.on_step_end(2, [])
    assert "cannot be written" in desk.interrupt.reason
    assert "No space left" in desk.interrupt.reason
    assert desk.stops == 1
    desk.writer._failed.clear()


def test_a_snapshot_of_tune_holds_nothing_of_it(desk):
    assert desk.recorder.__getstate__() == {}
    assert desk.recorder.get_state() is None
    assert desk.interrupt.__getstate__() == {}
    assert desk.interrupt("trial", {}) is False


def test_a_trial_that_is_put_back_has_not_ended(tmp_path):
    desk = Desk(tmp_path)
    desk.start("0002")
    assert desk.plan.put_back(desk.study.records["0002"])
    desk.fail("0002", "ActorDiedError: its process died", tmp_path)
    assert desk.study.records["0002"].status == records.INTERRUPTED
    assert desk.study.records["0002"].ended is None


def test_a_stop_is_on_disk_with_the_epoch_that_led_to_it(desk):
    """Else a driver killed between the two would let the trial go on past its rung."""
    trial = desk.start("0002")
    desk.epoch(trial, curve(2)[0], done=True)  # as Tune tells the callbacks before it acts
    wait_for(lambda: not desk.writer._changed, 10, "the record to be written")
    record = desk.study.records["0002"]
    ended = record.ended
    assert on_disk(desk, "0002").status == records.STOPPED
    desk.interrupt.request("SIGTERM")
    desk.complete(trial)
    desk.recorder.on_trial_error(0, [], trial)
    assert (record.status, record.ended, record.error) == (records.STOPPED, ended, "")
    assert desk.output.getvalue().count("trial 0002 stopped") == 1


def test_after_a_failure_that_may_be_its_nodes_the_nodes_are_in_doubt(desk):
    trial = desk.trial("0000")
    desk.recorder.on_trial_start(0, [], trial)
    desk.recorder.on_trial_recover(0, [], trial)
    assert len(desk.doubts) == 1
    assert desk.study.records["0000"].status == records.INTERRUPTED, "until it is tried again"
    desk.recorder.on_trial_start(0, [], trial)
    assert desk.study.records["0000"].status == records.RUNNING
    desk.recorder.on_trial_error(0, [], trial)
    assert len(desk.doubts) == 2


def test_a_process_ended_for_want_of_memory_is_told_with_the_mend(desk, tmp_path):
    """As Ray 2.60 says it, with a page of who has the memory behind."""
    text = "ray.exceptions.OutOfMemoryError: 1 worker(s) were killed due to the node running low on"
    text += " memory. Memory on the node (IP: 192.0.2.2) was 2.61GB\nTop 10\n32426\t0.76\tpython\n"
    desk.fail("0000", text, tmp_path)
    record = desk.study.records["0000"]
    assert record.error.startswith("its process was ended, since its node had no memory left: low")
    assert record.warnings == [record.error]
    assert record.details == text
    assert desk.doubts == [], "another trial may fit there"


def test_a_ray_that_has_died_stops_the_search(desk, monkeypatch):
    lost = [False]
    monkeypatch.setattr(recorder.cluster, "_LOOK_EVERY_S", -1.0)
    monkeypatch.setattr(recorder.cluster, "_is_lost", lambda: lost[0])
    desk.recorder.on_step_end(0, [])
    assert not desk.interrupt.failure
    lost[0] = True
    desk.recorder.on_step_end(0, [])
    assert desk.interrupt.failure == "Ray has died on this machine"
