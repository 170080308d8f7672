"""Which trials are stopped early: Tune's ASHA on the epoch, with rungs that survive a resume."""

from collections.abc import Iterable
from types import SimpleNamespace

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from skdtune import records
from skdtune.records import Record
from skdtune.space import SearchSpace
from trainables import metrics


def build(space: SearchSpace, known: Iterable[Record]) -> TrialScheduler:
    """The space's scheduler; known: records whose curves fill its rungs as if they had just run."""
    chosen = space.search.scheduler
    if chosen.name == "none":
        return FIFOScheduler()
    scheduler = StudyAsha(
        time_attr=metrics.EPOCH,
        metric=space.search.metric,
        mode=space.search.mode,
        max_t=space.fixed["epochs"],
        grace_period=chosen.grace_period,
        reduction_factor=chosen.reduction_factor,
    )
    for record in known:
        scheduler.remember(record)
    return scheduler


class StudyAsha(AsyncHyperBandScheduler):
    """ASHA that never stops what the winner is measured against.

    The authors' setting takes part in the rungs but always runs on; the baseline, which is no
    point of the space, takes no part: distilled networks learn slower at first and must not lose
    to it early."""

    def set_search_properties(self, metric: str | None, mode: str | None, **spec) -> bool:
        return True  # given at construction, so that records can fill the rungs before Tune starts

    def on_trial_add(self, tune_controller: object, trial: Trial) -> None:
        super().on_trial_add(tune_controller, _by_key(trial))

    def on_trial_remove(self, tune_controller: object, trial: Trial) -> None:
        super().on_trial_remove(tune_controller, _by_key(trial))

    def on_trial_result(self, tune_controller: object, trial: Trial, result: dict) -> str:
        run = trial.config["run"]
        if run["beside"]:
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, _by_key(trial), result)
        return TrialScheduler.CONTINUE if run["role"] != records.SEARCH else decision

    def on_trial_complete(self, tune_controller: object, trial: Trial, result: dict) -> None:
        if not trial.config["run"]["beside"]:
            super().on_trial_complete(tune_controller, _by_key(trial), result)

    def remember(self, record: Record) -> None:
        """Puts a recorded curve into the rungs."""
        if record.is_beside:
            return
        trial = SimpleNamespace(config={"run": {"key": record.key, "beside": False, "role": ""}})
        self.on_trial_add(None, trial)
        for report in record.epochs:
            self.on_trial_result(None, trial, report)


def _by_key(trial: Trial) -> SimpleNamespace:
    """The trial under its record's key: one that a resume goes on with keeps its places in the
    rungs."""
    return SimpleNamespace(trial_id=trial.config["run"]["key"])
