"""Where the MLflow UI shows a study, and what the study's own page there says."""

import re
from urllib.parse import quote, urlencode

from skdtune.formats import cells, columns, summary
from skdtune.leaderboard import rank, ranked_by
from skdtune.records import Study
from skdtune.settings import LOWER_IS_BETTER

_TRAINING = {"workflowType": "machine_learning"}  # else MLflow 3.17 opens its pages for agents
_BEGIN = "- [all trials as curves]"
_MOST_ROWS = 10
_LONGEST = 7500  # characters; a tag has 8000 at most


def trials(study: Study, experiment: str, run: str) -> str:
    """The trials below the study's run, best first, as curves: the part of the address behind the
    server's."""
    metric = ranked_by(study)
    asked = {
        **_TRAINING,
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.mlflow.parentRunId = '{run}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": "true" if metric in LOWER_IS_BETTER else "false",
    }
    return f"#/experiments/{experiment}/runs?{urlencode(asked, quote_via=quote)}"


def description(study: Study, experiment: str, run: str, children: dict[str, str]) -> str:
    """Of the study's run, in Markdown: what has come of it, and its best trials. children: the runs
    of its trials by key."""
    board = rank(study)
    heads = columns(board)
    lines = [
        f"{_BEGIN}({trials(study, experiment, run)})",  # first: a long text is folded
        *(f"- {_escaped(line)}" for line in summary(board)),
        "",
        _row(heads),
        _row(["---"] * len(heads)),
    ]
    length = sum(map(len, lines))
    for row in board.rows[:_MOST_ROWS]:
        found = [_escaped(cell) for cell in cells(board, row)]
        if row.key in children:
            place = f"#/experiments/{experiment}/runs/{children[row.key]}?{urlencode(_TRAINING)}"
            found[1] = f"[{found[1]}]({place})"
        length += len(_row(found)) + 1
        if length > _LONGEST:
            break
        lines.append(_row(found))
    return "\n".join(lines)


def is_ours(text: str) -> bool:
    """Whether a description is one of those, and not what a person wrote."""
    return text.startswith(_BEGIN)


def _row(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def _escaped(text: str) -> str:
    """As it stands, on one line."""
    return re.sub(r"([\\*_\[\]<>|~#&])", r"\\\1", " ".join(text.split()))
