"""What is looked at before anything trains: the data set, the teachers, one batch of the first
trial."""

import os
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from skdtune import teachers
from skdtune.errors import ConfigError, first_line
from skdtune.space import BASELINE_METHOD, SearchSpace
from trainables import data, methods, metrics, models
from trainables.data import Sets
from trainables.sources import DataError
from trainables.storage import Folder

_IMAGES = 4  # of a rehearsal
_GIB = 2**30


def data_facts(space: SearchSpace, folder: Folder, tracking_uri: str) -> dict[str, Any]:
    """Sizes and fingerprint of the data set that the first trial trains on. folder: the study's.
    tracking_uri: of the MLflow that is asked for teachers. Errors: ConfigError for a set that is
    missing or damaged, and for teachers that do not fit."""
    config = space.first_config()
    sets = load_data(config)
    teachers.check(teachers.named(space), sets, folder, tracking_uri)
    late, checkpoint_bytes = _rehearse(config, sets)
    channels, height, width = sets.image_shape
    data.forget()  # the driver trains nothing
    return {
        "name": config["data"]["name"],
        "train": len(sets.train),
        "validation": len(sets.held_out),
        "classes": len(sets.classes),
        "image": [channels, height, width],
        "fingerprint": sets.fingerprint(),
        "batch_size": sets.batch_size,
        "late_terms": late,
        "checkpoint_bytes": checkpoint_bytes,
    }


def notes(facts: dict[str, Any], folder: Folder, concurrent: int, trials: int) -> list[str]:
    """Lines to print before a search begins. facts: those of `data_facts`. concurrent: trials that
    run at once. trials: to come. Errors: ConfigError for a disk without room for the former."""
    small = batch_note(facts["batch_size"], facts["train"], facts["late_terms"])
    return [small, room(folder, facts["checkpoint_bytes"], concurrent, trials)]


def batch_note(batch_size: int, images: int, late_terms: Sequence[str] = ()) -> str:
    """A line to print when an epoch is a single batch: because there are no more images, or where
    the method has terms that come with the second one. Else empty."""
    notes = []
    if batch_size > images:
        notes.append(f"{batch_size} asked; an epoch is one batch of all {images} images")
    if late_terms and images < 2 * batch_size:
        lost = ", ".join(map(metrics.loss_name, late_terms))
        notes.append(f"no epoch has a second batch, with which alone {lost} would come in")
    return f"data.batch_size: {'; '.join(notes)}" if notes else ""


def load_data(config: dict, final: bool = False) -> Sets:
    """The image sets of a trial's config. Errors: ConfigError for what cannot be loaded."""
    try:
        return data.build(**config["data"], final=final)
    except (
        DataError,
        MemoryError,
        RuntimeError,
    ) as error:  # torch says out of memory by the latter
        raise ConfigError(f"data set {config['data']['name']}", [first_line(error)]) from None


def writable(folder: Folder) -> None:
    """Errors: ConfigError when a folder of this machine cannot be made or written where a study is
    to be."""
    if folder.local is None:
        return
    place = _there(folder.local)
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ConfigError("--storage", [f"{folder.uri}: {place} is no folder that can be written"])


def room(folder: Folder, checkpoint_bytes: int, concurrent: int, trials: int) -> str:
    """A line to print when the disk has no room for the last checkpoint of each of so many trials;
    else empty. Of a trial that runs there are two and the one that is being written. Errors:
    ConfigError when there is no room for those that run at once."""
    if folder.local is None:
        return ""
    free = shutil.disk_usage(_there(folder.local)).free
    running = 3 * checkpoint_bytes * concurrent
    if free < running:
        asked = f"the checkpoints of {concurrent} trials at once take {running / _GIB:.1f} GiB"
        raise ConfigError("--storage", [f"{folder.uri} has {free / _GIB:.1f} GiB left, {asked}"])
    whole = running + checkpoint_bytes * trials
    if free >= whole:
        return ""
    most = f"if all {trials} trials run to the end, {whole / _GIB:.1f} GiB of checkpoints stay"
    return f"{most}; {folder.uri} has {free / _GIB:.1f} GiB left"


def _there(path: Path) -> Path:
    """The folder that is there, of a path and those around it."""
    return next(place for place in (path, *path.parents) if place.exists())


def _rehearse(config: dict, sets: Sets) -> tuple[list[str], int]:
    """Three batches of the method on the backbone, with images of this size, so that what does not
    fit together fails here and not in every trial. Returns the terms that the second one alone
    has, and what a checkpoint takes in bytes. Errors: ConfigError."""
    section = {"name": BASELINE_METHOD} if teachers.are_used(config) else config["method"]
    pair = f"{section['name']} on {config['model']['name']}"
    with torch.random.fork_rng(devices=[]):  # the driver leaves the GPUs alone
        try:
            return _batches(config, section, sets)
        except (RuntimeError, ValueError) as error:
            place = "x".join(map(str, sets.image_shape))
            problem = f"{pair} cannot take images of {place}: {first_line(error)}{_where(error)}"
            raise ConfigError("trial", [problem]) from None
        except Exception as error:
            problem = f"{pair} fails: {type(error).__name__}: {first_line(error)}{_where(error)}"
            raise ConfigError("trial", [problem]) from error


def _batches(config: dict, section: dict, sets: Sets) -> tuple[list[str], int]:
    """The second has one before it, and the terms that are returned for it; the third, of another
    epoch, may have it still."""
    backbone = models.build(
        classes=len(sets.classes), image_shape=sets.image_shape, **config["model"]
    )
    method = methods.build(model=backbone, **section)
    method.start_training(methods.Task(_IMAGES, config["epochs"], sets.mean, sets.std))
    method.start_epoch()
    rows = torch.arange(_IMAGES).repeat(2 if method.companion else 1)
    found: list[dict] = []
    for number in range(3):
        if number == 2:
            method.start_epoch()
        method.start_batch(rows)
        images = torch.randn(len(rows), *sets.image_shape)
        answer = method.losses(images, rows % len(sets.classes))
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            raise TypeError("losses must return the logits and a dictionary of named terms")
        for name in answer[1]:
            metrics.loss_name(name)
        sum(answer[1].values()).backward()
        found.append(answer[1])
    method.eval()(images)
    late = [name for name in found[1] if name not in found[0] and name not in found[2]]
    weights = sum(tensor.nbytes for tensor in method.parameters())
    return late, 2 * weights + sum(tensor.nbytes for tensor in method.buffers())  # and momenta


def _where(error: Exception) -> str:
    """The last line of our packages that it went through, where a method's author looks first."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if "trainables" in path.parts:
            below = path.parts[path.parts.index("trainables") :]
            return f" ({'/'.join(below)}, line {frame.lineno})"
    return ""
