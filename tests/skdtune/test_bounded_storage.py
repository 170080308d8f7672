"""The bounded storage: what the sampler is shown, and that a short search is as it was."""

import random

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from skdtune.bounded_storage import BoundedStorage

_X = FloatDistribution(0, 1)


def _study(storage: optuna.storages.BaseStorage | None, direction: str) -> optuna.Study:
    return optuna.create_study(
        storage=storage, direction=direction, sampler=optuna.samplers.TPESampler(seed=0)
    )


def _told(study: optuna.Study, values: list[float], state=TrialState.COMPLETE) -> None:
    for value in values:
        study.add_trial(
            create_trial(
                state=state,
                value=None if state == TrialState.FAIL else value,
                params={"x": 0.5},
                distributions={"x": _X},
            )
        )


def test_beyond_the_bound_the_best_the_newest_and_all_that_run_are_shown() -> None:
    for mode, direction, best in (("max", "maximize", [7, 8]), ("min", "minimize", [0, 1])):
        study = _study(BoundedStorage(mode, most=5, best=2), direction)
        running = study.ask().number
        _told(study, [float(value) for value in range(9)])
        _told(study, [-1.0] * 3, TrialState.FAIL)

        shown = study.get_trials(deepcopy=False)

        ended = [trial for trial in shown if trial.number != running]
        assert [trial.number for trial in shown] == sorted(trial.number for trial in shown)
        assert running in [trial.number for trial in shown]
        assert [t.value for t in ended if t.state == TrialState.COMPLETE][-2:] == best
        assert sum(trial.state == TrialState.FAIL for trial in ended) == 3
        assert len(ended) == 5


def test_a_trial_that_waits_is_found_and_numbers_go_on() -> None:
    study = _study(BoundedStorage("max", most=5, best=2), "maximize")
    _told(study, [float(value) for value in range(9)])
    study.enqueue_trial({"x": 0.25})

    trial = study.ask()

    assert trial.number == 9
    assert trial.suggest_float("x", 0, 1) == 0.25


def test_up_to_the_bound_it_suggests_what_optunas_own_storage_would() -> None:
    suggested = []
    for storage in (None, BoundedStorage("max", most=30)):
        study = _study(storage, "maximize")
        for _ in range(30):
            trial = study.ask()
            study.tell(trial, -((trial.suggest_float("x", 0, 1) - 0.3) ** 2))
        suggested.append([trial.params["x"] for trial in study.trials])

    assert suggested[0] == suggested[1]


def test_what_is_shown_is_chosen_among_all_that_have_ended() -> None:
    """Trial by trial, though nobody goes through all of them."""
    draw = random.Random(0)
    study = _study(BoundedStorage("max", most=12, best=4), "maximize")
    ended: dict[int, float | None] = {}
    running = [study.ask() for _ in range(3)]
    for _ in range(200):
        trial = running.pop(draw.randrange(len(running)))  # not in the order in which they began
        value = draw.choice([None, draw.random(), 0.5])
        ended[trial.number] = value
        study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
        running.append(study.ask())

        scored = sorted(n for n, score in ended.items() if score is not None)
        best = sorted(scored, key=lambda number: -ended[number])[:4]
        rest = sorted(set(ended) - set(best))[-(12 - len(best)) :]
        wanted = sorted(ended) if len(ended) <= 12 else sorted({*best, *rest})
        shown = study.get_trials(deepcopy=False)
        assert [t.number for t in shown if t.state.is_finished()] == wanted
