"""An Optuna study in memory that shows the sampler only so many of the trials that have ended."""

import copy
import heapq
from collections.abc import Container, Sequence
from operator import attrgetter

from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState


class BoundedStorage(InMemoryStorage):
    """Optuna's TPE goes through every trial it is shown several times for each that it suggests,
    and models as good ones the best 25 at most. Beyond `most` ended trials it is shown the best
    `best` and otherwise the newest; those that run or wait are always shown.

    mode: of the one study in it, `max` or `min`."""

    def __init__(self, mode: str, most: int = 250, best: int = 50):
        super().__init__()
        self.sign = 1 if mode == "max" else -1
        self.most, self.best = most, best
        self._live: set[int] = set()  # ids of those that have not ended
        self._shown: list[FrozenTrial] = []  # of those that have; one never changes any more

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
        found = [t for t in (*self._shown, *live) if states is None or t.state in states]
        found.sort(key=attrgetter("number"))
        return copy.deepcopy(found) if deepcopy else found

    def _note(self, trial_id: int, state: TrialState) -> None:
        if state.is_finished():
            self._live.discard(trial_id)
            self._shown = self._chosen([*self._shown, self.get_trial(trial_id)])
        else:
            self._live.add(trial_id)

    def _chosen(self, ended: list[FrozenTrial]) -> list[FrozenTrial]:
        """The ones to show. Those shown before and the one that has just ended hold all that may
        be among them: a trial that was passed over is neither of the best nor of the newest."""
        if len(ended) <= self.most:
            return ended
        ended.sort(key=attrgetter("number"))
        scored = [trial for trial in ended if trial.state == TrialState.COMPLETE]
        top = heapq.nlargest(self.best, scored, key=lambda trial: self.sign * trial.value)
        kept = {trial.number for trial in top}
        newest = [trial.number for trial in ended if trial.number not in kept]
        kept.update(newest[len(kept) - self.most :])
        return [trial for trial in ended if trial.number in kept]
