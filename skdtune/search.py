"""Runs one search and prints its leaderboard: `python -m skdtune.search [SPACE]`."""

if __name__ == "__main__":  # before the imports, which take seconds and read the environment
    from skdtune import commands, errors

    errors.begin()
    commands.search(__doc__).help()

import logging
import shlex
import warnings

from rich.console import Console

from skdtune import (
    cluster,
    commands,
    dry_run,
    formats,
    leaderboard,
    records,
    request,
    session,
)
from skdtune.errors import NOT_DONE, run
from skdtune.records import Study
from skdtune.session import Ending
from skdtune.terminal import Terminal


def main(arguments: list[str]) -> int:
    _silence()
    wanted = request.read(commands.search(__doc__), arguments)
    console = Terminal()
    if wanted.options["check"]:
        dry_run.show(wanted, cluster.where(wanted.options["address"]), console)
        return 0
    ending = session.run(wanted, console)
    return _conclude(ending, wanted.options["storage"], console)


def _conclude(ending: Ending, storage: str | None, console: Console) -> int:
    """Prints what came of it; returns the exit code."""
    study = ending.study
    place = storage or _called(study)
    board = leaderboard.rank(study)
    console.print(formats.as_table(board))
    if board.winner is not None:
        console.print(
            f"best config: {study.folder.folder(session.BEST).uri}; "
            f"a copy here: python -m skdtune.export {shlex.quote(place)}"
        )
    if not ending.mirrored:
        console.print(
            f"MLflow lacks some of it; catch up: python -m skdtune.sync {shlex.quote(place)}"
        )
    console.print(f"{ending.seconds:.0f} s")
    if ending.stopped:
        where = f"--storage {shlex.quote(storage)}" if storage else f"--name {shlex.quote(place)}"
        console.print(f"stopped: {ending.stopped}")
        if not ending.for_good:
            console.print(f"go on with: python -m skdtune.search --resume {where}")
        return 128 + ending.signal if ending.signal else NOT_DONE
    finished = any(record.status == records.FINISHED for record in study.records.values())
    return 0 if finished else NOT_DONE


def _called(study: Study) -> str:
    """What the programs find it by: the name of its folder, which one may have renamed."""
    return study.folder.name if study.folder.local else study.name


def _silence() -> None:
    """What the libraries say about themselves is not for the user of a search."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    for name in ("ray", "mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a failed trial is in its record and has its line
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="(mlflow|sqlalchemy|ray|torch).*")


if __name__ == "__main__":
    run(main)
