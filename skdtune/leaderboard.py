"""Ranks the trials of a study: `python -m skdtune.leaderboard [STUDY]`, or `rank(study)`."""

if __name__ == "__main__":  # before the imports, which read the environment
    from skdtune import errors

    errors.begin()

from dataclasses import dataclass

from skdtune import conclusion, flags, ranking, records
from skdtune.comparison import ahead
from skdtune.errors import run
from skdtune.ranking import Standing, ranked_by
from skdtune.records import Record, Study

LONGEST_ERROR = 300  # of what a line shows
_REFERENCES = (records.DEFAULT, records.FIRST)
LABELS = {  # what a person calls a trial of that role
    records.BASELINE: "baseline",
    records.DEFAULT: "authors' default",
    records.FIRST: "first trial",
}


@dataclass(frozen=True)
class Row:
    """place: 1 is best. score: the metric at the last epoch, None before the first. mean: over its
    `seeds`, its own and its repeats', of a finalist once all finalists have ended; else None. gain:
    how much better than the baseline, positive is better, over the same seeds of both; None for a
    trial that did not come to the full budget, or a mean where the baseline has none."""

    place: int
    record: Record
    score: float | None
    mean: float | None
    seeds: int
    gain: float | None

    @property
    def value(self) -> float | None:
        """What it is ranked by."""
        return self.score if self.mean is None else self.mean

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def is_baseline(self) -> bool:
        return self.record.role == records.BASELINE


@dataclass(frozen=True)
class Board:
    """kind: of the study. winner: the best trial of the search that came to its full budget; None
    while there is none, and of a final training, whose seeds are one result: `told` in lines. Of a
    search `told` says what its finalists still lack."""

    study: str
    kind: str
    metric: str
    rows: list[Row]
    winner: Row | None
    default: Row | None
    baseline: Row | None
    told: list[str]


def rank(study: Study) -> Board:
    """The study's trials as `ranking` orders them, best first. Repeats are no rows of their own."""
    is_search, metric = study.kind == "search", ranked_by(study)
    ranked = ranking.rank(study)
    means = ranked.means
    reference = next(
        (r for r in ranked.trials if r.role == records.BASELINE and r.status == records.FINISHED),
        None,
    )
    rows = []
    for place, record in enumerate(ranked.trials, start=1):
        score, mean = record.last.get(metric), means.get(record.key)
        seeds = 1 + len(ranked.standing.runs[record.key]) if mean is not None else 1
        better = None
        if reference and record.status == records.FINISHED and score is not None:
            better = gain(metric, (score, mean), (reference.last[metric], means.get(reference.key)))
        rows.append(Row(place, record, score, mean, seeds, better))
    full = [r for r in rows if r.record.status == records.FINISHED and r.score is not None]
    return Board(
        study=study.name,
        kind=study.kind,
        metric=metric,
        rows=rows,
        winner=next((row for row in full if is_search and not row.record.is_beside), None),
        default=next((row for row in full if row.record.role in _REFERENCES), None),
        baseline=next((row for row in full if row.is_baseline), None),
        told=_about(ranked.standing, study) if is_search else conclusion.lines(study),
    )


def gain(
    metric: str, one: tuple[float, float | None], other: tuple[float, float | None]
) -> float | None:
    """How much better `one` is, each a (score, mean): the difference of their means over the same
    seeds, of their scores when `one` has no mean. None when `one` alone has a mean: an average is
    not compared with a single lucky seed."""
    (score, mean), (other_score, other_mean) = one, other
    if mean is None:
        return ahead(metric, score, other_score)
    return None if other_mean is None else ahead(metric, mean, other_mean)


def why(record: Record) -> str:
    """What became of it, as text: what is none, such as a byte of a file's name, by its number."""
    return record.error.encode(errors="backslashreplace").decode()


def main(arguments: list[str]) -> int:
    parser = flags.Parser("skdtune.leaderboard", __doc__)
    parser.study()
    parser.tracking_uri()
    parser.option(
        "--format", "table, json or csv", choices=("table", "json", "csv"), default="table"
    )
    options = parser.parse(arguments)
    from skdtune import formats
    from skdtune.finding import find

    board = rank(find(options["study"], options["tracking_uri"]))
    forms = {"table": formats.as_table, "json": formats.as_json, "csv": formats.as_csv}
    print(forms[options["format"]](board))
    return 0


def _about(standing: Standing | None, study: Study) -> list[str]:
    """Why trials have no mean that are asked to have one."""
    if standing is None:
        return []
    found = study.records.values()
    out = sorted({r.repeats for r in found if r.repeats and r.status == records.DIVERGED})
    diverged = [f"diverged with another seed, so without a mean: trial {', '.join(out)}"]
    return (diverged if out else []) + (_unfinished(standing) if standing.best else [])


def _unfinished(standing: Standing) -> list[str]:
    if standing.is_complete:
        return []
    repeats = standing.repeats
    done = sum(repeat.status == records.FINISHED for repeat in repeats)
    failed = [r for r in repeats if r.status == records.FAILED]
    lost = ""
    if failed:
        lost = f"; of trial {', '.join(dict.fromkeys(r.repeats for r in failed))} some failed"
        lost += f" ({why(failed[0])[:LONGEST_ERROR]})" if failed[0].error else ""
    total = len(repeats) + len(standing.missing)
    return [
        f"finalists: {done} of {total} repeats have finished{lost}; until all have, trials rank by "
        "their own seed (--resume trains the rest)"
    ]


if __name__ == "__main__":
    run(main)
