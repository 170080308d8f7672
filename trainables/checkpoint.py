"""Checkpoints of one trial: tensors and plain Python only, verified before they are believed."""

import errno
import hashlib
import io
import json
import re
import time

import torch

from trainables.storage import Folder

FORMAT = 1
CHECKPOINTS = "checkpoints"  # a study's folder of the checkpoints of its trials, one folder a trial
_STATE = "state.pt"
_MANIFEST = "manifest.json"
_PAUSES_S = (0.5, 2.0, 8.0)  # before a read is tried again
_DAMAGE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
MOST_OF_THE_TIME = 0.05  # that goes into writing them


class StorageFull(OSError):
    """A checkpoint finds no room. No trial would; it is not the trial's failure."""


class Checkpoints:
    """The newest checkpoints of the trial `trial` in `folder`, one folder an epoch.

    The manifest (size and sha256 of the state, whose it is) is written last, so a folder without
    one is a write that was cut off. keep: how many to hold, so that a damaged one has one before
    it."""

    def __init__(self, folder: Folder, trial: str, keep: int = 2):
        self.folder = folder
        self.trial = trial
        self.keep = keep
        self.newest = ""  # the name of what was saved or loaded last
        self.skipped: list[str] = []  # what `latest` found damaged, in words
        self._pause_until = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the next one may be written: the last has cost a twentieth of the time at most,
        on a fast GPU or a slow storage too."""
        return time.monotonic() >= self._pause_until

    def save(self, epoch: int, state: dict) -> str:
        """Writes the state after `epoch` (1-based) and drops the oldest; returns the
        checkpoint's name. Errors: StorageFull, OSError; what was there before is still there."""
        began = time.monotonic()
        name = f"epoch_{epoch:06d}"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getbuffer()
        manifest = {
            "format": FORMAT,
            "trial": self.trial,
            "epoch": epoch,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        try:
            self.folder.write(f"{name}/{_STATE}", data)
            self.folder.write(f"{name}/{_MANIFEST}", json.dumps(manifest).encode())
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise StorageFull(*error.args) from error
            raise
        names = self._names()
        up_to_here = [other for other in names if other <= name]
        passed_over = [other for other in names if other > name]  # damaged, trained again now
        for other in up_to_here[: -self.keep] + passed_over:
            self.folder.delete(other)
        self.newest = name
        now = time.monotonic()
        self._pause_until = now + (now - began) * (1 / MOST_OF_THE_TIME - 1)
        return name

    def latest(self) -> dict | None:
        """The state of the newest checkpoint that is whole; damaged ones are noted in `skipped`.

        Errors: OSError when the storage does not answer, which says nothing of the checkpoint."""
        for name in reversed(self._names()):
            try:
                state = self._load(name)
                self.newest = name
                return state
            except Exception as error:  # damage takes any form; an older one may do
                if isinstance(error, OSError) and not isinstance(error, _DAMAGE):
                    raise
                self.skipped.append(f"checkpoint {name} skipped: {error}")
        return None

    @property
    def newest_epoch(self) -> int:
        """Of the newest checkpoint, whole or not; 0 before the first."""
        return int(self._names()[-1].removeprefix("epoch_")) if self._names() else 0

    def _names(self) -> list[str]:
        return [name for name in self.folder.names() if re.fullmatch(r"epoch_\d{6}", name)]

    def _load(self, name: str) -> dict:
        manifest = json.loads(self._read(f"{name}/{_MANIFEST}"))
        if (manifest["format"], manifest["trial"]) != (FORMAT, self.trial):
            raise ValueError(f"it is format {manifest['format']} of trial {manifest['trial']}")
        data = self._read(f"{name}/{_STATE}")
        if len(data) != manifest["size"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise ValueError("its bytes are not those that were written")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not f"epoch_{state['epoch']:06d}" == f"epoch_{manifest['epoch']:06d}" == name:
            raise ValueError(f"it holds epoch {state['epoch']}")
        return state

    def _read(self, name: str) -> bytes:
        for pause_s in _PAUSES_S:
            try:
                return self.folder.read(name)
            except _DAMAGE:
                raise
            except OSError:  # a network file system or a store may be away for a moment
                time.sleep(pause_s)
        return self.folder.read(name)
