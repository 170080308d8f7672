"""What a final training has come to: in lines to print, and as its `result.json`."""

import json
from typing import Any

from skdtune import comparison, records
from skdtune.estimate import Estimate, estimate
from skdtune.records import Record, Study
from trainables.metrics import TEST, score_names

_SCORE = f"{TEST}/accuracy"  # the one whose gains are printed
_ENDS = (records.FINISHED, records.DIVERGED, records.FAILED)
_UNFINISHED, _UNTAUGHT = "unfinished", "without a teacher"
_GIVEN = "given one teacher"  # the interval does not tell what another would have come to


def results(study: Study) -> dict[str, Estimate]:
    """The estimate of every test score over the seeds that finished; empty before the first."""
    finished = [record.last for record in finished_seeds(study)]
    return (
        {name: estimate([last[name] for last in finished]) for name in score_names(TEST)}
        if finished
        else {}
    )


def finished_seeds(study: Study) -> list[Record]:
    return [record for record in _seeds(study) if record.status == records.FINISHED]


def as_json(study: Study) -> str:
    """One object. By test score: mean, interval and values over the seeds that finished. `seeds`:
    how many there are and how they ended. `compared`: the same of each config to compare with,
    over the pairs that finished on both sides, with their number and the `gain` in each score,
    positive where the training's own config is better."""
    content: dict[str, Any] = {name: _told(value) for name, value in results(study).items()}
    content["seeds"] = _told_seeds(study, _seeds(study))
    gains = {name: comparison.gains(study, name) for name in score_names(TEST)}
    for other, runs in comparison.arms(study).items():
        paired = {name: found[other] for name, found in gains.items() if other in found}
        beside: dict[str, Any] = {
            name: {**_told(value), "gain": _told(gain)} for name, (value, gain) in paired.items()
        }
        pairs = len(paired[_SCORE][1].values) if paired else 0
        beside["seeds"] = {**_told_seeds(study, runs), "pairs": pairs}
        content.setdefault("compared", {})[other] = beside
    return json.dumps(content, indent=1)


def lines(study: Study) -> list[str]:
    """The scores, the gain over each config to compare with, and of how many seeds they are."""
    seeds, found = _seeds(study), results(study)
    if not found:
        return ["; ".join(["no seed has finished", *_lost(study, seeds)])]
    told = [f"{name:14} {value}" for name, value in found.items()]
    told += [
        f"{_SCORE:14} {_gain(study, name, runs)}" for name, runs in comparison.arms(study).items()
    ]
    finished = len(finished_seeds(study))
    if finished > 1:
        part = "" if finished == len(seeds) else f"{finished} of "
        what = f"mean and 95 % interval over {part}{len(seeds)} seeds"
    else:
        what = (
            "one seed: no interval" if len(seeds) == 1 else f"no interval: 1 of {len(seeds)} seeds"
        )
    given = [_GIVEN] if _is_given(seeds) else []
    where = [f"records in {study.folder.uri}"] if study.folder else []
    asides = [what, *_lost(study, seeds), *given, "test set", *where]
    return [*told, f"({'; '.join(asides)})"]


def _seeds(study: Study) -> list[Record]:
    return [record for record in study.records.values() if record.role == records.SEED]


def _counts(study: Study, runs: list[Record]) -> dict[str, int]:
    """By how they ended; those that have not and those that never will."""
    ended = {status: sum(run.status == status for run in runs) for status in _ENDS}
    left = [run for run in runs if run.status not in _ENDS]
    untaught = sum(study.has_lost_teacher(run) for run in left)
    return {**ended, _UNTAUGHT: untaught, _UNFINISHED: len(left) - untaught}


def _lost(study: Study, runs: list[Record]) -> list[str]:
    """What became of those that have not finished, as one text; none when all have."""
    counts = _counts(study, runs).items()
    lost = {status: n for status, n in counts if status != records.FINISHED and n}
    return [", ".join(f"{count} {status}" for status, count in lost.items())] if lost else []


def _is_given(runs: list[Record]) -> bool:
    return any(run.names_teacher for run in runs)


def _gain(study: Study, name: str, runs: list[Record]) -> str:
    """The gain over one config to compare with, in how many pairs where that is not every seed."""
    lost = [f"of {name} {what}" for what in _lost(study, runs)]
    pair = comparison.gains(study, _SCORE).get(name)
    if pair is None:
        return f"no gain over {name} ({'; '.join(['no seed has finished for both', *lost])})"
    value, gain = pair
    pairs, of = len(gain.values), "the same seeds"
    if pairs != len(finished_seeds(study)):
        of = f"{pairs} {'pair' if pairs == 1 else 'pairs'} of the same seed"
    asides = [f"{value}, {of}", *lost, *([_GIVEN] if _is_given(runs) else [])]
    return f"{gain.mean:+.4f}{gain.spread} over {name} ({'; '.join(asides)})"


def _told(value: Estimate) -> dict[str, Any]:
    return {"mean": value.mean, "half_width_95": value.half_width, "values": value.values}


def _told_seeds(study: Study, runs: list[Record]) -> dict[str, Any]:
    counts = {status.replace(" ", "_"): count for status, count in _counts(study, runs).items()}
    return {"asked": len(runs), **counts, "given_one_teacher": _is_given(runs)}
