"""The order of a study's trials: by their own scores, and once all has been trained that
`search.finalists` asks for, the finalists by their means over several seeds."""

import json
import math
import statistics
from dataclasses import dataclass

from skdtune import records
from skdtune.records import Record, Study
from skdtune.settings import LOWER_IS_BETTER, Finalists, Search
from trainables import metrics

_TIE_BREAK = "val/loss"
MUST_BEAT = (records.BASELINE, records.DEFAULT, records.FIRST)


@dataclass(frozen=True)
class Standing:
    """Who a study's finalists are and how far they have come. best: the trials of the search, best
    first. beside: what they must beat and is none of them. runs: of each its repeats that are on
    the books, by its key. missing: a trial and a seed for each that is not."""

    best: list[Record]
    beside: list[Record]
    runs: dict[str, list[Record]]
    missing: list[tuple[Record, int]]

    @property
    def repeats(self) -> list[Record]:
        return [repeat for found in self.runs.values() for repeat in found]

    @property
    def is_complete(self) -> bool:
        """Whether all repeats have come to their end, so that means are of the same seeds. One that
        diverged has, of what must be beaten; a finalist's gives its place to the next trial."""
        ends = (records.FINISHED, records.DIVERGED)
        return bool(self.best) and not self.missing and all(r.status in ends for r in self.repeats)


@dataclass(frozen=True)
class Ranking:
    """trials: all but repeats, best first. means: by key the mean score of each finalist and of
    what it must beat, over its own seed and its repeats'; empty before all of those have ended.
    standing: of the finalists; None where none are asked for."""

    trials: list[Record]
    means: dict[str, float]
    standing: Standing | None


def ranked_by(study: Study) -> str:
    """The metric that decides: of a search the one that it asks for, of a final training the test
    accuracy."""
    if study.kind != "search":
        return f"{metrics.TEST}/accuracy"
    return (study.space.get("search") or {}).get("metric", Search.metric)


def sign(metric: str) -> int:
    """1 or -1: the metric times this is lower for the better trial."""
    return 1 if metric in LOWER_IS_BETTER else -1


def rank(study: Study) -> Ranking:
    """The finalists before the others once all of them have their means, best first; by their own
    seeds until then. What the finalists must beat is one of them when it is as good as the last of
    them."""
    found = standing(study)
    trials, means = _by_score(study), _means(study, found)
    if means:
        signed = {key: sign(ranked_by(study)) * value for key, value in means.items()}
        worst = max(signed[record.key] for record in found.best)
        ahead = {key: value for key, value in signed.items() if value <= worst}
        trials.sort(
            key=lambda record: ahead.get(record.key, math.inf)
        )  # the others stay as they are
    return Ranking(trials, means, found)


def _by_score(study: Study) -> list[Record]:
    """All trials but repeats, best first by their own seed alone: those at the full budget by their
    last epoch, never by their best, but behind the others of them what diverged with another seed;
    then stopped and unfinished ones, the furthest first; then those without a result. A tie in the
    metric goes to the lower validation loss."""
    metric = ranked_by(study)
    found = study.records.values()
    unstable = {r.repeats for r in found if r.repeats and r.status == records.DIVERGED}

    def order(record: Record) -> tuple:
        score, loss = record.last.get(metric), record.last.get(_TIE_BREAK, 0.0)
        if score is None or record.status in (records.DIVERGED, records.FAILED):
            return (2, 0, 0, 0, record.key)
        if record.status == records.FINISHED:
            return (0, record.key in unstable, sign(metric) * score, loss, record.key)
        return (1, -record.epoch, sign(metric) * score, loss, record.key)

    return sorted((r for r in found if not r.repeats), key=order)


def finalists(study: Study) -> Finalists | None:
    """The finalists that a search is to have."""
    asked = (study.space.get("search") or {}).get("finalists")
    return Finalists(**asked) if asked is not None and study.kind == "search" else None


def standing(study: Study) -> Standing | None:
    """Of the finalists; None where none are asked for. They are settings that differ, came to the
    full budget and have not diverged with another seed.

    With `{trials: 2, seeds: 1}` and scores of A 0.9, B 0.8, C 0.7 and the baseline 0.6, the best
    are A and B, the baseline is beside them, and missing are A, B and the baseline with seed 1.
    Should A diverge with it, the best become B and C, and C with seed 1 is missing."""
    asked = finalists(study)
    if asked is None:
        return None
    repeats: dict[str, dict[int, Record]] = {}
    for record in study.records.values():
        if record.repeats:
            repeats.setdefault(record.repeats, {})[record.seed] = record
    metric = ranked_by(study)
    full = [r for r in _by_score(study) if r.status == records.FINISHED and metric in r.last]
    inside: dict[str, Record] = {}
    for record in full:
        again = repeats.get(record.key, {}).values()
        if not record.is_beside and all(r.status != records.DIVERGED for r in again):
            inside.setdefault(json.dumps(record.config, sort_keys=True), record)
    best = list(inside.values())[: asked.trials]
    beside = [r for r in full if r.role in MUST_BEAT and all(r is not other for other in best)]
    runs: dict[str, list[Record]] = {}
    missing: list[tuple[Record, int]] = []
    for record in best + beside:
        seeds = range(record.seed + 1, record.seed + 1 + asked.seeds)
        there = repeats.get(record.key, {})
        runs[record.key] = [there[seed] for seed in seeds if seed in there]
        missing += [(record, seed) for seed in seeds if seed not in there]
    return Standing(best, beside, runs, missing)


def _means(study: Study, found: Standing | None) -> dict[str, float]:
    if found is None or not found.is_complete:
        return {}
    metric = ranked_by(study)
    return {
        record.key: statistics.fmean(run.last[metric] for run in (record, *found.runs[record.key]))
        for record in found.best + found.beside
        if all(run.status == records.FINISHED for run in found.runs[record.key])
    }
