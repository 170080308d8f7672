"""Final training: one config at full length over several seeds, scored once on the test set."""

import json
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from skdtune import records, signals, teachers
from skdtune.artifacts import RESULT
from skdtune.estimate import Estimate, estimate
from skdtune.records import MODELS, Record, Study, Writer
from skdtune.space import BASELINE
from trainables import metrics, shipping
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.metrics import TEST, score_names
from trainables.training import Diverged, Training

_LINE_EVERY_S = 10.0
_MLFLOW_MODEL = "MLmodel"


def results(study: Study) -> dict[str, Estimate]:
    """The estimate of every test score over the seeds that finished; empty before the first."""
    finished = [record.last for record in finished_seeds(study)]
    return (
        {name: estimate([last[name] for last in finished]) for name in score_names(TEST)}
        if finished
        else {}
    )


def finished_seeds(study: Study) -> list[Record]:
    return [
        record
        for record in study.records.values()
        if record.role == records.SEED and record.status == records.FINISHED
    ]


def add_seeds(study: Study, config: dict, count: int) -> None:
    """Puts `count` seeds on the books, from the config's own seed on, and before them the teacher
    that they learn from when the config names none: the same network, trained by itself. Those
    that are there stay, and what failed is tried again."""
    first = config.get("seed", 0)
    wanted = {}
    if teachers.needs_own(config):
        plain = {**config, "method": {"name": BASELINE}}
        wanted[records.TEACHER] = Record(records.TEACHER, records.TEACHER, {}, plain)
    for index in range(count):
        seeded = {**config, "seed": first + index}
        wanted[f"seed-{index}"] = Record(f"seed-{index}", records.SEED, {}, seeded)
    study.records = wanted | study.records
    for record in map(study.records.get, wanted):
        if record.status == records.FAILED:
            record.status, record.error, record.ended = records.PENDING, "", None


def train(study: Study, count: int, writer: Writer, say: Callable[[str], None]) -> None:
    """Trains the teacher, where one is needed, and every one of the first `count` seeds that has
    not ended, each from its last checkpoint, and saves its model. A seed that fails leaves the
    others alone.

    Errors: KeyboardInterrupt when the program is stopped, with the study resumable."""
    seeds = [record for record in study.records.values() if record.role == records.SEED]
    teacher = study.records.get(records.TEACHER)
    if teacher is not None:
        _attempt(study, teacher, writer, say)
        if teacher.status != records.FINISHED:
            return
    for record in seeds[:count]:
        _attempt(study, record, writer, say)
    _write_result(study)


def _attempt(study: Study, record: Record, writer: Writer, say: Callable[[str], None]) -> None:
    if record.has_ended:
        return
    try:
        _train_one(study, record, writer, say)
    except KeyboardInterrupt:
        record.status = records.INTERRUPTED
        writer.put(record)
        raise
    except Exception as error:  # noqa: BLE001 - such as a GPU without memory left
        status = records.DIVERGED if isinstance(error, Diverged) else records.FAILED
        record.error, record.details = str(error), traceback.format_exc()
        record.ended, record.status = time.time(), status
        writer.put(record)
        say(f"{record.key} {status}: {error}")


def _train_one(study: Study, record: Record, writer: Writer, say: Callable[[str], None]) -> None:
    record.started = record.started or time.time()
    record.status, record.attempts = records.RUNNING, record.attempts + 1
    writer.put(record)
    checkpoints = Checkpoints(study.folder.folder(CHECKPOINTS).folder(record.key), record.key)
    training = Training(**teachers.equipped(record.config, study.folder), final=True)
    said = time.monotonic()
    for report in training.epochs(checkpoints):
        record.add(report)
        record.checkpoint = f"{CHECKPOINTS}/{record.key}/{checkpoints.newest}"
        writer.put(record)
        signals.check()
        if time.monotonic() - said > _LINE_EVERY_S:
            said = time.monotonic()
            progress = f"epoch {record.epoch}/{record.config['epochs']}"
            say(f"{record.key}: {progress}, loss {report[metrics.LOSS_TOTAL]:.4f}")
    _save_models(study, record, training)
    if record.role == records.TEACHER:
        teachers.keep_own(study.folder, training, record.config["model"])
    record.ended = time.time()
    record.status = records.FINISHED
    writer.put(record)
    say(f"{record.key}: test/accuracy {record.last['test/accuracy']:.4f}")


def _save_models(study: Study, record: Record, training: Training) -> None:
    """The weights as safetensors, and an MLflow model in the exported format that needs no
    unpickling."""
    import mlflow.pytorch
    import torch

    folder = Path(study.folder.local) / MODELS / record.key
    shape = training.sets.image_shape
    shipped = shipping.ship(training.method, training.sets)
    shipping.save(folder, shipped, record.config["model"], shape)
    target = folder / "mlflow"
    if not (target / _MLFLOW_MODEL).exists():
        for part in (target, folder / ".mlflow"):  # what an earlier attempt left half done
            shutil.rmtree(part, ignore_errors=True)
        example = torch.zeros(2, *shape).numpy()
        mlflow.pytorch.save_model(
            shipped,
            str(folder / ".mlflow"),
            input_example=example,
            serialization_format="pt2",
            extra_files=[str(folder / name) for name in (shipping.WEIGHTS, shipping.DESCRIPTION)],
        )
        (folder / ".mlflow").rename(target)


def _write_result(study: Study) -> None:
    found = {
        name: {"mean": value.mean, "half_width_95": value.half_width, "values": value.values}
        for name, value in results(study).items()
    }
    study.folder.write(RESULT, json.dumps(found, indent=1).encode())
