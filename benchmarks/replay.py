"""Plays a search on recorded curves: skdtune's sampler and scheduler, and no training.

`play` does in one process what Tune's controller does with a result, in the same order; that it
comes to the same trials as Ray Tune itself is checked by `python -m benchmarks.searching --check`.
"""

import heapq
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from benchmarks import curves
from benchmarks.curves import Table
from skdtune import records
from skdtune.plan import Plan, add_references
from skdtune.records import Record, Study
from skdtune.sampler import OptunaSampler
from skdtune.space import SearchSpace
from trainables import metrics
from trainables.classifier import FINISHED, OUTCOME, ClassifierTrial
from trainables.storage import Folder

TABLE = Path(__file__).parent / "data" / "digits.csv"


@dataclass
class Played:
    """What a search spent and found. best: (epochs spent by all trials until then, best last-epoch
    score of a full budget so far), a pair whenever it rose."""

    epochs: int = 0
    trials: int = 0
    finished: int = 0
    best: list[tuple[int, float]] = field(default_factory=list)

    def reached(self, target: float) -> float:
        """Epochs spent when a score was as high as this; infinity when none was."""
        return next((spent for spent, score in self.best if score >= target), float("inf"))

    def score_at(self, epochs: int) -> float:
        return max((score for spent, score in self.best if spent <= epochs), default=0.0)


@dataclass(eq=False)
class _Trial:
    """What sampler and scheduler see of one of Tune's trials."""

    trial_id: str
    config: dict


def play(
    table: Table,
    space: SearchSpace,
    scheduler: TrialScheduler,
    epochs: int,
    at_once: int,
    references: bool = True,
) -> tuple[Played, Study]:
    """Plays trials until so many epochs are spent or the plan is done, epochs of all trials taking
    the same time. references: the authors' setting and the baseline run first, and are paid for."""
    study = Study("replay", "search", space.document, space.name, folder=Folder("/nowhere"))
    if references:
        add_references(study, space)
    np.random.seed(space.search.sampler.seed)  # Tune's brackets are drawn from it
    plan = Plan(study, space)
    sampler, played = OptunaSampler(space, plan), Played()
    waiting: list[tuple[int, int, _Trial, list[dict]]] = []

    def start(now: int) -> None:
        asked = sampler.suggest(f"tune-{played.trials}")
        if not isinstance(asked, dict):
            assert asked in (None, Searcher.FINISHED)
            return
        trial = _Trial(f"tune-{played.trials}", asked)
        played.trials += 1
        scheduler.on_trial_add(None, trial)
        reports = reports_of(table, study.records[asked["run"]["key"]])
        heapq.heappush(waiting, (now + 1, played.trials, trial, reports))

    for _ in range(at_once):
        start(0)
    while waiting and played.epochs < epochs:
        now, number, trial, reports = heapq.heappop(waiting)
        record = study.records[trial.config["run"]["key"]]
        report = reports[record.epoch]
        record.add(report)
        played.epochs += 1
        if _goes_on(record, trial, report, sampler, scheduler):
            heapq.heappush(waiting, (now + 1, number, trial, reports))
            continue
        if record.status == records.FINISHED:
            played.finished += 1
            score = report[space.search.metric]
            if record.role != records.BASELINE and score > played.score_at(played.epochs):
                played.best.append((played.epochs, score))
        start(now)
    return played, study


def _goes_on(
    record: Record,
    trial: _Trial,
    report: dict,
    sampler: OptunaSampler,
    scheduler: TrialScheduler,
) -> bool:
    """Tells both as Tune's controller does."""
    if report[metrics.EPOCH] >= record.config["epochs"]:
        result = {**report, OUTCOME: FINISHED, "done": True}
        scheduler.on_trial_complete(None, trial, result)
        sampler.on_trial_complete(trial.trial_id, result)
        record.status = records.FINISHED
        return False
    decision = scheduler.on_trial_result(None, trial, report)
    if decision == TrialScheduler.CONTINUE:
        sampler.on_trial_result(trial.trial_id, report)
        return True
    assert decision == TrialScheduler.STOP
    sampler.on_trial_complete(trial.trial_id, {**report, "done": True})
    record.status = records.STOPPED
    return False


def reports_of(table: Table, record: Record) -> list[dict]:
    """The epochs of the recorded setting nearest to the trial's; of the baseline, which no searched
    setting stands for and which takes part in nothing, zeros."""
    count = record.config["epochs"]
    if record.role == records.BASELINE:
        scores = {"val/accuracy": [0.0] * count, "val/loss": [0.0] * count}
    else:
        scores = table.nearest(record.params).scores
    return [
        {metrics.EPOCH: epoch + 1, **{name: values[epoch] for name, values in scores.items()}}
        for epoch in range(count)
    ]


class ReplayTrial(ClassifierTrial):
    """The same for Ray: a trial that reports a recorded curve."""

    def _epochs(self) -> Iterator[dict]:
        table = curves.read(TABLE)
        role = self.run["role"]
        params = {
            path: self.trial["method"][path.partition("/")[2]]
            for path in table.space.parameters
            if role != records.BASELINE and path.partition("/")[2] in self.trial["method"]
        }
        for report in reports_of(table, Record(self.run["key"], role, params, self.trial)):
            yield {**report, metrics.TIMESTAMP: time.time()}


def through_ray(space: SearchSpace) -> Study:
    """The same search by Ray Tune, one trial at a time. Ray must be connected."""
    from rich.console import Console

    from skdtune import tuning
    from skdtune.capacity import Slots
    from skdtune.interrupt import Interrupt
    from skdtune.settings import Resources
    from skdtune.writer import Writer

    with tempfile.TemporaryDirectory() as folder:
        study = Study("replay", "search", space.document, space.name, folder=Folder(folder))
        add_references(study, space)
        resources = Resources(cpu=1)
        slots = Slots(resources, [{"cpu": 1, "gpu": 0}])
        writer, interrupt = Writer(study), Interrupt()
        plan = Plan(study, space, resources)
        quiet = Console(file=io.StringIO())
        tuning.run(plan, resources, slots, writer, interrupt, quiet, ReplayTrial)
        writer.close()
    return study
