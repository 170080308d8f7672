"""Finds the study a person means: in ./studies, in a folder, or in MLflow when its disk is
elsewhere."""

from pathlib import Path

from skdtune import records
from skdtune.errors import ConfigError, first_line
from skdtune.records import Study
from skdtune.tracking_uri import default_uri, knock
from trainables.arguments import nearest
from trainables.storage import Folder

STUDIES = Path("studies")


def find(study: str | None, tracking_uri: str | None = None) -> Study:
    """The study of that name, folder or URI; None: the newest, in ./studies.

    An explicit tracking URI reads MLflow alone, the newest search there too. Errors: ConfigError
    when it is nowhere.
    """
    if tracking_uri is None:
        folder = newest() if study is None else on_disk(study)
        if folder is not None:
            return records.load(folder)
    if study is None and tracking_uri is None:
        raise ConfigError(
            "STUDY", ["no study in ./studies; name one, or run python -m skdtune.search first"]
        )
    uri = tracking_uri or default_uri()
    found = _read(study, uri)
    if found is None and study is None:
        raise ConfigError("STUDY", [f"no search in {uri}"])
    if found is None:
        known = [folder.name for folder in _all()]
        raise ConfigError(study, [f"no such study in ./studies or in {uri}{nearest(study, known)}"])
    return found


def _read(study: str | None, uri: str) -> Study | None:
    from skdtune import tracked  # it takes a second to import, and most studies are on this disk

    try:
        knock(uri)
        return tracked.read_study(study, uri) if tracked.exists(uri) else None
    except Exception as error:  # noqa: BLE001 - a server may be down, a database damaged
        problem = f"MLflow at {uri} cannot be read: {first_line(error)}"
        raise ConfigError(study or "STUDY", [problem]) from None


def on_disk(study: str) -> Folder | None:
    """The folder of a study, by its name in ./studies or as a path or URI; None when it is not
    there. Errors: ConfigError when a path or URI cannot be looked at."""
    try:
        places = [Folder(study)] if "://" in study else [Folder(STUDIES / study), Folder(study)]
        return next((place for place in places if records.is_study(place)), None)
    except (OSError, ValueError) as error:
        if "/" in study:
            raise ConfigError(study, [f"cannot be looked at: {first_line(error)}"]) from None
        return None


def newest(space_name: str | None = None) -> Folder | None:
    """The folder of the study in ./studies that was made last, of one space or of any."""
    studies = [study for path in _all() if (study := _readable(Folder(path), trials=False))]
    fitting = [study for study in studies if space_name in (None, study.space_name)]
    newest_first = sorted(fitting, key=lambda study: study.created, reverse=True)
    return next((s.folder for s in newest_first if _readable(s.folder, trials=True)), None)


def _readable(folder: Folder, trials: bool) -> Study | None:
    try:
        return records.load(folder, trials)
    except ConfigError:  # a damaged study is in nobody's way until it is asked for by name
        return None


def _all() -> list[Path]:
    return sorted(path.parent for path in STUDIES.glob(f"*/{records.STUDY_FILE}"))
