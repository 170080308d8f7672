"""Tiny spaces and studies for tests, a player of Tune's part, and a full dump of what MLflow has
of a study."""

import hashlib
import random
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import torch

from skdtune import records, space, strict_yaml
from skdtune.plan import Plan, add_references
from skdtune.records import Record, Study
from skdtune.sampler import OptunaSampler
from skdtune.space import SearchSpace
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.storage import Folder

EPOCHS = 4
NOWHERE = "sqlite:////nowhere/mlflow.db"  # an MLflow that nobody should ask
CONDITIONAL = """
trial:
  data: {name: synthetic, images: 64, batch_size: 32}
  model: {name: small_cnn, width: 2}
  method:
    name: drg_dsr
    variant: {type: categorical, choices: [drg, dsr, drg_dsr]}
    alpha: {type: float, low: 0.02, high: 2.0, log: true, when: {method/variant: [drg, drg_dsr]}}
    beta: {type: float, low: 0.05, high: 5.0, log: true, when: {method/variant: [dsr, drg_dsr]}}
    drg_temperature: {type: float, low: 1.0, high: 10.0, step: 0.5}
  optim: {lr: 0.05}
  epochs: 4
search:
  metric: val/accuracy
  trials: 6
  sampler: {name: tpe, seed: 0, startup_trials: 3}
  scheduler: {name: asha, grace_period: 1, reduction_factor: 2}
  first_trials:
    - {method/variant: drg_dsr, method/alpha: 0.2, method/beta: 1.0, method/drg_temperature: 4.0}
"""
CROSS_ENTROPY = """
trial:
  data: {name: synthetic, images: 64, batch_size: 32}
  model: {name: small_cnn, width: 2}
  method: {name: cross_entropy}
  optim: {lr: {type: float, low: 0.01, high: 0.3, log: true}}
  epochs: 4
search: {trials: 3, first_trials: [{optim/lr: 0.05}]}
"""


def build_space(text: str = CONDITIONAL, **search: Any) -> SearchSpace:
    """The space of a text; keywords replace settings of its `search` section."""
    document = strict_yaml.parse(text, "tiny.yaml")
    document.data["search"] |= search
    return space.build(document, "tiny", "tiny.yaml")


def new_study(folder: Path | str, wanted: SearchSpace | None = None, name: str = "tiny") -> Study:
    """A study whose first trials and baseline are on the books, as a search begins it."""
    wanted = wanted or build_space()
    study = Study(name, "search", wanted.document, wanted.name, folder=Folder(folder))
    add_references(study, wanted)
    return study


def report(epoch: int, accuracy: float, began: float = 1.7e9) -> dict[str, float]:
    """One epoch's metrics, as the trainable reports them."""
    return {
        "epoch": epoch,
        "loss/ce": 2.0 / 3.0 / epoch,
        "loss/total": 2.0 / epoch,
        "train/accuracy": accuracy / 1.1,
        "optim/lr": 0.1 / epoch,
        "val/accuracy": accuracy,
        "val/loss": 1.0 - accuracy,
        "val/top5": 1.0,
        "val/ece": accuracy / 7.0,
        "timestamp_s": began + 1.37 * epoch,
    }


def curve(seed: int, epochs: int = EPOCHS) -> list[dict[str, float]]:
    """Metrics of a rising curve, with all the digits a double has."""
    generator = random.Random(seed)
    best = generator.random()
    return [report(e, best * e / (e + generator.random()), 1.7e9 + 100 * seed) for e in _to(epochs)]


def end(record: Record, status: str, epochs: list[dict[str, float]], error: str = "") -> None:
    """Fills a record in as if its trial had run."""
    record.status, record.epochs, record.error = status, epochs, error
    record.attempts, record.host = max(1, record.attempts), "node-1"
    record.started = epochs[0]["timestamp_s"] - 1.1 if epochs else 1.7e9 + 0.25
    record.ended = epochs[-1]["timestamp_s"] + 0.125 if epochs else 1.7e9 + 3.5
    if status not in records.ENDED:
        record.ended = None


def mixed_study(folder: Path | str, name: str = "tiny", unfinished: bool = False) -> Study:
    """A saved study with a trial of every ending, the winner's checkpoint too. unfinished: with
    one that was interrupted and one that never started."""
    wanted = build_space()
    study = new_study(folder, wanted, name)
    study.versions, study.commit, study.data = {"python": "3.11"}, "abc", {"train": 48}
    plan, generator = Plan(study, wanted), random.Random(5)
    for _ in range(5 if unfinished else 4):
        plan.new(wanted.suggest(lambda parameter: _draw(parameter, generator)))
    keys = list(study.records)
    for key in (*keys[:2], keys[2]):
        end(study.records[key], records.FINISHED, curve(int(key)))
    end(study.records[keys[3]], records.STOPPED, curve(3)[:2])
    end(study.records[keys[4]], records.DIVERGED, curve(4)[:1], "not finite in epoch 2: loss/ce")
    end(study.records[keys[5]], records.FAILED, [], "ValueError: a bug in a method")
    if unfinished:
        end(study.records[keys[6]], records.INTERRUPTED, curve(6)[:3])
        plan.new(wanted.suggest(lambda parameter: _draw(parameter, generator)))
    checkpoint = {"epoch": EPOCHS, "weights": torch.arange(3.0)}
    for key in (keys[0], keys[2]):
        place = f"{CHECKPOINTS}/{key}"
        record = study.records[key]
        saved = Checkpoints(study.folder.folder(place), record.identity).save(EPOCHS, checkpoint)
        record.checkpoint = f"{place}/{saved}"
    save(study)
    return study


def save(study: Study) -> None:
    for record in study.records.values():
        study.save_record(record)
    study.save()


class Player:
    """Plays Tune and the recorder: trials ask the sampler, report, end, and leave their records.

    outcome: what becomes of a record, `(status, number of epochs)`.
    """

    def __init__(self, plan: Plan, sampler: OptunaSampler, outcome: Callable[[Record], tuple]):
        self.plan, self.sampler, self.outcome = plan, sampler, outcome
        self.count = 0
        self.order: list[str] = []

    def run(self, trials: int = 1000) -> None:
        """Runs trials to their ends until there is none left, at most `trials`."""
        for _ in range(trials):
            trial_id, record = self.start()
            if record is None:
                return
            self.finish(trial_id, record, *self.outcome(record))

    def start(self) -> tuple[str, Record | None]:
        trial_id = f"tune-{self.count}"
        asked = self.sampler.suggest(trial_id)
        if not isinstance(asked, dict):
            return trial_id, None
        self.count += 1
        record = self.plan.study.records[asked["run"]["key"]]
        assert asked["run"]["after"] == record.epoch
        record.status, record.attempts = records.RUNNING, record.attempts + 1
        self.order.append(record.key)
        return trial_id, record

    def train(self, trial_id: str, record: Record, epochs: int) -> list[dict]:
        """Reports the epochs up to `epochs` that are not on record."""
        new = curve(int(record.key))[record.epoch : epochs]
        for line in new:
            self.sampler.on_trial_result(trial_id, dict(line))
            record.add(line)
        return new

    def finish(self, trial_id: str, record: Record, status: str, epochs: int) -> None:
        self.train(trial_id, record, epochs)
        result: dict | None = dict(record.last)
        if status in (records.FINISHED, records.DIVERGED):
            result["outcome"] = status
        if status in (records.DIVERGED, records.FAILED):  # it reports no metrics with that
            result = {"outcome": status, "error": "why", "done": True}
        self.sampler.on_trial_complete(trial_id, result)
        end(record, status, record.epochs)


def tune_trial(trial_id: str, record: Record, beside: bool = False, **more: Any) -> SimpleNamespace:
    """What schedulers and callbacks see of one of Tune's trials."""
    run = {"key": record.key, "role": record.role, "beside": beside}
    trial = SimpleNamespace(trial_id=trial_id, config={"run": run}, last_result={}, error_file=None)
    vars(trial).update(more)
    return trial


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition returns once that is true. Errors: AssertionError after `seconds`."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def server_content(uri: str, study: Study) -> dict[str, dict]:
    """All that a server has of a study's runs, by run id: status, times, tags, parameters, metric
    histories, and digests of the artifacts."""
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    content = {}
    for run in server_runs(uri, study):
        run_id = run.info.run_id
        if run.info.artifact_uri.startswith("file:"):
            files = _digests(Path(unquote(urlsplit(run.info.artifact_uri).path)))
        else:
            with tempfile.TemporaryDirectory() as folder:
                asked = {"run_id": run_id, "artifact_path": "", "tracking_uri": uri}
                files = _digests(
                    Path(mlflow.artifacts.download_artifacts(**asked, dst_path=folder))
                )
        content[run_id] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "tags": dict(run.data.tags),
            "params": dict(run.data.params),
            "metrics": {
                name: sorted(
                    (point.step, point.timestamp, point.value)
                    for point in client.get_metric_history(run_id, name)
                )
                for name in run.data.metrics
            },
            "artifacts": files,
        }
    return content


def _digests(place: Path) -> dict[str, str]:
    """Of each file in a folder, by its path within."""
    found = sorted(path for path in place.rglob("*") if path.is_file())
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def server_runs(uri: str, study: Study) -> list:
    """The runs of a study that are not deleted."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("skdtune")
    if experiment is None:
        return []
    return list(
        client.search_runs(
            [experiment.experiment_id], f"tags.`skdtune.study_id` = '{study.id}'", max_results=1000
        )
    )


def assert_mirrored(uri: str, study: Study) -> None:
    """The server has exactly one parent, one child a trial that ran, and exactly the records'
    metrics."""
    content = server_content(uri, study)
    children = {run["tags"].get("skdtune.trial"): run for run in content.values()}
    ran = {key: record for key, record in study.records.items() if record.attempts}
    assert sorted(run["tags"].get("skdtune.trial", "") for run in content.values()) == [
        "",
        *sorted(ran),
    ]
    parent = next(run_id for run_id, run in content.items() if "skdtune.trial" not in run["tags"])
    for key, record in ran.items():
        child = children[key]
        assert child["tags"]["mlflow.parentRunId"] == parent
        assert child["metrics"] == expected_history(record)
        assert child["artifacts"].keys() == {"config.yaml"}
    assert {"space.yaml", "study.json", "leaderboard.json"} <= content[parent]["artifacts"].keys()
    assert not [run for run in content.values() if run["status"] == "RUNNING"]


def expected_history(record: Record) -> dict[str, list[tuple[int, int, float]]]:
    """(step, time in ms, value) of every metric a record holds."""
    found: dict[str, list] = {}
    for line in record.epochs:
        for name, value in line.items():
            if name != "timestamp_s":
                point = (line["epoch"], int(line["timestamp_s"] * 1000), value)
                found.setdefault(name, []).append(point)
    return found


def _draw(parameter: space.Parameter, generator: random.Random) -> Any:
    kind = parameter.distribution
    if hasattr(kind, "choices"):
        return generator.choice(kind.choices)
    if kind.step:
        return kind.low + kind.step * generator.randrange(int((kind.high - kind.low) / kind.step))
    return generator.uniform(kind.low, kind.high)


def _to(epochs: int) -> range:
    return range(1, epochs + 1)
