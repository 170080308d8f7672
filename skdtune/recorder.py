"""Tune's events to the study's records. It touches memory and hands records on; all it asks for,
every few seconds, is whether Ray is still there."""

from collections.abc import Callable
from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.result import DONE

from skdtune import cluster, records
from skdtune.errors import without_numbers
from skdtune.interrupt import Interrupt
from skdtune.plan import Plan
from skdtune.progress import Progress
from skdtune.records import Record
from skdtune.writer import Writer
from trainables.classifier import OUTCOME, STORAGE_FULL

_SAME_FAILURES = 3
# How Ray says that it has ended a process since its node had no more memory, and how we do.
_NO_RAM = "due to the node running low on memory"
_RAM = (
    "its process was ended, since its node had no memory left: lower --concurrency, "
    "trial.data.workers or trial.data.cache_gib, or raise resources.cpu"
)
_FEWEST = 5  # trials that have ended, before the share of those that failed says anything


class Recorder(tune.Callback):
    """Keeps the records of a running study. Tune tells the sampler of a trial's end before it tells
    the recorder:

        what happened                    | sampler                  | status of the record
        it reports an outcome            | tells it to Optuna       | finished, diverged, failed
        the scheduler stops it           | tells Optuna: pruned     | stopped
        its process dies, Tune retries   | is not told              | interrupted, until it starts
        its process dies, Tune gives up  | Plan.put_back: to run it | interrupted: Plan.holds it
          the same once too often        | tells Optuna: failed     | failed
        any end while the search stops   | leaves it as it is       | interrupted

    doubt: called when a trial has failed in a way that may be its node's."""

    def __init__(
        self,
        plan: Plan,
        writer: Writer,
        interrupt: Interrupt,
        progress: Progress,
        doubt: Callable[[], None],
    ):
        self.plan, self.study = plan, plan.study
        self.writer, self.interrupt, self.progress = writer, interrupt, progress
        self.doubt = doubt
        self.ray = cluster.Watch()
        ended = [r for r in plan.known if r.has_ended]
        self.ended, self.failed = len(ended), sum(r.status == records.FAILED for r in ended)
        worked = any(r.status != records.FAILED and not r.is_beside for r in ended)
        # None once a trial has ended without an error
        self.first_failures: list[str] | None = None if worked else []

    def on_step_end(self, iteration: int, trials: list[Trial], **info) -> None:
        self.progress.refresh()
        if self.writer.error:
            self.interrupt.fail(f"the study cannot be written: {self.writer.error}")
        try:
            self.ray.check()
        except cluster.Lost as error:
            self.interrupt.fail(str(error))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info) -> None:
        record = self._record(trial)
        record.begin()
        self._changed(record)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info
    ) -> None:
        record = self._record(trial)
        new = record.hear(result)
        if result.get(DONE) and OUTCOME not in result:  # the scheduler stops it: in this one write
            self._end(record, records.STOPPED)
        elif new:
            self._changed(record)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info) -> None:
        record, result = self._record(trial), trial.last_result or {}
        if record.has_ended:
            return
        outcome, error = result.get(OUTCOME), result.get("error", "")
        if outcome == STORAGE_FULL:
            self.interrupt.fail(f"the study's storage is full: {error}")
        if outcome in (None, STORAGE_FULL) and self.interrupt.reason:
            record.error, record.status = error, records.INTERRUPTED
            self._changed(record)
        else:
            self._end(record, outcome or records.STOPPED, error, result.get("details", ""))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info) -> None:
        text, record = _error_text(trial), self._record(trial)
        if "OutOfMemoryError" not in text:  # which says nothing of its node
            self.doubt()
        if _NO_RAM in text and _RAM not in record.warnings:
            record.warnings.append(_RAM)
        if not record.has_ended:  # it waits for a process, and for a node if there is none
            record.status = records.INTERRUPTED
            self._changed(record)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info) -> None:
        self.on_trial_recover(iteration, trials, trial)
        record = self._record(trial)
        if record.has_ended:
            return
        if self.interrupt.reason or self.plan.holds(record):  # the sampler was told first
            record.status = records.INTERRUPTED
            self._changed(record)
        else:
            details = _error_text(trial)
            self._end(record, records.FAILED, _in_a_line(details), details)

    def __getstate__(self) -> dict:
        return {}  # Tune pickles it into snapshots that nobody reads

    def get_state(self) -> None:
        return None

    def _end(self, record: Record, status: str, error: str = "", details: str = "") -> None:
        record.end(status, error, details)
        self._changed(record)
        self.progress.ended(record)
        self._stop_when_hopeless(record)

    def _stop_when_hopeless(self, record: Record) -> None:
        """The first trials all failed with one error, or of all too many did: so would the
        others."""
        self.ended += 1
        self.failed += record.status == records.FAILED
        most = self.plan.space.search.max_failed_fraction
        if self.ended >= _FEWEST and self.failed > most * self.ended:
            self.interrupt.request(
                f"{self.failed} of {self.ended} trials failed, more than "
                f"search.max_failed_fraction ({most:g}) allows; the last: {record.error}"
            )
        if record.status != records.FAILED:
            self.first_failures = None
        if self.first_failures is None:
            return
        self.first_failures.append(record.error)
        count, alike = len(self.first_failures), set(map(without_numbers, self.first_failures))
        if count >= _SAME_FAILURES and len(alike) == 1:
            first = self.first_failures[0]
            self.interrupt.request(f"the first {count} trials failed alike: {first}")

    def _record(self, trial: Trial) -> Record:
        return self.study.records[trial.config["run"]["key"]]

    def _changed(self, record: Record) -> None:
        self.writer.put(record)
        self.progress.changed(record)


def _in_a_line(details: str) -> str:
    if _NO_RAM in details:  # behind which Ray lists who has it
        return _RAM
    lines = details.strip().splitlines()
    return lines[-1] if lines else "its process died"


def _error_text(trial: Trial) -> str:
    """What Tune wrote down of the last failure."""
    try:
        return Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError):  # it wrote nothing
        return ""
