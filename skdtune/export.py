"""The winning trial, or another, to best.yaml: `python -m skdtune.export [STUDY]`, or
`document(study)`."""

if __name__ == "__main__":  # before the imports, which read the environment
    from skdtune import errors

    errors.begin()

from itertools import count
from pathlib import Path

from skdtune import comparison, flags, records
from skdtune.errors import ConfigError, run
from skdtune.leaderboard import Board, Row, rank
from skdtune.records import Study
from skdtune.strict_yaml import dump
from trainables.arguments import nearest
from trainables.storage import Folder


def document(study: Study, trial: str | None = None) -> dict:
    """The winner, or the trial of that key, as a space with nothing left to search, and where it
    came from. Errors: ConfigError when it has not come to its full budget, or there is none that
    has, and for a final training."""
    if study.kind != "search":
        problem = "it is a final training; what it trained stands in the config that it was given"
        raise ConfigError(f"study {study.name}", [problem])
    board = rank(study)
    row = board.winner if trial is None else _row(board, trial)
    if row is None:
        raise ConfigError(
            f"study {study.name}", ["no trial of the search has come to its full budget yet"]
        )
    record = row.record
    origin = {
        "study": study.name,
        "study_id": study.id,
        "space": study.space_name,
        "trial": record.key,
        "role": record.role,
        "searched": dict(record.params),
        "search_score": _score(board.metric, row),
        "search_seeds": 1 + max(r.last_seed for r in study.records.values()) - record.seed,
        "trials": len(board.rows),
        "tracking_uri": study.tracking_uri,
        "git_commit": study.commit,
        "versions": study.versions,
    }
    resources = {"resources": study.space["resources"]} if study.space.get("resources") else {}
    config, against = record.config, comparison.against(study, record)
    if study.folder is not None:
        config = _with_teacher(config, study.folder)
        against = {name: _with_teacher(other, study.folder) for name, other in against.items()}
    compared = {"compare": against} if against else {}
    return {"trial": config, **compared, **resources, "provenance": origin}


def _with_teacher(config: dict, folder: Folder) -> dict:
    """A config, or some sections of one, whose teacher is the copy that the study keeps."""
    if config.get("method", {}).get("teacher") is None:
        return config
    from skdtune import teachers  # with torch, which takes seconds

    return teachers.kept(config, folder)


def _row(board: Board, trial: str) -> Row:
    """Errors: ConfigError when the trial is not there, or did not come to its full budget."""
    row = next((row for row in board.rows if row.key == trial), None)
    if row is None:
        problem = f"{trial!r}: study {board.study} has no such trial"
        raise ConfigError("--trial", [problem + nearest(trial, [r.key for r in board.rows])])
    record = row.record
    if record.status != records.FINISHED:
        seen = f"{record.epoch} of {record.config['epochs']} epochs"
        raise ConfigError("--trial", [f"trial {trial} is {record.status} after {seen}"])
    return row


def _score(metric: str, row: Row) -> dict[str, float | None]:
    mean = {} if row.mean is None else {"mean": row.mean, "seeds": row.seeds}
    return {metric: row.score, **mean, "gain_over_baseline": row.gain}


def text(study: Study, trial: str | None = None) -> str:
    """best.yaml's content."""
    head = (
        "# Found by a search; train it: python -m skdtune.train best.yaml --seeds 3\n"
        "# What stands under `compare` is trained beside it; without it: --set compare=null\n"
    )
    return head + dump(document(study, trial))


def main(arguments: list[str]) -> int:
    parser = flags.Parser("skdtune.export", __doc__)
    parser.study()
    parser.tracking_uri()
    parser.option("--trial", "of the search, by its key (default: the winner)", metavar="KEY")
    parser.option("--output", "file to write (default: best.yaml)", default="best.yaml")
    options = parser.parse(arguments)
    from skdtune.finding import find

    content = text(find(options["study"], options["tracking_uri"]), options["trial"])
    path = Path(options["output"])
    try:
        kept = _moved_aside(path, content)
        Folder(path.absolute().parent).write(path.name, content.encode())
    except (OSError, ValueError) as error:
        raise ConfigError("--output", [f"{path} cannot be written: {error}"]) from None
    if kept:
        print(f"another {path} was there; it is {kept} now")
    print(f"{path}: python -m skdtune.train {path} --seeds 3")
    return 0


def _moved_aside(path: Path, content: str) -> Path | None:
    """Where a file of that name with other content is now. Errors: OSError."""
    if not path.is_file() or path.read_bytes() == content.encode():
        return None
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    return free


if __name__ == "__main__":
    run(main)
