"""What is looked at before anything trains: the data set, the teachers, one batch of the first
trial."""

import os
import traceback
from pathlib import Path
from typing import Any

import torch

from skdtune import teachers
from skdtune.errors import ConfigError, first_line
from skdtune.space import BASELINE, SearchSpace
from trainables import data, methods, models
from trainables.data import Sets
from trainables.sources import DataError
from trainables.storage import Folder

_IMAGES = 4  # of a rehearsal


def data_facts(space: SearchSpace, folder: Folder, tracking_uri: str) -> dict[str, Any]:
    """Sizes and fingerprint of the data set that the first trial trains on. folder: the study's.
    tracking_uri: of the MLflow that is asked for teachers. Errors: ConfigError for a set that is
    missing or damaged, and for teachers that do not fit."""
    config = space.config(space.first_values(space.first_trials()[0]))
    sets = load_data(config)
    teachers.check(teachers.named(space), sets, folder, tracking_uri)
    _rehearse(config, sets)
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
    }


def batch_note(batch_size: int, images: int) -> str:
    """A line to print when a batch is more than there is to train on; empty when it is not."""
    if batch_size <= images:
        return ""
    return f"data.batch_size: {batch_size} asked; an epoch is one batch of all {images} images"


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
    place = next(path for path in (folder.local, *folder.local.parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ConfigError("--storage", [f"{folder.uri}: {place} is no folder that can be written"])


def _rehearse(config: dict, sets: Sets) -> None:
    """One batch of the method on the backbone, with images of this size, so that what does not fit
    together fails here and not in every trial. Errors: ConfigError."""
    section = {"name": BASELINE} if teachers.are_used(config) else config["method"]
    pair = f"{section['name']} on {config['model']['name']}"
    with torch.random.fork_rng(devices=[]):  # the driver leaves the GPUs alone
        try:
            _two_batches(config, section, sets)
        except (RuntimeError, ValueError) as error:
            place = "x".join(map(str, sets.image_shape))
            problem = f"{pair} cannot take images of {place}: {first_line(error)}{_where(error)}"
            raise ConfigError("trial", [problem]) from None
        except Exception as error:
            problem = f"{pair} fails: {type(error).__name__}: {first_line(error)}{_where(error)}"
            raise ConfigError("trial", [problem]) from error


def _two_batches(config: dict, section: dict, sets: Sets) -> None:
    """The second has one before it."""
    backbone = models.build(
        classes=len(sets.classes), image_shape=sets.image_shape, **config["model"]
    )
    method = methods.build(model=backbone, **section)
    method.start_training(methods.Task(_IMAGES, config["epochs"], sets.mean, sets.std))
    method.start_epoch()
    rows = torch.arange(_IMAGES).repeat(2 if method.companion else 1)
    for _ in range(2):
        method.start_batch(rows)
        images = torch.randn(len(rows), *sets.image_shape)
        answer = method.losses(images, rows % len(sets.classes))
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
            raise TypeError("losses must return the logits and a dictionary of named terms")
        sum(answer[1].values()).backward()
    method.eval()(images)


def _where(error: Exception) -> str:
    """The last line of our packages that it went through, where a method's author looks first."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if "trainables" in path.parts:
            below = path.parts[path.parts.index("trainables") :]
            return f" ({'/'.join(below)}, line {frame.lineno})"
    return ""
