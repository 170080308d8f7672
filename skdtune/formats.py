"""A leaderboard in each of its formats: a table and lines for a person, JSON, CSV."""

import csv
import io
import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skdtune import records
from skdtune.errors import without_numbers
from skdtune.leaderboard import LABELS, LONGEST_ERROR, Board, Row, gain, why

_MOST_FAILURES = 3
_WIDTH = 200  # where there is no terminal
_NARROW = 130  # columns; below, a trial's values have no room beside the rest
_VALUES = "searched values"
_MEAN = "mean (seeds)"


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
                "error": why(row.record),
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


def as_table(board: Board) -> str:
    """For a person; as wide as the terminal, or where there is none as it has to be."""
    screen, text = Console(), io.StringIO()  # rich would end the program at a closed pipe
    width = screen.width if screen.is_terminal else _WIDTH
    show(board, Console(file=text, width=width, force_terminal=screen.is_terminal))
    return text.getvalue().rstrip("\n")


def show(board: Board, console: Console) -> None:
    """The table for a person, and below it what the winner is worth. Where there is little room a
    trial's values stand below the table, on a line of their own."""
    is_narrow = console.width < _NARROW
    heads = columns(board)[:-1] if is_narrow else columns(board)
    table = Table(
        title=escape(f"study {board.study}"), title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for column in heads:
        table.add_column(
            column,
            justify="right" if column in ("rank", "epochs", board.metric, _MEAN) else "left",
            overflow="fold" if column == _VALUES else "ellipsis",
        )
    for row in board.rows:
        style = "bold" if row is board.winner else None
        table.add_row(*map(escape, cells(board, row)[: len(heads)]), style=style)
    console.print(table)
    lines = [*_failures(board), *summary(board)]
    if is_narrow:
        values = [f"{row.key}  {_values(row)}" for row in board.rows if row.record.params]
        lines = ["", f"{_VALUES}:", *values, "", *lines] if values else lines
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _failures(board: Board) -> list[str]:
    """What became of the trials without a result, the first of each kind."""
    lines, more = [], 0
    kinds: set[tuple[str, str]] = set()
    for record in sorted((row.record for row in board.rows), key=lambda record: record.key):
        if record.status not in (records.DIVERGED, records.FAILED):
            continue
        kind = record.status, without_numbers(record.error)
        if kind in kinds or len(kinds) == _MOST_FAILURES:
            more += 1
            continue
        kinds.add(kind)
        lines.append(f"trial {record.key} {record.status}: {why(record)[:LONGEST_ERROR]}")
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
        _values(row),
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
        beyond = gain(board.metric, (winner.score, winner.mean), (row.score, row.mean))
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


def _values(row: Row) -> str:
    return ", ".join(f"{path} {_plain(value)}" for path, value in row.record.params.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
