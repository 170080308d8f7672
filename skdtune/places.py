"""Where a study is to be: others' files are left alone, what a start that was killed has left is
cleared."""

from skdtune import records
from skdtune.errors import ConfigError
from trainables.storage import Folder

_BEGUN = ".begun"  # there until the study's own file is


def refuse_strangers(folder: Folder, flag: str) -> None:
    """Errors: ConfigError for a folder of other things, of which a study would overwrite some, and
    for a place that is none."""
    try:
        found = [name for name in folder.names() if name != records.OWNER]
    except OSError as error:
        raise ConfigError(flag, [f"{folder.uri} cannot be read as a folder: {error}"]) from None
    if found and not records.is_study(folder) and not folder.exists(_BEGUN):
        listed = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        problem = f"{folder.uri} holds what is no study ({listed}); name an empty or a new folder"
        raise ConfigError(flag, [problem])


def begin(folder: Folder) -> None:
    """Marks a folder as that of a study which is not written yet, and clears what an earlier start,
    killed before it had written its own, has left. Errors: OSError."""
    if folder.exists(_BEGUN):
        for name in folder.names():
            if name != records.OWNER:
                folder.delete(name)
    folder.write(_BEGUN, b"")


def complete(folder: Folder) -> None:
    """The study's own file is written. Errors: OSError."""
    folder.delete(_BEGUN)
