"""Ranks the trials of a study: `python -m skdtune.leaderboard [STUDY]`, or `rank(study)`."""

if __name__ == "__main__":  # before the imports, which take seconds and read the environment
    from skdtune import errors

    errors.begin()

import csv
import io
import json
import re
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skdtune import conclusion, flags, ranking, records
from skdtune.comparison import ahead
from skdtune.errors import run
from skdtune.ranking import Standing, ranked_by
from skdtune.records import Record, Study

_MOST_FAILURES, _LONGEST_ERROR = 3, 300
_NUMBER = re.compile(r"[0-9][0-9.]*")  # of an epoch, of bytes: another one in each
_VALUES = "searched values"
_MEAN = "mean (seeds)"
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
        gain = None
        if reference and record.status == records.FINISHED and score is not None:
            gain = _gain(metric, (score, mean), (reference.last[metric], means.get(reference.key)))
        rows.append(Row(place, record, score, mean, seeds, gain))
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


def as_json(board: Board) -> str:
    """One object: study, metric, the keys of winner, default and baseline, and a list of trials."""
    content = {
        "study": board.study,
        "metric": board.metric,
        "note": "search scores: the best of many on the validation set, not a result"
        if board.kind == "search"
        else "scores on the test set, run by run; what they come to is in result.json",
        **{role: row.key if row else None for role, row in _references(board).items()},
        "trials": [
            {
                **_flat(board, row),
                "error": _printable(row.record.error),
                "params": row.record.params,
                "metrics": row.record.last,
            }
            for row in board.rows
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def as_csv(board: Board) -> str:
    """A line a trial; a column for every searched value."""
    paths = list(dict.fromkeys(path for row in board.rows for path in row.record.params))
    lines = [
        _flat(board, row) | {path: row.record.params.get(path, "") for path in paths}
        for row in board.rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(lines[0]) if lines else ["rank"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def show(board: Board, console: Console) -> None:
    """The table for a person, and below it what the winner is worth."""
    table = Table(
        title=escape(f"study {board.study}"), title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for column in columns(board):
        table.add_column(
            column,
            justify="right" if column in ("rank", "epochs", board.metric, _MEAN) else "left",
            overflow="fold" if column == _VALUES else "ellipsis",
        )
    for row in board.rows:
        style = "bold" if row is board.winner else None
        table.add_row(*map(escape, cells(board, row)), style=style)
    console.print(table)
    for line in [*_failures(board), *summary(board)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _failures(board: Board) -> list[str]:
    """What became of the trials without a result, the first of each kind."""
    lines, more = [], 0
    kinds: set[tuple[str, str]] = set()
    for record in sorted((row.record for row in board.rows), key=lambda record: record.key):
        if record.status not in (records.DIVERGED, records.FAILED):
            continue
        kind = record.status, _NUMBER.sub("#", record.error)
        if kind in kinds or len(kinds) == _MOST_FAILURES:
            more += 1
            continue
        kinds.add(kind)
        told = _printable(record.error[:_LONGEST_ERROR])
        lines.append(f"trial {record.key} {record.status}: {told}")
    return [*lines, f"... and {more} more that diverged or failed"] if more else lines


def columns(board: Board) -> list[str]:
    """The heads of the table's columns."""
    means = [_MEAN] if _has_finalists(board) else []
    return ["rank", "trial", "", "status", "epochs", board.metric, *means, "vs baseline", _VALUES]


def cells(board: Board, row: Row) -> list[str]:
    """What a trial's line has in each of them."""
    record = row.record
    mean = f"{row.mean:.4f} ({row.seeds})" if row.mean is not None else ""
    return [
        str(row.place),
        row.key,
        LABELS.get(record.role, ""),
        record.status,
        f"{record.epoch}/{record.config['epochs']}",
        _number(row.score),
        *([mean] if _has_finalists(board) else []),
        "" if row.is_baseline else _signed(row.gain),
        ", ".join(f"{path} {_plain(value)}" for path, value in record.params.items()),
    ]


def summary(board: Board) -> list[str]:
    """The winner beside the authors' default and the baseline, with their difference; of a final
    training its result."""
    if board.kind != "search":
        return board.told
    if board.winner is None:
        return [*board.told, "no trial of the search has come to its full budget"]
    winner = board.winner
    lines = [f"{'winner:':17} {_told(board, winner)}"]
    for row in filter(None, (board.default, board.baseline)):
        label = f"{LABELS[row.record.role]}:"
        if row is winner:
            lines.append(f"{label} it is the winner")
            continue
        beyond = _gain(board.metric, (winner.score, winner.mean), (row.score, row.mean))
        told = "" if beyond is None else f"  (winner {beyond:+.4f})"
        lines.append(f"{label:17} {_told(board, row)}{told}")
    if winner is not board.baseline and winner.gain is not None and winner.gain <= 0:
        lines.append("no setting beat the baseline")
    what = f"search scores, the luckiest of {len(board.rows)} trials on the validation set"
    if winner.mean is not None:
        what = f"means over the seeds of the finalists of {len(board.rows)} trials, validation set"
    lines.append(
        f"These are {what}; `python -m skdtune.train` confirms the winner on the test set over "
        "several other seeds."
    )
    return [*lines, *board.told]


def main(arguments: list[str]) -> int:
    parser = flags.Parser("skdtune.leaderboard", __doc__)
    parser.study()
    parser.tracking_uri()
    parser.option(
        "--format", "table, json or csv", choices=("table", "json", "csv"), default="table"
    )
    options = parser.parse(arguments)
    from skdtune.finding import find

    board = rank(find(options["study"], options["tracking_uri"]))
    if options["format"] == "table":
        console = Console()
        console = Console(width=None if console.is_terminal else 200)
        with (
            console.capture() as table
        ):  # printed by Python: rich ends the program at a closed pipe
            show(board, console)
        print(table.get(), end="")
    else:
        print(as_json(board) if options["format"] == "json" else as_csv(board))
    return 0


def _gain(
    metric: str, one: tuple[float, float | None], other: tuple[float, float | None]
) -> float | None:
    """How much better one (score, mean) is, over the same seeds of both: their means, or where the
    one has none their scores. None for a mean beside none, which would be luck beside none."""
    (score, mean), (other_score, other_mean) = one, other
    if mean is None:
        return ahead(metric, score, other_score)
    return None if other_mean is None else ahead(metric, mean, other_mean)


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
        why = _printable(failed[0].error[:_LONGEST_ERROR])
        lost = f"; of trial {', '.join(dict.fromkeys(r.repeats for r in failed))} some failed"
        lost += f" ({why})" if why else ""
    total = len(repeats) + len(standing.missing)
    return [
        f"finalists: {done} of {total} repeats have finished{lost}; until all have, trials rank by "
        "their own seed (--resume trains the rest)"
    ]


def _has_finalists(board: Board) -> bool:
    return any(row.mean is not None for row in board.rows)


def _told(board: Board, row: Row) -> str:
    if row.mean is None:
        return f"trial {row.key}  {board.metric} {row.score:.4f}"
    own = f"the mean of {row.seeds} seeds, {row.score:.4f} in the search"
    return f"trial {row.key}  {board.metric} {row.mean:.4f} ({own})"


def _references(board: Board) -> dict[str, Row | None]:
    return {"winner": board.winner, "default": board.default, "baseline": board.baseline}


def _flat(board: Board, row: Row) -> dict[str, object]:
    return {
        "rank": row.place,
        "trial": row.key,
        "role": row.record.role,
        "status": row.record.status,
        "epoch": row.record.epoch,
        "epochs": row.record.config["epochs"],
        "score": row.score,
        "gain": row.gain,
        **({"mean": row.mean, "seeds": row.seeds} if _has_finalists(board) else {}),
    }


def _printable(text: str) -> str:
    """What is no text, such as a byte of a file's name, by its number."""
    return text.encode(errors="backslashreplace").decode()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)
