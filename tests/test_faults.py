"""Drivers and workers killed in the middle: nothing is lost, nothing is done twice."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from mlflow import MlflowClient

from skdtune import records
from tests.programs import (
    alive,
    descendants,
    epochs_on_disk,
    program,
    read_study,
    started,
    title,
    trial_workers,
    wait_for,
)
from tests.size import size
from trainables import metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(size(480, 2400))]

TRIALS = size(4, 29)
WORKER_KILLS = size(4, 24)
DRIVER_KILLS = size(2, 10)
SEARCH = ["quickstart", f"--trials={TRIALS}", "--epochs=14", "--name=study"]


def ended(folder: Path) -> dict[str, bytes]:
    """The record files of trials that have ended, as they lie on the disk."""
    found = {}
    for path in (folder / "studies/study/trials").glob("[!.]*.json"):
        data = path.read_bytes()
        if json.loads(data)["status"] in records.ENDED:
            found[path.name] = data
    return found


def assert_whole(folder: Path, trials: int = TRIALS + 1) -> None:
    """Every trial has ended once, with one report an epoch, in the records and in MLflow alike."""
    study = read_study(folder, "study")
    assert len(study.records) == trials
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = {
        run.data.tags["skdtune.trial"]: run for run in runs if "skdtune.trial" in run.data.tags
    }
    assert len(runs) == trials + 1
    assert sorted(children) == sorted(study.records)
    assert "RUNNING" not in {run.info.status for run in runs}
    for key, record in study.records.items():
        assert record.status in (records.FINISHED, records.STOPPED), record.error
        steps = [report[metrics.EPOCH] for report in record.epochs]
        assert steps == list(range(1, record.epoch + 1))
        history = client.get_metric_history(children[key].info.run_id, "val/loss")
        assert sorted((m.step, m.value) for m in history) == [
            (report[metrics.EPOCH], report["val/loss"]) for report in record.epochs
        ]


def test_driver_killed_again_and_again(tmp_path: Path):
    """SIGKILL at seeded moments of progress; each resume goes on from there."""
    chance = random.Random(0)
    goal, kept = 0, {}
    for round_ in range(DRIVER_KILLS):
        resume = ["--resume"] if round_ else []
        with started("search", *SEARCH, *resume, folder=tmp_path) as process:
            goal = max(goal, epochs_on_disk(tmp_path, "study")) + chance.randint(5, 16)
            wait_for(
                lambda g=goal, p=process: (
                    epochs_on_disk(tmp_path, "study") >= g or p.poll() is not None
                ),
                90,
                f"{goal} epochs on record",
            )
            assert process.poll() is None, (tmp_path / "search.out").read_text()
            family = descendants(process.pid)
            process.kill()
            process.wait(10)
        before = ended(tmp_path)
        assert {name: before.get(name) for name in kept} == kept, "an ended trial was touched"
        kept = before
    done = program("search", *SEARCH, "--resume", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    after = ended(tmp_path)
    assert {name: after[name] for name in kept} == kept
    assert_whole(tmp_path)
    wait_for(lambda: not any(map(alive, family)), 90, "what the killed driver had started to go")


def test_workers_killed_again_and_again(tmp_path: Path):
    """SIGKILL of a random live trial process; every trial ends as if nothing had been."""
    chance, kills, goal = random.Random(1), 0, 3
    with started("search", *SEARCH, folder=tmp_path) as process:
        begin = time.monotonic()
        while process.poll() is None:
            workers = trial_workers(process.pid)
            if workers and kills < WORKER_KILLS and epochs_on_disk(tmp_path, "study") >= goal:
                os.kill(chance.choice(workers), signal.SIGKILL)
                kills += 1
                goal = epochs_on_disk(tmp_path, "study") + 3
            time.sleep(0.1)
            assert time.monotonic() - begin < size(300, 1800)
        assert process.returncode == 0, (tmp_path / "search.out").read_text()
    assert kills >= WORKER_KILLS - size(1, 4)
    attempts = sum(record.attempts for record in read_study(tmp_path, "study").records.values())
    assert attempts > TRIALS + 1  # a kill may also hit a process that has not begun
    assert_whole(tmp_path)


def test_whatever_ends_a_search_early_it_says_so_and_the_study_goes_on(tmp_path: Path):
    """Ctrl-C, in the resumed search SIGTERM, in the next one records that cannot be written, then
    on to the end."""
    whole = [*SEARCH, "--set=search.scheduler={name: none}"]  # epochs enough for all of it
    resume: list[str] = []
    for number, code, epochs in ((signal.SIGINT, 130, 12), (signal.SIGTERM, 143, 26)):
        with started("search", *whole, *resume, folder=tmp_path) as process:
            wait_for(lambda n=epochs: epochs_on_disk(tmp_path, "study") > n, 90, f"{epochs} epochs")
            sent = time.monotonic()
            process.send_signal(number)
            assert process.wait(40) == code
            assert time.monotonic() - sent < 30
        assert_none_is_left_running(tmp_path)
        resume = ["--resume"]
    with started("search", *whole, *resume, folder=tmp_path) as process:
        wait_for(lambda: epochs_on_disk(tmp_path, "study") > 40, 90, "40 epochs on record")
        trials = tmp_path / "studies/study/trials"
        trials.rename(tmp_path / "kept")
        trials.write_text("in the way")
        assert process.wait(90) == 1
    assert_none_is_left_running(tmp_path)
    text = (tmp_path / "search.out").read_text()
    assert "Traceback" not in text
    assert "the study cannot be written" in text
    assert text.count("--resume --name study") == 3
    trials.unlink()
    (tmp_path / "kept").rename(trials)
    done = program("search", "--resume", "--name=study", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(tmp_path)


def assert_none_is_left_running(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert "RUNNING" not in {run.info.status for run in runs}


def imports(process: Popen, folder: Path) -> bool:
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def holds_the_lock(process: Popen, folder: Path) -> bool:
    return (folder / "studies").exists()


def starts_ray(process: Popen, folder: Path) -> bool:
    return any("gcs_server" in title(child) for child in descendants(process.pid))


def starts_tune(process: Popen, folder: Path) -> bool:
    return (folder / "studies/study/study.json").exists()


@pytest.mark.parametrize(
    ("moment", "number", "code", "within_s"),
    [
        (imports, signal.SIGINT, 130, 30),
        (holds_the_lock, signal.SIGINT, 130, 30),
        (starts_ray, signal.SIGTERM, 143, 30),
        (starts_tune, signal.SIGINT, 130, 60),  # Tune ends its workers, MLflow makes its database
    ],
)
def test_a_signal_at_any_moment_of_the_start_ends_it_and_leaves_nothing_half(
    tmp_path: Path, moment: Callable[[Popen, Path], bool], number: int, code: int, within_s: int
):
    with started("search", *SEARCH, folder=tmp_path) as process:
        wait_for(lambda: moment(process, tmp_path), 60, moment.__name__)
        family = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(within_s) == code
        wait_for(lambda: not any(map(alive, family)), 120, "what it had started to go")
    text = (tmp_path / "search.out").read_text()
    assert "Traceback" not in text
    if moment is starts_tune:
        assert "--resume --name study" in text
        assert len(read_study(tmp_path, "study").unfinished) == 2
    else:
        assert "stopped\n" in text
        assert not (tmp_path / "studies").exists()


def test_a_ray_that_dies_ends_the_search_and_the_study_goes_on(tmp_path: Path, monkeypatch):
    """Trials train on until Ray says it, which by its defaults takes 15 s: that is shortened, and
    the two are too long to end by then."""
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    long = ["--trials=1", "--epochs=100"]
    with started("search", *SEARCH, *long, folder=tmp_path) as process:
        wait_for(lambda: epochs_on_disk(tmp_path, "study") > 10, 90, "10 epochs on record")
        os.kill(_raylet(process), signal.SIGKILL)
        assert process.wait(90) == 1
    text = (tmp_path / "search.out").read_text()
    assert "Traceback" not in text
    assert "stopped: Ray has died on this machine" in text
    done = program("search", "--resume", "--name=study", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(tmp_path, trials=2)


def _raylet(process: Popen) -> int:
    (found,) = (
        pid for pid in descendants(process.pid) if "raylet/raylet" in title(pid).split(" ")[0]
    )
    return found


TRAINING = """
trial:
  data: {name: synthetic, images: 1024, batch_size: 64}
  model: {name: small_cnn, width: 8}
  method: {name: cross_entropy}
  optim: {lr: 0.02}
  epochs: 200
"""


def test_a_ray_that_dies_ends_a_final_training_which_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    (tmp_path / "config.yaml").write_text(TRAINING)
    asked, trials = ["config.yaml", "--seeds=2", "--output=trained"], tmp_path / "trained/trials"

    def epochs() -> int:
        found = [json.loads(path.read_text()) for path in trials.glob("[!.]*.json")]
        return sum(len(record["epochs"]) for record in found)

    with started("train", *asked, folder=tmp_path) as process:
        wait_for(lambda: epochs() > 10, 90, "10 epochs on record")
        os.kill(_raylet(process), signal.SIGKILL)
        assert process.wait(90) == 1
    text = (tmp_path / "train.out").read_text()
    assert "Traceback" not in text
    assert "Ray has died on this machine\nstopped; the same command goes on from here" in text
    assert 10 < epochs() < 400
    done = program("train", *asked, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert epochs() == 400
