"""An Optuna study in memory that shows the sampler only so many of the trials that have ended."""

import copy
import heapq
from bisect import insort
from collections.abc import Container, Sequence
from operator import attrgetter

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

_BY_NUMBER = attrgetter("number")


class BoundedStorage(InMemoryStorage):
    """Optuna's TPE goes through every trial it is shown several times for each that it suggests,
    and models as good ones the best 25 at most. Beyond `most` ended trials it is shown the best
    `best` and otherwise the newest; those that run or wait are always shown.

    mode: of the one study in it, `max` or `min`."""

    def __init__(self, mode: str, most: int = 200, best: int = 50):
        super().__init__()
        self.sign = 1 if mode == "max" else -1
        self.most, self.best = most, best
        self._live: set[int] = set()  # ids of those that have not ended
        self._shown: list[FrozenTrial] = []  # of those that have, by number; none changes any more

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self._note(trial_id, template_trial.state if template_trial else TrialState.RUNNING)
        return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        is_set = super().set_trial_state_values(trial_id, state, values)
        if is_set:
            self._note(trial_id, state)
        return is_set

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        live = [self.get_trial(trial_id) for trial_id in self._live]
        found = [t for t in self._shown if states is None or t.state in states]
        for trial in live:
            if states is None or trial.state in states:
                insort(found, trial, key=_BY_NUMBER)
        return copy.deepcopy(found) if deepcopy else found

    def _note(self, trial_id: int, state: TrialState) -> None:
        if state.is_finished():
            self._live.discard(trial_id)
            insort(self._shown, self.get_trial(trial_id), key=_BY_NUMBER)
            if len(self._shown) > self.most:
                self._pass_one_over()
        else:
            self._live.add(trial_id)

    def _pass_one_over(self) -> None:
        """The oldest that is not of the best; it will neither be of them nor be new again."""
        scored = [trial for trial in self._shown if trial.state == TrialState.COMPLETE]
        top = heapq.nlargest(self.best, scored, key=lambda trial: self.sign * trial.value)
        kept = {trial.number for trial in top}
        oldest = next(i for i, trial in enumerate(self._shown) if trial.number not in kept)
        del self._shown[oldest]
