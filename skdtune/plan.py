"""Which trials a study runs, in which order, and what each is told: new ones, and what a resume
goes on with."""

import uuid
from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from math import ceil
from typing import Any

from skdtune import ranking, records, teachers
from skdtune.records import Record, Study
from skdtune.settings import Resources
from skdtune.space import BASELINE_METHOD, SearchSpace
from trainables import metrics
from trainables.watchdog import SILENCE_S

_MOST_PUT_BACK = 3


class Step(Enum):
    """What a plan says when it names no trial."""

    NEW = "a new trial"
    WAIT = "nothing now"
    DONE = "nothing any more"


class Plan:
    """Trials that are on the books but have not ended run first, then as many as are still asked
    for.

    only: the role of the trials to run, when not all of them are. known: what was on the books
    when the plan was made. interrupted: the search is being stopped from outside, so that a trial
    that ends now has not come to its end."""

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        resources: Resources | None = None,
        only: str | None = None,
    ):
        self.study, self.space = study, space
        self.resources = resources or space.resources
        self.interrupted = False
        self.session = uuid.uuid4().hex
        self.known = list(study.records.values())
        self.only = only
        self.queue = deque(r for r in study.unfinished if only in (None, r.role))
        self._put_back: Counter[str] = Counter()
        self._beside = sum(record.is_beside for record in self.known)

    @property
    def total(self) -> int:
        """How many trials the study has when it is done, the baseline included."""
        inside = len(self.study.records) - self._beside
        return max(self.space.search.trials, inside) + self._beside

    @property
    def to_come(self) -> int:
        """How many trials have not ended, the repeats of finalists included."""
        ended = sum(record.has_ended for record in self.study.records.values())
        return self.total + self.repeats_to_come - ended

    @property
    def is_done(self) -> bool:
        """Whether the study has all that it asks for, once no trial runs."""
        return not self.queue and self._is_on_the_books and not self.repeats_to_come

    def next(self, is_running: bool, has_room: bool) -> Record | Step:
        """What to start now: a trial that is on the books, a new one, nothing yet, or nothing any
        more. is_running: whether a trial is. has_room: whether another one may.

        First what is on the books, as what a resume goes on with, the first trials and the
        baseline; then new trials, up to as many as are asked for; then, when all of these have
        ended, the repeats of the finalists."""
        if not self.queue:
            self._call_finalists()
        if not self.queue and self._is_on_the_books:
            # one that runs may be put back, and before the last has ended no finalist is known
            return Step.WAIT if is_running else Step.DONE
        if not has_room:
            return Step.WAIT
        return self.queue.popleft() if self.queue else Step.NEW

    @property
    def repeats_to_come(self) -> int:
        """How many repeats of finalists are not on the books yet; before all trials have ended the
        most that it may be."""
        finalists, found = ranking.finalists(self.study), self.study.records.values()
        if finalists is None or self.only:
            return 0
        if self._has_searched:
            return len(ranking.standing(self.study).missing)
        must_beat = sum(record.role in ranking.MUST_BEAT for record in found)
        there = sum(bool(record.repeats) for record in found)
        return max(0, (finalists.trials + must_beat) * finalists.seeds - there)

    def _call_finalists(self) -> None:
        """Puts the repeats of the finalists on the books that are not there yet, once every trial
        of the search has ended; before that, and where none are asked for, does nothing."""
        if self.only or not self._is_on_the_books or not self._has_searched:
            return
        standing = ranking.standing(self.study)
        for record, seed in standing.missing if standing else []:
            config = {**record.config, "seed": seed}
            repeat = _add(self.study, records.REPEAT, record.params, config, repeats=record.key)
            self._beside += 1
            self.queue.append(repeat)

    @property
    def _is_on_the_books(self) -> bool:
        """Whether every trial is that the plan is to run, but for repeats."""
        return bool(self.only) or len(self.study.records) >= self.total

    @property
    def _has_searched(self) -> bool:
        return all(record.has_ended for record in self.study.records.values())

    def interrupt(self) -> None:
        self.interrupted = True

    def put_back(self, record: Record) -> bool:
        """Queues a trial again that Tune gave up, as it does when the process dies that was to
        start it next; False when that has happened too often."""
        self._put_back[record.key] += 1
        if self._put_back[record.key] > _MOST_PUT_BACK:
            return False
        self.queue.append(record)
        return True

    def holds(self, record: Record) -> bool:
        """Whether the trial is still to be started, or to be started again."""
        return any(queued is record for queued in self.queue)

    def new(self, params: dict[str, Any]) -> Record:
        """A trial with these searched values, on the books from now on."""
        return _add(self.study, records.SEARCH, params, self.space.config(params))

    def trial_config(self, record: Record) -> dict:
        """What Tune hands to the trainable."""
        run = {
            "key": record.key,
            "identity": record.identity,
            "role": record.role,
            "beside": record.is_beside,
            "study": self.study.folder.uri,
            "after": record.epoch,
            "threads": max(1, ceil(self.resources.cpu)),
            "device": "cuda" if self.resources.gpu else "cpu",
            "session": self.session,
            "images": self._fingerprint(record),
            "silence_s": SILENCE_S,
            "watched": [metrics.EPOCH, self.space.search.metric],
        }
        return {"trial": teachers.equipped(record.config, self.study.folder), "run": run}

    def _fingerprint(self, record: Record) -> str | None:
        """Of the images that the trial trains on, which is known for those of the first trial."""
        first = next(iter(self.study.records.values())).config["data"]
        same = {**first, "batch_size": 0} == {**record.config["data"], "batch_size": 0}
        return self.study.data.get("fingerprint") if same else None


def add_references(
    study: Study, space: SearchSpace, warm: Sequence[tuple[dict[str, Any], dict[str, str]]] = ()
) -> None:
    """Puts the first trials and the baseline on the books of a new study; both run to the full
    budget. Behind them come the settings of `warm`, each with its origin, as trials of the search.

    A space of the baseline's own method needs none beside it: its first trial is the baseline.
    """
    own = space.fixed["method"].get("name") == BASELINE_METHOD
    for index, entry in enumerate(space.first_trials()):
        values = space.first_values(entry)
        first = records.DEFAULT if space.is_authors_own(values) else records.FIRST
        role = records.SEARCH if index else records.BASELINE if own else first
        _add(study, role, values, space.config(values))
        if index == 0 and not own:
            _add(study, records.BASELINE, {}, space.baseline_config())
    for values, origin in warm:
        _add(study, records.SEARCH, values, space.config(values)).origin = origin


def _add(
    study: Study, role: str, params: dict[str, Any], config: dict, repeats: str = ""
) -> Record:
    index = 1 + max(map(int, study.records), default=-1)  # one may be lost, none is written over
    record = Record(_key(index), role, params, config, repeats=repeats)
    study.records[record.key] = record
    return record


def _key(index: int) -> str:
    return f"{index:04d}"
