"""The teachers of a study: what `method.teacher` names, checked and copied into the study, so that
every node that sees the study sees them and none changes under it."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from skdtune import records
from skdtune.errors import ConfigError, first_line
from skdtune.records import MODELS, Study
from skdtune.space import BASELINE_METHOD, SearchSpace
from skdtune.tracking_uri import knock
from trainables import data, sections, shipping
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.data import Sets
from trainables.shipping import Shipped
from trainables.storage import Folder
from trainables.training import Training

_TEACHERS = "teachers"
_OWN = "own"  # a search's own: a plain training of the same network
_KEY = "teacher"
_MLFLOW = ("models:/", "runs:/", "mlflow-artifacts:/")
_EXTRA = "extra_files"  # where an MLflow model holds what was saved beside it


class NoTeacher(RuntimeError):
    """A study's own teacher could not be trained. for_good: nor will it be by a resume."""

    def __init__(self, told: str, for_good: bool = False):
        super().__init__(told)
        self.for_good = for_good


def named(space: SearchSpace) -> set[str | None]:
    """What `method.teacher` may be in a space: folders, URIs, or None for the study's own; empty
    when none of its methods has a teacher."""
    kinds = space.parameters.get("method/name")
    names = kinds.distribution.choices if kinds else [space.fixed["method"]["name"]]
    asked = [sections.parameters("method", name).get(_KEY) for name in names]
    searched = space.parameters.get(f"method/{_KEY}")
    if searched is not None:
        return set(searched.distribution.choices)
    return {space.fixed["method"].get(_KEY, argument.default) for argument in asked if argument}


def are_used(config: dict) -> bool:
    """Whether a trial's method learns from a teacher."""
    return _KEY in sections.parameters("method", config["method"]["name"])


def asked(configs: Iterable[dict]) -> set[str | None]:
    """What `method.teacher` is in configs with nothing left to search."""
    return {config["method"].get(_KEY) for config in configs if are_used(config)}


def needs_own(config: dict) -> bool:
    """Whether a trial learns from a teacher that it does not name."""
    return are_used(config) and config["method"].get(_KEY) is None


def plain(config: dict) -> dict:
    """What the own teacher of such a trial is trained with: all but the method is the trial's."""
    return {**config, "method": {"name": BASELINE_METHOD}}


def equipped(config: dict, folder: Folder, own: str = _OWN) -> dict:
    """The config with its teacher where the study in `folder` keeps it. own: the name of the one
    that teaches where none is given."""
    if not are_used(config):
        return config
    place = _place(folder, config["method"].get(_KEY), own)
    return {**config, "method": {**config["method"], _KEY: place.uri}}


def kept(config: dict, folder: Folder) -> dict:
    """The config with the copy of its teacher that the study in `folder` has: whatever becomes of
    what was named, and wherever one is, it is the one that taught."""
    teacher = config["method"].get(_KEY) if are_used(config) else None
    has_copy = teacher is not None and _place(folder, teacher).exists(shipping.DESCRIPTION)
    return equipped(config, folder) if has_copy else config


def check(teachers: set[str | None], sets: Sets, folder: Folder, tracking_uri: str) -> None:
    """tracking_uri: of the MLflow that has those which are models there.

    Errors: ConfigError for teachers that cannot be read, do not fit the images, or were trained on
    those that must not be; one that the study in `folder` holds already was checked."""
    problems = []
    for teacher in sorted(teachers - {None}):
        if _place(folder, teacher).exists(shipping.DESCRIPTION):
            continue
        try:
            with _found(teacher, tracking_uri) as source:
                wrong = _misfit(shipping.load(source), sets) or _leak(source, sets)
        except (OSError, ValueError) as error:
            wrong = str(error)
        if wrong:
            problems.append(f"{teacher}: {wrong}")
    if problems:
        raise ConfigError("trial.method.teacher", problems)


def bring(teachers: set[str | None], folder: Folder, tracking_uri: str) -> None:
    """Copies into the study what it does not hold yet. Errors: ConfigError."""
    for teacher in teachers - {None}:
        place = _place(folder, teacher)
        if place.exists(shipping.DESCRIPTION):
            continue
        try:
            with _found(teacher, tracking_uri) as source:
                for name in (shipping.WEIGHTS, shipping.DESCRIPTION):
                    place.write(name, source.read(name))
        except (OSError, ValueError) as error:
            problem = f"{teacher} cannot be copied to {folder.uri}: {error}"
            raise ConfigError("trial.method.teacher", [problem]) from None


def has_own(folder: Folder, own: str = _OWN) -> bool:
    return _place(folder, None, own).exists(shipping.DESCRIPTION)


def keep_own(folder: Folder, training: Training, model: dict, own: str = _OWN) -> None:
    """Makes a finished training a teacher of the study's own. model: its config section."""
    sets = training.sets
    shipped = shipping.ship(training.method, sets)
    shipping.save(_place(folder, None, own), shipped, model, sets.image_shape, sets.unseen)


def take_baseline(study: Study) -> None:
    """Makes the study's baseline its own teacher. Errors: NoTeacher when it has not finished, or
    its checkpoint is damaged; a resume then trains it again."""
    baseline = next(r for r in study.records.values() if r.role == records.BASELINE)
    if baseline.status != records.FINISHED:
        told = f"the teacher, trial {baseline.key}, {baseline.status}: {baseline.error}"
        if baseline.status in records.NEVER_AGAIN:
            mend = "begin another search, with a lower trial.optim.lr or a trial.method.teacher"
            raise NoTeacher(f"{told}; {mend}", for_good=True)
        raise NoTeacher(told)
    folder = study.folder.folder(f"{CHECKPOINTS}/{baseline.key}")
    training = Training(**baseline.config, device=torch.device("cpu"))
    data.forget()  # the driver trains nothing
    training.resume(Checkpoints(folder, baseline.identity))
    if training.epoch < baseline.config["epochs"]:
        baseline.status, baseline.ended = records.PENDING, None  # for a resume to go on with
        study.save_record(baseline)
        raise NoTeacher(f"the teacher, trial {baseline.key}, has lost its last checkpoint")
    keep_own(study.folder, training, baseline.config["model"])


def _place(folder: Folder, teacher: str | None, own: str = _OWN) -> Folder:
    name = hashlib.sha256(teacher.encode()).hexdigest()[:12] if teacher else own
    return folder.folder(f"{_TEACHERS}/{name}")


@contextmanager
def _found(teacher: str, tracking_uri: str) -> Iterator[Folder]:
    """The folder that holds the weights: the one named, an MLflow model's, or the first model of
    a final training."""
    if not teacher.startswith(_MLFLOW):
        yield _with_weights(Folder(teacher))
        return
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="skdtune-") as scratch:
        try:
            knock(tracking_uri)
            with _mlflow_at(tracking_uri):
                path = mlflow.artifacts.download_artifacts(artifact_uri=teacher, dst_path=scratch)
        except MlflowException as error:
            problem = f"MLflow at {tracking_uri} has no such model: {first_line(error)}"
            raise ValueError(problem) from None
        except Exception as error:  # noqa: BLE001 - a server, a database or its driver
            problem = f"MLflow at {tracking_uri} cannot be read: {first_line(error)}"
            raise ValueError(problem) from None
        yield _with_weights(Folder(Path(path)))


@contextmanager
def _mlflow_at(tracking_uri: str) -> Iterator[None]:
    """MLflow's own functions ask there: for a registered model no argument would lead them."""
    import mlflow

    name = "MLFLOW_TRACKING_URI"  # which MLflow sets too, and then takes away
    before = os.environ.get(name)
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ[name] = before


def _with_weights(folder: Folder) -> Folder:
    trained = [f"{MODELS}/{name}" for name in folder.names(MODELS)]
    for candidate in (folder, *map(folder.folder, [_EXTRA, *trained])):
        if candidate.exists(shipping.DESCRIPTION):
            return candidate
    if folder.local is not None and not folder.local.is_dir():
        raise ValueError(f"no such folder: {folder.local}")
    raise ValueError(
        f"no model of skdtune.train there ({shipping.DESCRIPTION} and {shipping.WEIGHTS})"
    )


@torch.no_grad()
def _misfit(teacher: Shipped, sets: Sets) -> str:
    """What keeps the teacher from answering about these images; empty when it can."""
    if teacher.classes != sets.classes:
        return (
            f"it knows {len(teacher.classes)} classes ({', '.join(teacher.classes[:3])}, ...), the "
            f"data set has {len(sets.classes)} ({', '.join(sets.classes[:3])}, ...), in this order"
        )
    try:
        teacher(torch.zeros(2, *sets.image_shape))
    except RuntimeError as error:
        return f"it cannot take images of {sets.image_shape}: {str(error).splitlines()[0]}"
    return ""


def _leak(teacher: Folder, sets: Sets) -> str:
    """Why students of the teacher would know labels of the images that a search scores them on, and
    the mend; empty when they would not. It answers about those as it was taught to."""
    wanted, has = sets.unseen, shipping.unseen(teacher)
    if wanted is None or (has is not None and _is_within(wanted, has)):
        return ""
    left_out = "" if not has else " but " + ", ".join(f"{k} {v}" for k, v in has.items())
    edits = {"train_on_validation": "false", **wanted}
    listed = " ".join(f"--set trial.data.{key}={value}" for key, value in edits.items())
    return (
        f"its training did not leave out the images that scores are taken on here{left_out}, which "
        f"would tell nothing then; train one that does: python -m skdtune.train CONFIG {listed}"
    )


def _is_within(inner: dict[str, float], outer: dict[str, float]) -> bool:
    """Whether the validation images of one split are all among those of another: a larger share of
    the same draw has the smaller one in it."""
    key = "validation_fraction"
    same = {**inner, key: 0} == {**outer, key: 0}
    return same and inner.get(key, 0) <= outer.get(key, 0)
