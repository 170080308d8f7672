"""Early stopping: what is never stopped, and rungs that a resume refills from the records."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from skdtune import records, scheduler
from skdtune.records import Record
from skdtune.scheduler import StudyAsha
from tests.skdtune.builders import build_space, end, mixed_study, report, tune_trial

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
EPOCHS = 9


def asha_space(metric: str = "val/accuracy", grace: int = 1, factor: float = 3):
    from tests.skdtune.builders import CONDITIONAL

    text = CONDITIONAL.replace("epochs: 4", f"epochs: {EPOCHS}")
    chosen = {"name": "asha", "grace_period": grace, "reduction_factor": factor}
    return build_space(text, metric=metric, scheduler=chosen)


def trial_record(index: int, role: str = records.SEARCH) -> Record:
    return Record(f"{index:04d}", role, {"method/alpha": 1.0}, {"epochs": EPOCHS})


class Cluster:
    """Trials under one scheduler, as Tune shows them to it."""

    def __init__(self, space, known=(), prefix: str = "tune"):
        self.asha = scheduler.build(space, known)
        self.prefix = prefix
        self.trials: dict[str, SimpleNamespace] = {}

    def report(self, record: Record, line: dict) -> str:
        """The scheduler's decision on an epoch."""
        if record.key not in self.trials:
            trial = tune_trial(f"{self.prefix}-{record.key}", record, record.is_beside)
            self.trials[record.key] = trial
            self.asha.on_trial_add(None, trial)
        trial = self.trials[record.key]
        if line["epoch"] == EPOCHS:  # Tune then only tells that it is complete
            self.asha.on_trial_complete(None, trial, line)
            return CONTINUE
        return self.asha.on_trial_result(None, trial, line)


def rungs(asha: StudyAsha) -> list[tuple[float, list[float]]]:
    return [(at, sorted(recorded.values())) for at, recorded in asha._brackets[0]._rungs]


def test_none_stops_nothing_and_is_first_in_first_out():
    chosen = scheduler.build(build_space(scheduler={"name": "none"}), [])
    assert type(chosen) is FIFOScheduler


def test_the_rungs_are_those_of_the_space():
    asha = scheduler.build(asha_space(grace=2, factor=2), [])
    assert [milestone for milestone, _ in rungs(asha)] == [8, 4, 2]


@pytest.mark.parametrize(
    ("metric", "better", "worse"), [("val/accuracy", 1, -1), ("val/loss", -1, 1)]
)
def test_a_trial_behind_is_stopped_at_a_rung_and_one_ahead_goes_on(metric, better, worse):
    cluster = Cluster(asha_space(metric, factor=2))

    def decision(index: int, score: float) -> str:
        return cluster.report(trial_record(index), {"epoch": 1, metric: score})

    assert decision(0, 0.5) == CONTINUE
    assert decision(1, 0.5 + 0.1 * better) == CONTINUE
    assert decision(2, 0.5 + 0.2 * worse) == STOP


def test_between_rungs_nothing_is_stopped():
    cluster = Cluster(asha_space(factor=3))
    good, bad = trial_record(0), trial_record(1)
    for epoch in (1, 2, 3, 4):
        cluster.report(good, report(epoch, 0.9))
    assert cluster.report(bad, report(1, 0.95)) == CONTINUE
    assert cluster.report(bad, report(2, 0.0)) == CONTINUE
    assert cluster.report(bad, report(3, 0.0)) == STOP


@pytest.mark.parametrize("role", [records.DEFAULT, records.BASELINE])
def test_what_the_winner_is_measured_against_is_never_stopped(role):
    cluster = Cluster(asha_space(factor=2))
    for index in (2, 3, 4):
        for epoch in range(1, EPOCHS):
            cluster.report(trial_record(index), report(epoch, 0.9))
    record = trial_record(0 if role == records.DEFAULT else 1, role)
    for epoch in range(1, EPOCHS):
        assert cluster.report(record, report(epoch, 0.001 * epoch)) == CONTINUE


def test_the_authors_default_takes_part_in_the_rungs_and_the_baseline_beside_does_not():
    cluster = Cluster(asha_space())
    cluster.report(trial_record(0, records.DEFAULT), report(1, 0.5))
    cluster.report(trial_record(1, records.BASELINE), report(1, 0.9))
    assert rungs(cluster.asha)[-1] == (1, [0.5])


def test_a_baseline_that_is_the_first_trial_of_its_space_takes_part():
    cluster = Cluster(asha_space())
    cluster.report(trial_record(0, records.BASELINE), report(1, 0.5))
    assert rungs(cluster.asha)[-1] == (1, [0.5])


def test_records_fill_the_rungs_and_the_baseline_does_not(tmp_path):
    study = mixed_study(tmp_path, unfinished=True)
    asha = scheduler.build(build_space(), study.records.values())
    expected = {1: [], 2: [], 4: []}
    for record in study.records.values():
        if record.role != records.BASELINE:
            for line in record.epochs:
                expected.setdefault(line["epoch"], []).append(line["val/accuracy"])
    filled = dict(rungs(asha))
    for milestone in (1, 2):
        assert filled[milestone] == sorted(expected[milestone])


def test_a_trial_without_an_epoch_fills_nothing():
    asha = scheduler.build(asha_space(), [trial_record(3)])
    assert all(values == [] for _, values in rungs(asha))


def test_a_report_without_metrics_stops_nothing():
    cluster = Cluster(asha_space())
    record = trial_record(3)
    assert cluster.report(record, report(1, 0.5)) == CONTINUE
    trial = cluster.trials["0003"]
    assert cluster.asha.on_trial_result(None, trial, {"outcome": "diverged"}) == CONTINUE
    cluster.asha.on_trial_complete(None, trial, {"outcome": "diverged"})


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), metric=st.sampled_from(["val/accuracy", "val/loss"]))
def test_after_a_resume_the_decisions_are_those_of_the_unbroken_run(seed, metric):
    """Random curves, four trials at a time in random order, broken off anywhere."""
    generator = random.Random(seed)
    space = asha_space(metric, generator.choice([1, 2]), generator.choice([2, 3]))
    curves = {
        f"{index:04d}": [report(epoch, generator.random()) for epoch in range(1, EPOCHS + 1)]
        for index in range(14)
    }
    order = [generator.randrange(4) for _ in range(14 * EPOCHS)]
    cut = generator.randrange(5, 60)

    def run(breaks_at: int | None) -> list[tuple[str, int, str]]:
        found, decisions = {}, []
        cluster = Cluster(space)
        for key in curves:
            role = {0: records.DEFAULT, 1: records.BASELINE}.get(int(key), records.SEARCH)
            found[key] = trial_record(int(key), role)
        for step, slot in enumerate(order):
            if step == breaks_at:
                cluster = Cluster(space, [r for r in found.values() if r.epochs], "resumed")
            live = [record for record in found.values() if not record.has_ended][:4]
            if not live:
                break
            record = live[slot % len(live)]
            line = curves[record.key][record.epoch]
            decision = cluster.report(record, line)
            record.add(line)
            decisions.append((record.key, record.epoch, decision))
            if decision == STOP:
                end(record, records.STOPPED, record.epochs)
            elif record.epoch == EPOCHS:
                end(record, records.FINISHED, record.epochs)
        return decisions

    unbroken = run(None)
    assert run(cut) == unbroken


def test_settings_of_tune_change_nothing():
    asha = scheduler.build(asha_space("val/loss"), [])
    assert asha.set_search_properties("val/accuracy", "max")
    assert (asha.metric, asha._metric_op) == ("val/loss", -1.0)
