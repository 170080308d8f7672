"""One live owner a study: a second search of the same name is refused, a dead owner's place is
taken."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from skdtune import records
from skdtune.errors import ConfigError
from trainables.storage import Folder

_LOCK = ".lock"
_BEAT_S = 10.0
_DEAD_AFTER_S = 60.0
_SETTLE_S = 1.0  # whoever started at the same moment has written by then: the last one stays


@contextmanager
def held(folder: Folder, name: str) -> Iterator[None]:
    """Holds the study while the block runs.

    On a local or shared file system the operating system's lock decides, which a killed owner
    gives up at once. On an object store there is none: a heartbeat file decides, within a minute
    and as well as the store allows. Errors: ConfigError naming the owner when it lives."""
    if folder.local is None:
        with _beating(folder, name):
            yield
        return
    lock = FileLock(folder.local / _LOCK)
    made = [place for place in (folder.local, folder.local.parent) if not place.exists()]
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        folder.write(records.OWNER, json.dumps(_owner()).encode())
    except Timeout:
        raise _refusal(folder, name, _read(folder)) from None
    except OSError as error:
        lock.release()
        raise _unwritable(folder, name, error) from None
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, and what ended in it is told of then
            folder.delete(records.OWNER)
            _leave_no_trace(folder.local, made)
        lock.release()


@contextmanager
def _beating(folder: Folder, name: str) -> Iterator[None]:
    if found := _living(folder, name):
        mend = f"; one that was killed leaves it free {_DEAD_AFTER_S:.0f} s after its last sign"
        raise _refusal(folder, name, found, mend)
    me = {**_owner(), "token": uuid.uuid4().hex}
    stop = threading.Event()

    def is_mine() -> bool:
        return _read(folder).get("token", me["token"]) == me["token"]

    def beat() -> None:
        while not stop.wait(_BEAT_S):
            with suppress(Exception):  # the store may be away for a moment
                if is_mine():
                    folder.write(records.OWNER, json.dumps({**me, "beat": time.time()}).encode())

    try:
        folder.write(records.OWNER, json.dumps({**me, "beat": time.time()}).encode())
    except OSError as error:
        raise _unwritable(folder, name, error) from None
    time.sleep(_SETTLE_S)
    if _read(folder).get("token") != me["token"]:
        raise _refusal(folder, name, _read(folder))
    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError):
            if is_mine():  # else we were taken for dead, and another owner has the study
                folder.delete(records.OWNER)


def _living(folder: Folder, name: str) -> dict[str, Any]:
    """The owner that lives, if there is one. One whose last beat is old by this machine's clock is
    watched for another: its own clock may be wrong, or ours. Errors: ConfigError for a store that
    does not say."""
    found = _found(folder, name)
    age = time.time() - found.get("beat", 0)
    if not found or 0 <= age < _DEAD_AFTER_S:
        return found
    time.sleep(2 * _BEAT_S if age > 0 else _DEAD_AFTER_S)
    later = _found(folder, name)
    return later if later.get("beat") != found.get("beat") else {}


def _owner() -> dict[str, Any]:
    """Who is running a study, for the message to whoever tries to run it too."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}


def _leave_no_trace(folder: Path, made: list[Path]) -> None:
    """Of a study that came to nothing: the lock, and of the folders those that were made for it."""
    if os.listdir(folder) == [_LOCK]:
        (folder / _LOCK).unlink()
        for place in made:
            place.rmdir()


def _read(folder: Folder) -> dict:
    try:
        return json.loads(folder.read(records.OWNER))
    except (OSError, ValueError):
        return {}


def _found(folder: Folder, name: str) -> dict:
    """The same, but who cannot be read is not taken for nobody."""
    try:
        return json.loads(folder.read(records.OWNER))
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise ConfigError(f"study {name}", [f"{folder.uri} cannot be read: {error}"]) from None


def _unwritable(folder: Folder, name: str, error: OSError) -> ConfigError:
    return ConfigError(f"study {name}", [f"{folder.uri} cannot be written: {error}"])


def _refusal(folder: Folder, name: str, owner: dict, mend: str = "") -> ConfigError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.get("since", time.time())))
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')} since {since}"
    return ConfigError(f"study {name}", [f"it is being run by {who} ({folder.uri}){mend}"])
