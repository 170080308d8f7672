"""Final training: one config at full length over several seeds, scored once on the test set."""

import time
from collections.abc import Callable
from typing import Any

import torch

from skdtune import comparison, conclusion, final_run, records, signals, teachers
from skdtune.artifacts import RESULT
from skdtune.errors import ConfigError
from skdtune.records import Record, Study
from skdtune.writer import Writer
from trainables import metrics
from trainables.classifier import UnfitNode, is_of_the_gpu, is_passing
from trainables.sources import DataError
from trainables.watchdog import SILENCE_S, Watchdog

_LINE_EVERY_S = 10.0
PAUSES_S = (1.0, 5.0, 20.0)  # before what may pass is tried again


def add_seeds(
    study: Study, config: dict, count: int, compare: dict[str, dict] | None = None
) -> list[Record]:
    """Puts `count` seeds of the config on the books, then as many of each one to compare it with,
    and before each the teacher that it learns from when it names none: the same network, trained
    by itself on the same seed. Those that are there stay, and what failed is tried again. Returns
    what is to be trained, in order.

    The seeds go on from the config's own; one that a search has found was chosen on that seed, and
    where it had finalists on some more, so they begin behind those. Errors: ConfigError for one to
    compare with that was another before, and for a training whose seeds had one teacher
    together."""
    _refuse_shared_teacher(study)
    first = config.get("seed", 0) + _seeds_of_search(study.space.get("provenance"))
    wanted: dict[str, Record] = {}
    for name, one in {records.SEED: config, **(compare or {})}.items():
        role = records.SEED if name == records.SEED else records.COMPARED
        for index in range(count):
            key = comparison.key(name, index)
            own = study.records.get(comparison.key(records.SEED, index))
            seed = own.seed if own else first + index  # as that of the config, to compare with it
            wanted[key] = Record(key, role, {}, {**one, "seed": seed})
    comparison.refuse_changes(study, wanted)
    study.records = wanted | study.records
    chosen = _with_teachers(study, list(wanted))
    study.records = {record.key: record for record in chosen} | study.records
    for record in chosen:
        record.retry()
    return chosen


def refuse_seeds_of_search(study: Study, document: dict) -> None:
    """Errors: ConfigError when runs of the training have seeds on which the config was chosen: a
    search whose finalists were asked for later makes such seeds of them."""
    first = document["trial"].get("seed", 0)
    behind = first + _seeds_of_search(document.get("provenance"))
    used = sorted({r.seed for r in study.records.values() if first <= r.seed < behind})
    if used:
        problem = (
            f"{study.folder.uri} has runs of seed {', '.join(map(str, used))}, on which the search "
            "has chosen the config since; give another --output"
        )
        raise ConfigError("--output", [problem])


def _seeds_of_search(origin: Any) -> int:
    """On how many seeds a search has chosen the config; a best.yaml from before finalists existed
    does not say it."""
    if not origin:
        return 0
    found = origin.get("search_seeds", 1) if isinstance(origin, dict) else 1
    return found if type(found) is int and found > 0 else 1


def _refuse_shared_teacher(study: Study) -> None:
    """Errors: ConfigError for a training of before, whose key says that it had one for all."""
    if records.TEACHER in study.records:
        problem = f"{study.folder.uri} was begun when one teacher taught all seeds together"
        raise ConfigError("--output", [f"{problem}; give another --output"])


def _with_teachers(study: Study, keys: list[str]) -> list[Record]:
    """The records of the keys, each behind the run that teaches it, if one must."""
    chosen: dict[str, Record] = {}
    for key in keys:
        record = study.records[key]
        if teachers.needs_own(record.config):
            record.teacher = _teacher(study, record)
            chosen.setdefault(record.teacher, study.records[record.teacher])
        chosen.setdefault(key, record)
    return list(chosen.values())


def _teacher(study: Study, record: Record) -> str:
    """The key of the run that teaches it: the one that did before; else any that is trained just
    so, such as the baseline's of that seed; else one of its own, new on the books."""
    if record.teacher in study.records:
        return record.teacher
    plain = teachers.plain(record.config)
    for other in study.records.values():
        # one that finished with nobody to teach has not kept its weights
        if other.config == plain and (
            other.status != records.FINISHED or teachers.has_own(study.folder, other.key)
        ):
            return other.key
    key = f"{records.TEACHER}-{record.key.removeprefix(f'{records.SEED}-')}"
    study.records[key] = Record(key, records.TEACHER, {}, plain)
    return key


class Desk:
    """Keeps the records of the runs and says what becomes of them, whichever process trains.

    say: prints a line."""

    def __init__(self, study: Study, writer: Writer, say: Callable[[str], None]):
        self.study, self.writer, self.say = study, writer, say
        self._said = time.monotonic()

    def waits(self, record: Record) -> bool | None:
        """Whether its teacher must be trained first; None when it will never be."""
        if not record.teacher:
            return False
        if self.study.has_lost_teacher(record):
            return None
        return self.study.records[record.teacher].status != records.FINISHED

    def begin(self, record: Record) -> None:
        record.begin()
        self.writer.put(record)

    def tell(self, record: Record, event: dict[str, Any]) -> None:
        """event: one of `final_run.events`."""
        record.hear(event)
        self.writer.put(record)
        if "report" in event and time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            progress = f"epoch {record.epoch}/{record.config['epochs']}"
            self.say(f"{record.key}: {progress}, loss {record.last[metrics.LOSS_TOTAL]:.4f}")

    def end(
        self, record: Record, status: str = records.FINISHED, error: str = "", details: str = ""
    ) -> None:
        record.end(status, error, details)
        self.writer.put(record)
        if status == records.FINISHED:
            self.say(f"{record.key}: test/accuracy {record.last['test/accuracy']:.4f}")
        else:
            self.say(f"{record.key} {status}: {error}")
            taught = [r.key for r in self.study.records.values() if r.teacher == record.key]
            if taught:
                self.say(f"not trained without this teacher: {', '.join(taught)}")
        seeds = [r for r in self.study.records.values() if r.role == records.SEED]
        if all(record.has_ended for record in seeds):  # what it is compared with may come later
            write_result(self.study)


class GpuLost(Exception):
    """This process can no longer use its GPU; another may."""


def train(study: Study, wanted: list[Record], desk: Desk, device: torch.device) -> None:
    """Trains what has not ended in this process and on this device, one after the other, each from
    its last checkpoint, and saves the models of the seeds. A process that hangs ends itself. One
    run that fails leaves the others alone, but for a teacher those whom it was to teach; one that
    fails with the GPU leaves them for another process.

    Errors: KeyboardInterrupt when the program is stopped, GpuLost, each with the study
    resumable."""
    for record in wanted:
        if record.has_ended or desk.waits(record) is None:
            continue
        is_gpu_lost = _train(study, record, desk, device)
        if is_gpu_lost:
            write_result(study)
            raise GpuLost("the GPU is lost to this process, another may have it")
    write_result(study)


def _train(study: Study, record: Record, desk: Desk, device: torch.device) -> bool:
    """One run; what may pass, such as a storage that is away, is tried again a few times. Whether
    it failed with the GPU: its error itself would hold on to all that it has there."""
    watchdog = Watchdog(SILENCE_S)
    for pause_s in (*PAUSES_S, None):
        desk.begin(record)
        try:
            final_run.release()
            watchdog.beat()
            with watchdog.pausable():
                for event in final_run.events(final_run.task(study, record), device, watchdog.beat):
                    desk.tell(record, event)
                    signals.check()
        except Exception as error:  # noqa: BLE001 - such as a GPU without memory left
            unfit = isinstance(error, UnfitNode | DataError) or is_of_the_gpu(error)
            passes = is_passing(error) and not unfit
            if isinstance(error, torch.OutOfMemoryError):  # a neighbour may have taken it
                passes = pause_s == PAUSES_S[0]
            if pause_s is None or not passes:
                desk.end(record, **final_run.failure(error))
                return is_of_the_gpu(error)
            time.sleep(pause_s)
        else:
            desk.end(record)
            break
        finally:
            watchdog.rest()
    return False


def write_result(study: Study) -> None:
    """What it has come to so far, as a file."""
    study.folder.write(RESULT, conclusion.as_json(study).encode())
