"""Optuna as a Ray Tune searcher: planned trials first, then what the sampler suggests."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from skdtune.bounded_storage import BoundedStorage
from skdtune.plan import Plan, Step
from skdtune.records import DIVERGED, ENDED, FAILED, FINISHED, STOPPED, Record
from skdtune.space import Parameter, SearchSpace
from trainables import metrics
from trainables.classifier import OUTCOME, STORAGE_FULL

_STATES = {
    FINISHED: TrialState.COMPLETE,
    STOPPED: TrialState.PRUNED,
    DIVERGED: TrialState.FAIL,
    FAILED: TrialState.FAIL,
}


@dataclass
class _Live:
    """A trial that runs. trial: None for one that is no point of the space."""

    record: Record
    trial: optuna.Trial | None
    reported: set[int] = field(default_factory=set)


class OptunaSampler(Searcher):
    """Asks and tells an Optuna study in memory; the study on disk is what it is rebuilt from.

    Ray's own OptunaSearch tells a stopped trial as complete, leaves a diverged one running for
    ever, and takes known results only for spaces without conditions; hence this one. slots: how
    many trials may run at this moment; no more are suggested."""

    def __init__(self, space: SearchSpace, plan: Plan, slots: Callable[[], int] | None = None):
        super().__init__(metric=space.search.metric, mode=space.search.mode)
        self.space, self.plan, self.slots = space, plan, slots
        direction = "maximize" if space.search.mode == "max" else "minimize"
        self.study = optuna.create_study(
            storage=BoundedStorage(space.search.mode),
            direction=direction,
            sampler=_sampler(space, len(plan.known)),
        )
        self.live: dict[str, _Live] = {}  # by Tune's trial id
        self.given_up: dict[str, _Live] = {}  # by record key: put back, to be suggested again
        for record in plan.known:
            self._remember(record)

    def suggest(self, trial_id: str) -> dict | str | None:
        has_room = self.slots is None or len(self.live) < self.slots()
        step = self.plan.next(bool(self.live), has_room)
        if step is Step.WAIT:
            return None
        if step is Step.DONE:
            return Searcher.FINISHED  # Tune never asks again
        live = self._new() if step is Step.NEW else self._planned(step)
        self._report(live, live.record.epochs)
        self.live[trial_id] = live
        return self.plan.trial_config(live.record)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        self._report(self.live[trial_id], [result])

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        live, result = self.live.pop(trial_id, None), result or {}
        if live is None or self.plan.interrupted:
            return
        if error and self.plan.put_back(live.record):
            self.given_up[live.record.key] = live
            return
        if live.trial is None:
            return
        self._report(live, [result])
        outcome = FAILED if error else result.get(OUTCOME, STOPPED)
        if outcome == STORAGE_FULL:  # says nothing of the setting
            return
        value = result.get(self.metric) if outcome == FINISHED else None
        self.study.tell(live.trial, value, state=_STATES[outcome])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a study is resumed from its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a study is resumed from its records."""

    def __getstate__(self) -> dict:
        return {}  # Tune pickles it into snapshots that nobody reads

    def _planned(self, record: Record) -> _Live:
        """A trial whose values are settled."""
        if record.key in self.given_up:
            return self.given_up.pop(record.key)
        if record.is_beside:
            return _Live(record, None)
        self.study.enqueue_trial(record.params)
        trial = self.study.ask()
        self.space.suggest(lambda parameter: _suggest(trial, parameter))
        return _Live(record, trial)

    def _new(self) -> _Live:
        trial = self.study.ask()
        values = self.space.suggest(lambda parameter: _suggest(trial, parameter))
        return _Live(self.plan.new(values), trial)

    def _report(self, live: _Live, reports: list[dict]) -> None:
        for report in reports:
            epoch, value = report.get(metrics.EPOCH), report.get(self.metric, math.nan)
            if live.trial is not None and math.isfinite(value) and epoch not in live.reported:
                live.trial.report(value, step=epoch)
                live.reported.add(epoch)

    def _remember(self, record: Record) -> None:
        if record.is_beside or record.status not in ENDED:
            return
        curve = {report[metrics.EPOCH]: report[self.metric] for report in record.epochs}
        state = _STATES[record.status]
        has_value = state != TrialState.FAIL and curve  # Optuna gives a pruned trial its last one
        distributions: dict[str, BaseDistribution] = {
            path: self.space.parameters[path].distribution for path in record.params
        }
        trial = optuna.trial.create_trial(
            state=state,
            value=record.last[self.metric] if has_value else None,
            params=record.params,
            distributions=distributions,
            intermediate_values=curve,
        )
        self.study.add_trial(trial)


def _sampler(space: SearchSpace, known: int) -> optuna.samplers.BaseSampler:
    """known: trials on the books. With the seed alone a resumed study would draw its first random
    values again."""
    chosen = space.search.sampler
    seed = (chosen.seed + known) % 2**32
    if chosen.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if chosen.name == "gp":
        torch.set_num_threads(1)  # its matrices are small: more threads are slower
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=chosen.startup_trials, warn_independent_sampling=False
        )
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=chosen.startup_trials, multivariate=True, group=True
    )


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    kind = parameter.distribution
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(parameter.path, kind.choices)
    suggest = trial.suggest_int if isinstance(kind, IntDistribution) else trial.suggest_float
    return suggest(parameter.path, kind.low, kind.high, step=kind.step, log=kind.log)
