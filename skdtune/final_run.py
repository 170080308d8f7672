"""One run of a final training, in this process or in one of Ray's: what its record is told."""

import gc
import shutil
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from skdtune import comparison, records, teachers
from skdtune.records import MODELS, Record, Study
from trainables import shipping
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.classifier import UnfitNode, explained
from trainables.storage import Folder
from trainables.training import Diverged, Training

_MLFLOW_MODEL = "MLmodel"


def task(study: Study, record: Record) -> dict[str, Any]:
    """All that a process needs to run it. A teacher that it learns from must be there."""
    seed = study.records[comparison.key(records.SEED, 0)]
    same = record.config["data"] == seed.config["data"]
    return {
        "images": study.data.get("fingerprint") if same else None,
        "study": study.folder.uri,
        "key": record.key,
        "identity": record.identity,
        "config": teachers.equipped(record.config, study.folder, record.teacher),
        "ships": record.role == records.SEED,
        "teaches": any(other.teacher == record.key for other in study.records.values()),
    }


def events(
    task: dict[str, Any], device: torch.device, beat: Callable[[], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Trains from the last checkpoint to the end, then saves the models: what the record is told,
    first device and host, then each epoch's report with its checkpoint.

    beat: called after every batch. Errors: whatever training raises."""
    folder = Folder(task["study"])
    place = f"{CHECKPOINTS}/{task['key']}"
    checkpoints = Checkpoints(folder.folder(place), task["identity"])
    training = Training(**task["config"], final=True, device=device)
    if task["images"] not in (None, training.sets.fingerprint()):
        raise UnfitNode(f"the images or labels on {socket.gethostname()} are not the training's")
    yield {"device": training.place, "host": socket.gethostname()}
    for report in training.epochs(checkpoints, beat):
        newest = f"{place}/{checkpoints.newest}"
        yield {"report": report, "checkpoint": newest, "warnings": list(checkpoints.skipped)}
    model = task["config"]["model"]
    if task["ships"]:
        _save_models(Path(folder.local) / MODELS / task["key"], model, training)
    if task["teaches"]:
        teachers.keep_own(folder, training, model, task["key"])


def failure(error: Exception) -> dict[str, str]:
    """How a run ended that raised: its status, the error in words, where it stood."""
    status = records.DIVERGED if isinstance(error, Diverged) else records.FAILED
    told = str(error) if status == records.DIVERGED else explained(error)
    return {"status": status, "error": told, "details": traceback.format_exc()}


def release() -> None:
    """Gives back what a run of before has left in this process."""
    gc.collect()
    torch.cuda.empty_cache()


def _save_models(folder: Path, model: dict, training: Training) -> None:
    """The weights as safetensors, and an MLflow model in the exported format that needs no
    unpickling."""
    import mlflow.pytorch

    sets = training.sets
    shipped = shipping.ship(training.method, sets)
    shipping.save(folder, shipped, model, sets.image_shape, sets.unseen)
    target = folder / "mlflow"
    if not (target / _MLFLOW_MODEL).exists():
        for part in (target, folder / ".mlflow"):  # what an earlier attempt left half done
            shutil.rmtree(part, ignore_errors=True)
        example = torch.zeros(2, *sets.image_shape).numpy()
        mlflow.pytorch.save_model(
            shipped,
            str(folder / ".mlflow"),
            input_example=example,
            serialization_format="pt2",
            # else a process of MLflow's own would load the model to find them out: six seconds
            pip_requirements=mlflow.pytorch.get_default_pip_requirements(),
            extra_files=[str(folder / name) for name in (shipping.WEIGHTS, shipping.DESCRIPTION)],
        )
        (folder / ".mlflow").rename(target)
