"""Final training: one config at full length over several seeds, scored once on the test set."""

import json
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from skdtune import comparison, records, signals, teachers
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


def add_seeds(
    study: Study, config: dict, count: int, compare: dict[str, dict] | None = None
) -> list[Record]:
    """Puts `count` seeds of the config on the books, then as many of each one to compare it with,
    and before them the teacher that they learn from when a config names none: the same network,
    trained by itself. Those that are there stay, and what failed is tried again. Returns what is
    to be trained, in order.

    The seeds go on from the config's own; one that a search has found was chosen on that very seed,
    so they begin behind it. Errors: ConfigError for one to compare with that was another before."""
    first = config.get("seed", 0) + bool(study.space.get("provenance"))
    wanted: dict[str, Record] = {}
    for name, one in {records.SEED: config, **(compare or {})}.items():
        if teachers.needs_own(one) and records.TEACHER not in wanted:
            plain = {**config, "method": {"name": BASELINE}}
            wanted[records.TEACHER] = Record(records.TEACHER, records.TEACHER, {}, plain)
        role = records.SEED if name == records.SEED else records.COMPARED
        for index in range(count):
            key = comparison.key(name, index)
            own = study.records.get(comparison.key(records.SEED, index))
            seed = own.seed if own else first + index  # as that of the config, to compare with it
            wanted[key] = Record(key, role, {}, {**one, "seed": seed})
    comparison.refuse_changes(study, wanted)
    study.records = wanted | study.records
    chosen = [study.records[key] for key in wanted]
    for record in chosen:
        if record.status == records.FAILED:
            record.status, record.error, record.ended = records.PENDING, "", None
    return chosen


def train(study: Study, wanted: list[Record], writer: Writer, say: Callable[[str], None]) -> None:
    """Trains what has not ended, each from its last checkpoint, and saves the models of the
    seeds. One that fails leaves the others alone, but for a teacher those whom it was to teach.

    Errors: KeyboardInterrupt when the program is stopped, with the study resumable."""
    has_teacher = True
    for record in wanted:
        if teachers.needs_own(record.config) and not has_teacher:
            continue
        if record.role == records.COMPARED:
            _write_result(study)  # that of the config itself does not wait for the others
        _attempt(study, record, writer, say)
        if record.role == records.TEACHER:
            has_teacher = record.status == records.FINISHED
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
    folder = study.folder.folder(CHECKPOINTS).folder(record.key)
    checkpoints = Checkpoints(folder, record.identity)
    training = Training(**teachers.equipped(record.config, study.folder), final=True)
    record.device = training.place
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
    if record.role != records.COMPARED:
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
    found: dict[str, dict] = {name: _told(value) for name, value in results(study).items()}
    for name in list(found):
        for other, (value, gain) in comparison.gains(study, name).items():
            beside = found.setdefault("compared", {}).setdefault(other, {})
            beside[name] = {**_told(value), "gain": _told(gain)}
    study.folder.write(RESULT, json.dumps(found, indent=1).encode())


def _told(value: Estimate) -> dict:
    return {"mean": value.mean, "half_width_95": value.half_width, "values": value.values}
