"""Optuna as Tune's searcher: what is suggested, what is told, and what a resume rebuilds."""

import math
import warnings

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from skdtune import records
from skdtune.plan import Plan
from skdtune.records import DIVERGED, FAILED, FINISHED, STOPPED
from skdtune.sampler import OptunaSampler
from tests.skdtune.builders import (
    CONDITIONAL,
    CROSS_ENTROPY,
    EPOCHS,
    Player,
    build_space,
    curve,
    end,
    new_study,
    report,
)

ENDINGS = [(FINISHED, EPOCHS), (STOPPED, 2), (DIVERGED, 1), (FAILED, 0), (DIVERGED, 0), (FAILED, 3)]


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def player(folder, outcome=lambda record: (FINISHED, EPOCHS), **search) -> Player:
    wanted = build_space(**search)
    plan = Plan(new_study(folder, wanted), wanted)
    return Player(plan, OptunaSampler(wanted, plan), outcome)


def rebuilt(before: Player, **search) -> Player:
    """What `--resume` makes of the records alone."""
    wanted = build_space(**search)
    study = before.plan.study
    plan = Plan(study, wanted)
    return Player(plan, OptunaSampler(wanted, plan), before.outcome)


def various(record) -> tuple:
    return ENDINGS[int(record.key) % len(ENDINGS)]


def facts(sampler: OptunaSampler) -> list[tuple]:
    return [
        (trial.params, trial.distributions, trial.values, trial.state, trial.intermediate_values)
        for trial in sampler.study.trials
        if trial.state.is_finished()
    ]


SAMPLERS = ["tpe", pytest.param("gp", marks=pytest.mark.slow), "random"]  # gp takes 20 s


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_suggests_as_many_trials_as_asked_and_the_baseline(tmp_path, name):
    play = player(tmp_path, trials=12, sampler={"name": name, "startup_trials": 3})
    play.run()
    found = play.plan.study.records
    assert len(found) == 12 + 1
    assert play.order == sorted(found)
    assert play.sampler.suggest("one more") == Searcher.FINISHED
    assert len(play.sampler.study.trials) == 12, "the baseline is no point of the space"


def test_the_first_trial_runs_first_with_its_own_values_and_the_baseline_second(tmp_path):
    play = player(tmp_path)
    first = play.sampler.suggest("a")
    assert first["run"]["role"] == records.DEFAULT
    assert first["trial"]["method"] == {
        "name": "drg_dsr",
        "variant": "drg_dsr",
        "alpha": 0.2,
        "beta": 1.0,
        "drg_temperature": 4.0,
    }
    second = play.sampler.suggest("b")
    assert second["run"]["role"] == records.BASELINE
    assert second["trial"]["method"] == {"name": "cross_entropy"}
    (trial,) = play.sampler.study.trials
    assert trial.params == play.plan.study.records["0000"].params


def test_no_more_is_suggested_than_there_is_room_for(tmp_path):
    wanted, room = build_space(), [1]
    plan = Plan(new_study(tmp_path, wanted), wanted)
    sampler = OptunaSampler(wanted, plan, lambda: room[0])
    assert sampler.suggest("a") is not None
    assert sampler.suggest("b") is None
    room[0] = 2  # a node has joined
    assert sampler.suggest("b") is not None
    assert sampler.suggest("c") is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_value_lies_in_its_distribution_and_conditional_ones_are_there_when_on(
    tmp_path, name
):
    play = player(tmp_path, trials=40, sampler={"name": name, "startup_trials": 5})
    play.run()
    seen = set()
    for record in play.plan.study.records.values():
        if record.is_beside:
            continue
        variant = record.params["method/variant"]
        seen.add(variant)
        on = {"method/variant", "method/drg_temperature"}
        on |= {"method/alpha"} if variant != "dsr" else set()
        on |= {"method/beta"} if variant != "drg" else set()
        assert set(record.params) == on
        for path, value in record.params.items():
            kind = play.plan.space.parameters[path].distribution
            assert kind._contains(kind.to_internal_repr(value)), (path, value)
            assert record.config["method"][path.split("/")[1]] == value
        step = (record.params["method/drg_temperature"] - 1.0) / 0.5
        assert step == pytest.approx(round(step), rel=1e-12)  # gp computes it
    assert seen == {"drg", "dsr", "drg_dsr"}


@pytest.mark.parametrize(
    ("ending", "epochs", "state"),
    [
        (FINISHED, EPOCHS, TrialState.COMPLETE),
        (STOPPED, 2, TrialState.PRUNED),
        (DIVERGED, 1, TrialState.FAIL),
        (DIVERGED, 0, TrialState.FAIL),
        (FAILED, 2, TrialState.FAIL),
        (FAILED, 0, TrialState.FAIL),
        (STOPPED, 0, TrialState.PRUNED),
    ],
)
def test_how_a_trial_ended_is_how_optuna_is_told(tmp_path, ending, epochs, state):
    play = player(tmp_path, lambda record: (ending, epochs))
    play.run(1)
    (trial,) = play.sampler.study.trials
    assert trial.state == state
    accuracies = {line["epoch"]: line["val/accuracy"] for line in curve(0)[:epochs]}
    assert trial.intermediate_values == accuracies
    if ending == FINISHED:
        assert trial.value == curve(0)[-1]["val/accuracy"]
    if state == TrialState.FAIL:
        assert trial.value is None


def test_a_trial_that_tune_gives_up_is_suggested_again_until_it_has_been_too_often(tmp_path):
    play = player(tmp_path, trials=1)
    for _ in range(4):
        trial_id, record = play.start()
        assert record.key == "0000"
        play.sampler.on_trial_complete(trial_id, None, error=True)
        other = play.plan.queue[0].key if play.plan.queue else None
        if other == "0001":  # the baseline was queued before it
            play.plan.queue.rotate(-1)
    (trial,) = play.sampler.study.trials
    assert trial.state == TrialState.FAIL
    assert play.start()[1].role == records.BASELINE


def test_the_sampler_waits_for_what_runs_before_it_says_that_it_is_done(tmp_path):
    play = player(tmp_path, trials=1)
    first, second = play.start(), play.start()
    assert play.sampler.suggest("more") is None
    play.sampler.on_trial_complete(first[0], None, error=True)
    assert play.sampler.suggest("again")["run"]["key"] == first[1].key
    play.finish("again", first[1], FINISHED, EPOCHS)
    play.finish(*second, FINISHED, EPOCHS)
    assert play.sampler.suggest("more") == Searcher.FINISHED


def test_nothing_is_left_running_in_optuna_however_trials_end(tmp_path):
    play = player(tmp_path, various, trials=24)
    play.run()
    states = [trial.state for trial in play.sampler.study.trials]
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING not in states
    assert {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL} == set(states)
    assert not play.sampler.live


def test_a_score_that_is_no_number_is_never_told(tmp_path):
    play = player(tmp_path)
    trial_id, record = play.start()
    play.train(trial_id, record, 1)
    bad = {**report(2, math.nan), "outcome": DIVERGED, "done": True}
    play.sampler.on_trial_complete(trial_id, bad)
    (trial,) = play.sampler.study.trials
    assert trial.state == TrialState.FAIL
    assert trial.value is None
    assert list(trial.intermediate_values) == [1]


def test_a_report_of_an_epoch_that_is_known_is_ignored_without_a_warning(tmp_path):
    play = player(tmp_path)
    trial_id, record = play.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play.train(trial_id, record, 2)
        play.sampler.on_trial_result(trial_id, report(2, 0.001))
        play.sampler.on_trial_complete(trial_id, {**report(2, 0.002)})
    (trial,) = play.sampler.study.trials
    assert trial.intermediate_values == {i["epoch"]: i["val/accuracy"] for i in curve(0)[:2]}


def test_a_lower_is_better_metric_is_minimised(tmp_path):
    play = player(tmp_path, metric="val/loss")
    play.run()
    optuna_study = play.sampler.study
    assert optuna_study.direction == optuna.study.StudyDirection.MINIMIZE
    finished = [r for r in play.plan.study.records.values() if not r.is_beside]
    assert optuna_study.best_value == min(record.last["val/loss"] for record in finished)


@pytest.mark.parametrize("trials", [1, 4, 15])
def test_a_sampler_rebuilt_from_records_knows_what_the_one_that_ran_knew(tmp_path, trials):
    play = player(tmp_path, various, trials=trials)
    play.run()
    study = play.plan.study
    for record in study.records.values():
        study.save_record(record)
    study.save()
    play.plan.study = records.load(study.folder)
    again = rebuilt(play, trials=trials)
    assert facts(again.sampler) == facts(play.sampler)
    assert len(again.sampler.study.trials) == len(play.sampler.study.trials) == trials
    assert again.sampler.suggest("a") == Searcher.FINISHED


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_study_suggests_no_finished_trial_again(tmp_path, name):
    sampler = {"name": name, "seed": 3, "startup_trials": 10}
    play = player(tmp_path, trials=6, sampler=sampler)
    play.run()
    for trials in (9, 12):
        play = rebuilt(play, trials=trials, sampler=sampler)
        play.run()
    params = [record.params for record in play.plan.study.records.values() if record.params]
    assert len(params) == 12
    assert all(params.count(one) == 1 for one in params)


def test_a_resume_goes_on_with_unfinished_trials_first_from_their_last_epoch(tmp_path):
    play = player(tmp_path, trials=6)
    play.run(3)
    open_ends = [play.start() for _ in range(2)]
    play.plan.interrupted = True
    for (trial_id, record), epochs in zip(open_ends, (3, 0), strict=True):
        play.train(trial_id, record, epochs)
        play.sampler.on_trial_complete(trial_id, dict(record.last))
        end(record, records.INTERRUPTED, record.epochs)
    was = {record.key: dict(record.params) for _, record in open_ends}

    again = rebuilt(play, trials=6)
    resumed = [again.sampler.suggest(f"again-{index}") for index in range(2)]
    assert [asked["run"]["key"] for asked in resumed] == list(was)
    assert [asked["run"]["after"] for asked in resumed] == [3, 0]
    by_key = {key: again.plan.study.records[key].config for key in was}
    assert [asked["trial"] for asked in resumed] == list(by_key.values())
    asked = [trial for trial in again.sampler.study.trials if trial.state == TrialState.RUNNING]
    assert [trial.params for trial in asked] == list(was.values())
    first = curve(int(next(iter(was))))[:3]
    assert asked[0].intermediate_values == {i["epoch"]: i["val/accuracy"] for i in first}
    third = again.sampler.suggest("again-2")
    assert third["run"]["key"] == "0005", "then new ones"


def test_a_trial_that_ends_while_the_search_is_stopped_from_outside_is_not_told(tmp_path):
    play = player(tmp_path)
    trial_id, record = play.start()
    play.train(trial_id, record, 2)
    play.plan.interrupted = True
    play.sampler.on_trial_complete(trial_id, dict(record.last))
    (trial,) = play.sampler.study.trials
    assert trial.state == TrialState.RUNNING, "it has not come to its end"


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_first_suggestions_and_another_seed_others(tmp_path, name):
    def first(folder: str, seed: int) -> list[dict]:
        play = player(tmp_path / folder, trials=8, sampler={"name": name, "seed": seed})
        play.run()
        return [record.params for record in play.plan.study.records.values()]

    assert first("a", 1) == first("b", 1)
    assert first("a", 1)[2:] != first("c", 2)[2:]


def test_the_largest_seed_is_taken(tmp_path):
    play = player(tmp_path, trials=3, sampler={"name": "tpe", "seed": 2**32 - 1})
    play.run()
    assert len(play.plan.study.records) == 4


def test_a_cross_entropy_space_tunes_the_baseline_itself(tmp_path):
    wanted = build_space(CROSS_ENTROPY)
    plan = Plan(new_study(tmp_path, wanted), wanted)
    play = Player(plan, OptunaSampler(wanted, plan), lambda record: (FINISHED, EPOCHS))
    play.run()
    assert [record.role for record in plan.study.records.values()] == [
        records.BASELINE,
        records.SEARCH,
        records.SEARCH,
    ]
    assert plan.study.records["0000"].params == {"optim/lr": 0.05}
    assert [trial.state for trial in play.sampler.study.trials] == [TrialState.COMPLETE] * 3


def test_an_authors_default_that_is_no_step_of_its_range_survives_a_resume(tmp_path):
    text = CONDITIONAL.split("  first_trials")[0]
    text = text.replace("high: 10.0, step: 0.5", "high: 11.0, step: 2.5")
    wanted = build_space(text)  # drg_temperature's default of 4.0 is none of 1, 3.5, 6, 8.5, 11
    plan = Plan(new_study(tmp_path, wanted), wanted)
    play = Player(plan, OptunaSampler(wanted, plan), lambda record: (FINISHED, EPOCHS))
    play.run(3)
    again = OptunaSampler(wanted, Plan(plan.study, wanted))
    assert len(again.study.trials) == 2


def test_a_snapshot_of_tune_holds_nothing_of_it(tmp_path):
    play = player(tmp_path)
    assert play.sampler.__getstate__() == {}
    play.sampler.save(str(tmp_path / "snapshot"))
    assert not (tmp_path / "snapshot").exists()
