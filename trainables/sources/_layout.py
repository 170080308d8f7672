"""Is a published data set where it should be, and unpacked as it was packed."""

from collections.abc import Sequence
from pathlib import Path

from trainables.decoding import DataError


def locate(root: Path, below: Sequence[str], expected: Sequence[str], origin: str) -> Path:
    """The folder that holds all of `expected` (a folder's name ends with a slash): `root`, or one
    of the folders `below` it, as the archive is unpacked.

    origin: what to download and where from, for the error. Errors: DataError that says everything
    that was expected and what of it is missing."""
    places = [root, *(root / name for name in below)]
    missing = {place: [name for name in expected if not _is_there(place, name)] for place in places}
    best = min(places, key=lambda place: len(missing[place]))
    if not missing[best]:
        return best
    elsewhere = f", or in {' or '.join(below)} below {root}" if below else ""
    raise DataError(
        f"{best}: missing {', '.join(missing[best])}; expected there{elsewhere}: "
        f"{', '.join(expected)}; get {origin}"
    )


def lines(path: Path) -> list[str]:
    """The lines of a text file. Errors: DataError for one that is no text."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _is_there(place: Path, name: str) -> bool:
    return (place / name).is_dir() if name.endswith("/") else (place / name).is_file()
