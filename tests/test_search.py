"""Whole searches in processes of their own: from the first command to a trained model."""

import json
import math
import os
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from skdtune import records
from tests.programs import FAST, environment, leaderboard, program, read_study, started, wait_for
from trainables import metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quickstart, made shorter, has run under the name `first`."""
    folder = tmp_path_factory.mktemp("searched")
    done = program("search", "--trials=8", "--epochs=9", "--name=first", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no library tells of leaks or warns behind the results
    (folder / "search.txt").write_text(done.stdout)
    return folder


def runs_of(folder: Path, name: str) -> list[mlflow.entities.Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [r for r in client.search_runs(experiments) if r.data.tags.get("skdtune.study") == name]


def test_search_shows_the_winner_against_the_authors_setting_and_the_baseline(searched: Path):
    text = (searched / "search.txt").read_text()
    assert "9 trials" in text
    for label in ("winner:", "authors' default:", "baseline:"):
        assert label in text
    board = json.loads(program("leaderboard", "first", "--format=json", folder=searched).stdout)
    rows = {row["trial"]: row for row in board["trials"]}
    assert len(rows) == 9
    winner, baseline = rows[board["winner"]], rows[board["baseline"]]
    assert winner["status"] == baseline["status"] == "finished"
    assert winner["gain"] == pytest.approx(winner["score"] - baseline["score"])
    assert rows[board["default"]]["params"]["method/alpha"] == 0.2
    full = [row["score"] for row in rows.values() if row["status"] == "finished"]
    assert max(full) == max(winner["score"], baseline["score"])


def test_every_searched_value_arrives_in_the_trial_and_in_mlflow(searched: Path):
    study = read_study(searched, "first")
    params = {
        run.data.tags.get("skdtune.trial"): run.data.params for run in runs_of(searched, "first")
    }
    for record in study.records.values():
        for path, value in record.params.items():
            section, key = path.split("/")
            assert record.config[section][key] == value
            assert params[record.key][path] == str(value)
        if record.role != records.BASELINE:
            assert record.params


def test_records_say_all_that_a_trial_was_and_only_full_trials_keep_checkpoints(searched: Path):
    for record in read_study(searched, "first").records.values():
        assert record.seed == record.config["seed"] == 0
        assert record.attempts == 1
        times = [report[metrics.TIMESTAMP] for report in record.epochs]
        assert record.started < times[0]
        assert times == sorted(times)
        kept = list((searched / "studies/first/checkpoints" / record.key).glob("epoch_*"))
        if record.status == records.FINISHED:
            assert searched / "studies/first" / record.checkpoint in kept
        else:
            assert record.checkpoint == ""
            assert kept == []


def test_mlflow_has_what_the_records_have_and_nothing_runs(searched: Path):
    study, runs = read_study(searched, "first"), runs_of(searched, "first")
    client = MlflowClient(f"sqlite:///{searched}/mlflow.db")
    assert len(runs) == len(study.records) + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if key := run.data.tags.get("skdtune.trial"):
            record = study.records[key]
            history = client.get_metric_history(run.info.run_id, "val/accuracy")
            assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [
                (report[metrics.EPOCH], report["val/accuracy"]) for report in record.epochs
            ]


def test_a_study_is_refused_under_its_name_and_resumed_with_nothing_left_to_do(searched: Path):
    again = program("search", "--trials=8", "--epochs=9", "--name=first", folder=searched)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    before = {path: path.read_bytes() for path in (searched / "studies/first/trials").iterdir()}
    resumed = program("search", "--name=first", "--resume", folder=searched)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert before == {
        path: path.read_bytes() for path in (searched / "studies/first/trials").iterdir()
    }


def test_a_changed_space_is_refused_with_the_difference(searched: Path):
    changed = program(
        "search", "--name=first", "--resume", "--set=trial.optim.lr=0.5", folder=searched
    )
    assert changed.returncode == 2
    assert "trial.optim.lr" in changed.stderr
    assert "0.05" in changed.stderr
    assert "0.5 asked" in changed.stderr


@pytest.mark.timeout(500)
def test_export_trains_and_ships(searched: Path):
    assert program("export", "first", folder=searched).returncode == 0
    best = yaml.safe_load((searched / "best.yaml").read_text())
    winner = leaderboard(searched, "first")["winner"]
    assert best["trial"] == read_study(searched, "first").records[winner].config
    done = program("train", "best.yaml", "--seeds=2", folder=searched, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((searched / "trained/first/result.json").read_text())
    beside = results["compared"]["baseline"]["test/accuracy"]
    assert len(beside["gain"]["values"]) == 2
    assert f"over baseline ({beside['mean']:.4f}" in done.stdout
    result = results["test/accuracy"]
    assert len(result["values"]) == 2
    assert result["mean"] > 0.5
    assert result["half_width_95"] >= 0
    code = (
        "import torch, mlflow; from trainables.shipping import load\n"
        "images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "own = load('trained/first/models/seed-0')(images)\n"
        "other = mlflow.pytorch.load_model('trained/first/models/seed-0/mlflow')(images)\n"
        "assert own.shape == (5, 10); torch.testing.assert_close(own, other)\n"
    )
    env = {**environment(searched), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    assert os.spawnvpe(os.P_WAIT, *_python(code, searched), env) == 0
    seeds = [run for run in runs_of(searched, "first") if run.data.tags["skdtune.kind"] == "seed"]
    assert len(seeds) == 2
    parent = next(
        r for r in runs_of(searched, "first") if r.data.tags["skdtune.kind"] == "training"
    )
    assert f"runs:/{parent.info.run_id}/models/seed-0" in done.stdout
    assert parent.data.tags["skdtune.from_study_id"] == read_study(searched, "first").id


def _python(code: str, folder: Path) -> tuple[str, list[str]]:
    import sys

    return sys.executable, [sys.executable, "-c", f"import os; os.chdir({str(folder)!r})\n{code}"]


def test_a_study_grows_and_its_optuna_study_knows_the_old_trials(searched: Path):
    old = {path.name: path.read_bytes() for path in (searched / "studies/first/trials").iterdir()}
    done = program("search", "--name=first", "--resume", "--trials=10", folder=searched)
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(searched, "first")
    assert len(study.records) == 11
    new = {path.name: path.read_bytes() for path in (searched / "studies/first/trials").iterdir()}
    assert {name: new[name] for name in old} == old


def test_finalists_are_trained_again_and_the_best_mean_is_exported(searched: Path):
    """Asked for when the study has ended; the final training leaves their seeds alone."""
    before = read_study(searched, "first").records
    asked = ["--resume", "--name=first", "--set=search.finalists={trials: 2, seeds: 1}"]
    plan = program("search", *asked, "--check", folder=searched)
    assert "the best 2, the baseline and the first trial with 1 more seed each" in plan.stdout
    done = program("search", *asked, folder=searched)
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(searched, "first")
    assert {key: study.records[key] for key in before} == before
    repeats = [record for key, record in study.records.items() if key not in before]
    assert 3 <= len(repeats) <= 4, "the first trial may be one of the best"
    assert {(record.status, record.seed) for record in repeats} == {(records.FINISHED, 1)}
    board = leaderboard(searched, "first")
    means = {trial["trial"]: trial["mean"] for trial in board["trials"]}
    for record in repeats:
        pair = study.records[record.repeats].last, record.last
        assert means[record.repeats] == pytest.approx(sum(r["val/accuracy"] for r in pair) / 2)
    assert means[board["winner"]] == max(
        mean for key, mean in means.items() if mean is not None and key != board["baseline"]
    )
    assert "(the mean of 2 seeds, " in done.stdout
    there = {run.data.tags.get("skdtune.repeats") for run in runs_of(searched, "first")} - {None}
    assert there == {record.repeats for record in repeats}
    program("export", "first", "--output=mean.yaml", folder=searched)
    assert "  search_seeds: 2\n" in (searched / "mean.yaml").read_text()


def test_another_search_begins_with_the_best_settings_of_the_first(searched: Path):
    warm = ["--set=search.warm_start.study=first", "--set=search.warm_start.trials=2"]
    again = program(
        "search", "--name=warm", "--trials=4", "--epochs=2", *warm, folder=searched, timeout_s=240
    )
    assert again.returncode == 0, again.stdout + again.stderr
    board = leaderboard(searched, "first")
    ranked = [t for t in board["trials"] if t["status"] == "finished" and t["role"] == "search"]
    best = ranked[:2]
    assert len(best) == 2
    told = f"from study first, tried first: trials {best[0]['trial']}, {best[1]['trial']}\n"
    assert told in again.stdout
    found = read_study(searched, "warm").records
    assert [found[key].params for key in ("0002", "0003")] == [trial["params"] for trial in best]


@pytest.mark.timeout(600)
def test_real_images_on_resnet20(tmp_path: Path):
    images = os.environ.get("SKDTUNE_CIFAR100_MINI")
    if not images:
        pytest.skip("SKDTUNE_CIFAR100_MINI does not name the unpacked images; .ci/run sets it")
    done = program(
        "search",
        "drg_dsr",
        "--set=trial.data.name=imagefolder",
        f"--set=trial.data.root={images}",
        "--set=trial.data.image_size=16",  # a quarter of the time
        "--set=trial.model.name=resnet20",
        "--trials=1",
        "--epochs=3",
        "--name=real",
        folder=tmp_path,
        timeout_s=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    board = leaderboard(tmp_path, "real")
    assert len(board["trials"]) == 2
    assert board["baseline"] is not None
    assert len(runs_of(tmp_path, "real")) == 3
    assert program("export", "real", folder=tmp_path).returncode == 0
    alone = "--set=compare=null"
    trained = program("train", "best.yaml", "--seeds=1", alone, folder=tmp_path, timeout_s=300)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    chance = 1 / 20
    assert (
        json.loads((tmp_path / "trained/real/result.json").read_text())["test/accuracy"]["mean"]
        > chance
    )


def test_a_diverged_trial_ends_early_and_never_ranks(tmp_path: Path):
    done = program(
        "search",
        *FAST,
        "--set=trial.optim={lr: {type: categorical, choices: [0.02, 1.0e+30]}}",
        "--set=search.sampler.name=random",
        "--set=search.scheduler={name: none}",
        "--trials=6",
        "--epochs=3",
        "--concurrency=1",
        "--name=wild",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(tmp_path, "wild")
    wild = [r for r in study.records.values() if r.config["optim"]["lr"] > 1]
    assert wild
    for record in wild:
        assert record.status == records.DIVERGED
        assert record.epoch == 0
        assert record.attempts == 1
    board = leaderboard(tmp_path, "wild")
    assert {row["status"] for row in board["trials"][-len(wild) :]} == {"diverged"}
    assert all(math.isfinite(row["score"]) for row in board["trials"] if row["score"] is not None)


def test_reused_workers_inherit_nothing(tmp_path: Path):
    """Seven trials of one setting, one process: all learn the same curve to the bit."""
    done = program(
        "search",
        *FAST,
        "--set=trial.method={name: drg_dsr, alpha: 0.3}",
        "--set=trial.optim.momentum={type: categorical, choices: [0.5, 0.9]}",
        "--set=search.sampler.name=random",
        "--set=search.scheduler={name: none}",
        "--set=search.first_trials=[]",
        "--trials=7",
        "--epochs=2",
        "--concurrency=1",
        "--name=same",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    curves: dict[tuple, set] = {}
    for record in read_study(tmp_path, "same").records.values():
        names = [n for n in record.last if not n.startswith(("time/", "memory/", "timestamp"))]
        curve = tuple(tuple(report[name] for name in names) for report in record.epochs)
        key = (record.config["method"]["name"], record.config["optim"]["momentum"])
        curves.setdefault(key, set()).add(curve)
    assert len(curves) == 3
    assert all(len(different) == 1 for different in curves.values())


def test_storage_may_be_a_uri_with_odd_characters(tmp_path: Path):
    place = tmp_path / "a b" / "実験#1"
    uri = place.as_uri()
    done = program(
        *("search", *FAST, "--trials=2", "--epochs=2", "--concurrency=1"),
        f"--storage={uri}",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "study.json").is_file()
    assert not (tmp_path / "studies").exists()
    assert program("leaderboard", uri, folder=tmp_path).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    read = program(
        "leaderboard",
        "実験#1",
        "--format=csv",
        f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db",
        folder=elsewhere,
    )
    assert read.returncode == 0, read.stderr
    assert read.stdout.count("\n") == 4


def test_mlflow_that_is_down_costs_nothing_and_sync_catches_up(tmp_path: Path):
    done = program(
        "search",
        *FAST,
        "--trials=3",
        "--epochs=2",
        "--concurrency=1",
        "--name=alone",
        "--tracking-uri=http://127.0.0.1:9",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skdtune.sync alone" in done.stdout
    store = f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        synced = program("sync", "alone", store, folder=tmp_path)
        assert synced.returncode == 0, synced.stdout + synced.stderr
        runs = runs_of(tmp_path, "alone")
        assert len(runs) == 5
        assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_second_search_of_a_living_study_is_refused(tmp_path: Path):
    arguments = [*FAST, "--trials=30", "--epochs=27", "--name=busy"]
    with started("search", *arguments, folder=tmp_path) as process:
        wait_for((tmp_path / "studies/busy/study.json").exists, 90, "the study")
        second = program("search", *arguments, "--resume", folder=tmp_path)
        assert second.returncode == 2
        assert str(process.pid) in second.stderr
        assert process.poll() is None
