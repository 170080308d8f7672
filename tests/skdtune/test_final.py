"""Final training: the interval, the models that leave it, and an interruption that changes no
bit."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref

import mlflow.pytorch
import pytest
import torch
from rich.console import Console

from skdtune import conclusion, final, final_run, records
from skdtune import train as train_program
from skdtune.errors import ConfigError
from skdtune.records import Study
from skdtune.strict_yaml import dump
from skdtune.train import Outcome
from skdtune.writer import Writer
from trainables import data, metrics, shipping, watchdog
from trainables.sources import DataError
from trainables.storage import Folder

CONFIG = {
    "data": {"name": "synthetic", "images": 64, "batch_size": 16, "image_size": 8},
    "model": {"name": "small_cnn", "width": 2},
    "method": {"name": "cross_entropy"},
    "optim": {"lr": 0.05},
    "epochs": 2,
    "seed": 7,
}
MEASURED = ("time/", "memory/", "timestamp_s")  # of this machine at that moment


@pytest.fixture(autouse=True)
def _signals():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def training(folder, seeds: int = 2) -> Study:
    study = Study("tiny", "training", {"trial": CONFIG}, "best", folder=Folder(folder))
    final.add_seeds(study, CONFIG, seeds)
    study.save()
    return study


def train(study: Study, say=lambda line: None) -> None:
    writer = Writer(study)
    try:
        desk = final.Desk(study, writer, say)
        final.train(study, list(study.records.values()), desk, torch.device("cpu"))
    finally:
        writer.close()


def again(folder) -> Study:
    """The training as the same command finds it."""
    study = records.load(Folder(folder))
    final.add_seeds(study, CONFIG, 2)
    return study


def outcome(folder) -> dict:
    """What a training leaves, without what only tells how fast the machine was."""
    study = records.load(Folder(folder))
    curves = {
        key: [
            {name: value for name, value in line.items() if not name.startswith(MEASURED)}
            for line in record.epochs
        ]
        for key, record in study.records.items()
    }
    weights = {
        key: (folder / "models" / key / "model.safetensors").read_bytes() for key in study.records
    }
    return {"curves": curves, "weights": weights, "result": (folder / "result.json").read_text()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("final")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    train(training(folder))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return folder


def test_seeds_follow_the_configs_own_and_stay_when_more_are_asked_for(tmp_path):
    study = training(tmp_path, 2)
    assert [record.seed for record in study.records.values()] == [7, 8]
    study.records["seed-0"].status = records.FINISHED
    final.add_seeds(study, CONFIG, 3)
    assert [record.seed for record in study.records.values()] == [7, 8, 9]
    assert [record.key for record in study.unfinished] == ["seed-1", "seed-2"]
    assert CONFIG["seed"] == 7


@pytest.mark.slow
def test_every_seed_is_scored_on_the_test_set_and_the_result_is_theirs(trained):
    study = records.load(Folder(trained))
    assert [record.status for record in study.records.values()] == ["finished"] * 2
    result = json.loads((trained / "result.json").read_text())
    assert result.pop("seeds")["finished"] == 2
    assert set(result) == {"test/accuracy", "test/loss", "test/top5", "test/ece"}
    for name, found in result.items():
        values = [record.last[name] for record in study.records.values()]
        assert found["values"] == values
        assert found["mean"] == sum(values) / 2
        assert found["half_width_95"] == pytest.approx(
            12.7062047 * abs(values[0] - values[1]) / 2, rel=1e-6
        )
    assert not [name for name in study.records["seed-0"].last if name.startswith("val/")]


@pytest.mark.slow
def test_the_saved_weights_give_the_scores_on_record(trained):
    sets = data.build(**CONFIG["data"], final=True)
    images = sets.held_out.pixels.float() / 255
    for key, record in records.load(Folder(trained)).records.items():
        model = shipping.load(trained / "models" / key)
        with torch.no_grad():
            right = (model(images).argmax(dim=1) == sets.held_out.labels).float().mean().item()
        assert right == pytest.approx(record.last["test/accuracy"], abs=1e-6)


def with_models(study: Study, trained) -> Study:
    """With the MLflow models there already, whose saving takes seconds."""
    for key in study.records:
        source = trained / "models" / key / "mlflow"
        shutil.copytree(source, study.folder.local / "models" / key / "mlflow")
    return study


@pytest.mark.slow
def test_seeds_differ(trained):
    weights = outcome(trained)["weights"]
    assert weights["seed-0"] != weights["seed-1"]


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), "pending"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed"),
    ],
)
def test_what_loses_the_gpu_costs_one_seed_and_not_those_behind_it(
    tmp_path, monkeypatch, error, left
):
    def events(task, device, beat):
        raise error
        yield

    monkeypatch.setattr(final_run, "events", events)
    study = training(tmp_path)
    lost = pytest.raises(final.GpuLost) if left == "pending" else contextlib.nullcontext()
    with lost:
        train(study)
    assert [record.status for record in study.records.values()] == ["failed", left]


def test_a_training_that_loses_its_gpu_is_not_done(tmp_path, monkeypatch):
    def events(task, device, beat):
        raise RuntimeError("CUDA error: unspecified launch failure")
        yield

    monkeypatch.setattr(final_run, "events", events)
    study = training(tmp_path)
    study.tracking_uri = f"sqlite:///{tmp_path}/mlflow.db"
    chosen = list(study.records.values())
    ending = train_program._train(
        study, chosen, None, torch.device("cpu"), Console(file=io.StringIO())
    )
    assert "the GPU is lost" in ending.lost
    monkeypatch.setattr(train_program, "_train", lambda *others: ending)
    (tmp_path / "best.yaml").write_text(dump({"trial": CONFIG}))
    asked = [str(tmp_path / "best.yaml"), "--seeds=1", f"--output={tmp_path / 'out'}"]
    assert train_program.main(asked) == 1


def test_a_run_that_failed_holds_no_memory_when_the_next_one_begins(tmp_path, monkeypatch):
    held: list[weakref.ref] = []

    def events(task, device, beat):
        assert all(there() is None for there in held)
        taken = torch.zeros(8)
        held.append(weakref.ref(taken))
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(final, "PAUSES_S", (0.0, 1.0))
    monkeypatch.setattr(final_run, "events", events)
    study = training(tmp_path)
    train(study)
    assert [(r.status, r.attempts) for r in study.records.values()] == [("failed", 2)] * 2
    assert all(record.error.startswith("out of memory: lower") for record in study.records.values())


def test_a_run_that_stands_still_is_ended_here_too(tmp_path, monkeypatch):
    """The clock is set before anything is loaded, goes on with each batch and stops at the end."""
    clock = []
    fault = watchdog.faulthandler
    monkeypatch.setattr(
        fault, "dump_traceback_later", lambda silence_s, **_: clock.append(silence_s)
    )
    monkeypatch.setattr(fault, "cancel_dump_traceback_later", lambda: clock.append("off"))

    def events(task, device, beat):
        assert clock == [1800.0]
        clock.append(beat.__name__)
        raise ValueError("a bug")
        yield

    monkeypatch.setattr(final_run, "events", events)
    train(training(tmp_path, 1))
    assert clock == [1800.0, "beat", "off"]


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(final, "PAUSES_S", (0.0, 0.0))
    errors = [OSError(5, "Input/output error"), None, DataError("damaged")]

    def events(task, device, beat):
        error = errors.pop(0)
        if error:
            raise error
        scores = dict.fromkeys(metrics.score_names("test"), 0.5)
        yield {"report": {"epoch": 1, "loss/total": 1.0, **scores}, "checkpoint": ""}

    monkeypatch.setattr(final_run, "events", events)
    study = training(tmp_path)
    train(study)
    assert [(r.status, r.attempts) for r in study.records.values()] == [
        ("finished", 2),
        ("failed", 1),
    ]


def test_an_interrupted_training_goes_on_and_ends_as_the_unbroken_one(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(final, "_LINE_EVERY_S", -1.0)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) in (1, 5):  # after the first epoch of each seed
            raise KeyboardInterrupt

    with_models(training(tmp_path), trained)
    statuses = []
    for _ in range(2):
        study = again(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            train(study, say)
        found = records.load(Folder(tmp_path))
        statuses.append([record.status for record in found.records.values()])
        assert not (tmp_path / "result.json").exists()
    train(again(tmp_path), say)
    assert statuses == [["interrupted"], ["finished", "interrupted"]]
    study = records.load(Folder(tmp_path))
    assert [record.attempts for record in study.records.values()] == [2, 2]
    assert outcome(tmp_path) == outcome(trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", ".mlflow"])
def test_a_model_whose_saving_was_cut_off_is_saved_again(tmp_path, name):
    half = tmp_path / "models" / "seed-0" / name
    (half / "data").mkdir(parents=True)
    (half / "data" / "model.pt2").write_bytes(b"half")
    train(training(tmp_path, 1))
    found = mlflow.pytorch.load_model(str(tmp_path / "models" / "seed-0" / "mlflow"))
    assert found(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert not (tmp_path / "models" / "seed-0" / ".mlflow").exists()


@pytest.mark.slow
def test_a_seed_that_diverges_is_said_and_the_others_count(trained, tmp_path):
    study = with_models(training(tmp_path, 2), trained)
    study.records["seed-0"].config["optim"] = {"lr": 1e30}
    lines: list[str] = []
    train(study, lines.append)
    found = records.load(Folder(tmp_path)).records
    assert (found["seed-0"].status, found["seed-1"].status) == ("diverged", "finished")
    assert lines[0].startswith("seed-0 diverged: not finite in epoch 1")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test/accuracy"]["values"] == [found["seed-1"].last["test/accuracy"]]
    assert result["test/accuracy"]["half_width_95"] is None
    assert (result["seeds"]["asked"], result["seeds"]["diverged"]) == (2, 1)


def test_before_a_seed_has_finished_there_is_no_result(tmp_path):
    assert conclusion.results(training(tmp_path)) == {}


@pytest.mark.slow
@pytest.mark.slow
def test_the_mlflow_model_loads_without_unpickling_and_gives_the_same_logits(trained, tmp_path):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = shipping.load(trained / "models" / "seed-0")(images)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch, mlflow\n"
        "model = mlflow.pytorch.load_model(sys.argv[1])\n"
        "images = torch.load(sys.argv[2], weights_only=True)\n"
        "torch.save(model(images).detach(), sys.argv[3])\n"
    )
    place = trained / "models" / "seed-0" / "mlflow"
    command = [sys.executable, "-c", code, place, tmp_path / "images.pt", tmp_path / "logits.pt"]
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not [path for path in place.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth")]


def test_of_what_has_finished_one_checkpoint_is_left_and_of_what_diverged_none(tmp_path):
    study = training(tmp_path)
    study.records["seed-1"].config["optim"] = {"lr": 1e30}
    train(study)
    found = records.load(Folder(tmp_path)).records
    assert [record.status for record in found.values()] == ["finished", "diverged"]
    last = tmp_path / found["seed-0"].checkpoint
    assert [path for path in last.parent.iterdir() if path.is_dir()] == [last]
    assert not (tmp_path / "checkpoints" / "seed-1").exists()


def test_a_training_that_was_begun_meanwhile_is_gone_on_with(tmp_path, monkeypatch):
    """By a process that ended while this one waited for the lock."""
    config = tmp_path / "best.yaml"
    config.write_text(dump({"trial": CONFIG}))
    output = tmp_path / "out"
    inner = train_program.lock.held

    @contextlib.contextmanager
    def held(folder, name):
        study = Study("best", "training", {"trial": CONFIG}, "best", folder=folder, id="theirs")
        final.add_seeds(study, CONFIG, 1)
        study.save()
        with inner(folder, name):
            yield

    monkeypatch.setattr(train_program.lock, "held", held)
    monkeypatch.setattr(train_program, "_train", lambda study, *others: Outcome(None, study.id, ""))
    uri = f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db"
    train_program.main([str(config), "--seeds=1", f"--output={output}", uri])
    assert records.load(Folder(output)).id == "theirs"


def test_seeds_of_other_images_are_not_mixed(tmp_path):
    study = training(tmp_path)
    train_program._same_images(study, "then")
    study.save()
    found = records.load(Folder(tmp_path))
    train_program._same_images(found, "then")
    with pytest.raises(ConfigError, match="images or labels have changed"):
        train_program._same_images(found, "now")


def test_images_that_are_not_those_of_the_training_are_not_trained_on(tmp_path):
    study = training(tmp_path, 1)
    study.data["fingerprint"] = "of others"
    lines: list[str] = []
    train(study, lines.append)
    assert "are not the training's" in study.records["seed-0"].error
    assert study.records["seed-0"].epoch == 0
