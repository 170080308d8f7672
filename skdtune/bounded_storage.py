"""An Optuna study in memory that shows the sampler only so many of the trials that have ended."""

import copy
import heapq
from collections.abc import Container

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState


class BoundedStorage(InMemoryStorage):
    """Optuna's TPE goes through every trial it is shown several times for each that it suggests,
    and models as good ones the best 25 at most. Beyond `most` ended trials it is shown the best
    `best` and otherwise the newest; those that run or wait are always shown.

    mode: of the study, `max` or `min`."""

    def __init__(self, mode: str, most: int = 250, best: int = 50):
        super().__init__()
        self.sign = 1 if mode == "max" else -1
        self.most, self.best = most, best

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        found = super().get_all_trials(study_id, deepcopy=False, states=states)
        ended = [trial for trial in found if trial.state.is_finished()]
        if len(ended) > self.most:
            scored = [trial for trial in ended if trial.state == TrialState.COMPLETE]
            top = heapq.nlargest(self.best, scored, key=lambda trial: self.sign * trial.value)
            kept = {trial.number for trial in top}
            newest = [trial.number for trial in ended if trial.number not in kept]
            kept.update(newest[len(kept) - self.most :])
            found = [t for t in found if t.number in kept or not t.state.is_finished()]
        return copy.deepcopy(found) if deepcopy else found
