"""Where a study is to be: others' files are left alone, what a start that was killed has left is
cleared."""

import os
import uuid
from collections.abc import Callable
from typing import Any

from skdtune import records
from skdtune.errors import ConfigError
from skdtune.records import Study
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


def tell_apart(study: Study, say: Callable[[str], Any]) -> None:
    """A copy of a study that is still where it was becomes a study of its own: with one id each
    would take the other's runs in MLflow for its own. say: prints a line."""
    if study.home in ("", study.folder.uri):
        return
    try:
        before = Folder(study.home)
        is_there = records.is_study(before) and records.load(before, trials=False).id == study.id
        if (
            before.local
            and study.folder.local
            and os.path.samefile(before.local, study.folder.local)
        ):
            return
    except (OSError, ValueError, ConfigError):  # out of reach: it has been moved
        return
    if is_there:
        study.id = uuid.uuid4().hex
        say(f"a copy of the study in {study.home}; its runs in MLflow are its own from here on")


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
