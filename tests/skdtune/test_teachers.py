"""A study's teachers: which a space names, what is wrong with them, and where the study keeps
them."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch

from skdtune import export, records, teachers
from skdtune.errors import ConfigError
from skdtune.plan import Plan
from tests.programs import program, read_study
from tests.skdtune.builders import NOWHERE, build_space, curve, new_study
from trainables import data, models, shipping
from trainables.storage import Folder

SPACE = """
trial:
  data: {name: synthetic, images: 64, batch_size: 32}
  model: {name: small_cnn, width: 2}
  method: {name: METHOD, alpha: {type: float, low: 0.1, high: 0.95}}
  optim: {lr: 0.05}
  epochs: 4
search: {trials: 3}
"""


def space_of(method: str):
    return build_space(SPACE.replace("METHOD", method))


UNSEEN = {"validation_fraction": 0.1, "split_seed": 0}  # as a search leaves out unless told


def save(
    folder: Path, classes=("0", "1", "2", "3"), channels: int = 3, unseen: dict | None = UNSEEN
) -> str:
    torch.manual_seed(len(classes))
    network = models.build("small_cnn", len(classes), (channels, 8, 8), width=3)
    shipped = shipping.Shipped(network, torch.zeros(channels), torch.ones(channels), classes)
    shipping.save(folder, shipped, {"name": "small_cnn", "width": 3}, (channels, 8, 8), unseen)
    return str(folder)


def sets() -> data.Sets:
    return data.build("synthetic", images=64)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("drg_dsr", set()),
        ("tf_kd_self", {None}),
        ("tf_kd_self, teacher: /t", {"/t"}),
        ("kd, teacher: {type: categorical, choices: [/a, /b]}", {"/a", "/b"}),
        ("{type: categorical, choices: [kd, tf_kd_self]}", {None}),
    ],
)
def test_a_space_names_its_teachers(method: str, expected: set):
    assert teachers.named(space_of(method)) == expected


def test_a_trial_gets_the_studys_copy_and_the_record_keeps_the_name(tmp_path: Path):
    place = save(tmp_path / "t")
    space = space_of(f"kd, teacher: {place}")
    study = new_study(tmp_path / "s", space)
    teachers.check(teachers.named(space), sets(), study.folder, NOWHERE)
    teachers.bring(teachers.named(space), study.folder, NOWHERE)
    shutil.rmtree(place)
    plan = Plan(study, space)
    handed = plan.trial_config(study.records["0000"])["trial"]["method"]
    assert study.records["0000"].config["method"]["teacher"] == place
    assert handed["teacher"].startswith(study.folder.uri)
    assert handed.items() - {("teacher", handed["teacher"])} <= (
        study.records["0000"].config["method"].items()
    )
    assert shipping.load(handed["teacher"]).classes == ("0", "1", "2", "3")
    baseline = plan.trial_config(study.records["0001"])["trial"]
    assert baseline["method"] == {"name": "cross_entropy"}
    # the original is gone, and a resume neither needs nor checks it
    teachers.check(teachers.named(space), sets(), study.folder, NOWHERE)
    teachers.bring(teachers.named(space), study.folder, NOWHERE)


def test_the_final_training_learns_from_the_copy_that_taught_in_the_search(tmp_path: Path):
    place = save(tmp_path / "t")
    space = space_of(f"kd, teacher: {place}")
    study = new_study(tmp_path / "s", space)
    assert teachers.kept(study.records["0000"].config, study.folder)["method"]["teacher"] == place
    teachers.bring(teachers.named(space), study.folder, NOWHERE)
    save(tmp_path / "t", classes=("1", "0", "2", "3"))  # trained again since
    for record in study.records.values():
        record.status, record.epochs = records.FINISHED, curve(0)
    best = export.document(study)
    assert best["trial"]["method"]["teacher"].startswith(study.folder.uri)
    taught = shipping.load(best["trial"]["method"]["teacher"])
    assert taught.classes == ("0", "1", "2", "3")
    assert best["compare"]["baseline"]["method"] == {"name": "cross_entropy"}


def test_every_teacher_that_does_not_fit_is_named_at_once(tmp_path: Path):
    wanted = {
        str(tmp_path / "none"),
        save(tmp_path / "two", classes=("0", "1")),
        save(tmp_path / "swapped", classes=("1", "0", "2", "3")),
        save(tmp_path / "grey", channels=1),
        save(tmp_path / "good"),
        None,
    }
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path / "good", damaged)
    (damaged / shipping.WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ConfigError) as caught:
        teachers.check(wanted | {str(damaged)}, sets(), Folder(tmp_path / "study"), NOWHERE)
    text = str(caught.value)
    assert "5 problems" in text
    for name, what in [
        ("none", f"no such folder: {tmp_path / 'none'}"),
        ("two", "it knows 2 classes"),
        ("swapped", "in this order"),
        ("grey", "cannot take images of (3, 8, 8)"),
        ("damaged", "no model that can be read"),
    ]:
        assert f"{tmp_path / name}: " in text
        assert what in text


@pytest.mark.parametrize(
    ("unseen", "fits"),
    [
        (None, False),
        ({}, False),
        (UNSEEN, True),
        ({**UNSEEN, "validation_fraction": 0.25}, True),
        ({**UNSEEN, "validation_fraction": 0.05}, False),
        ({**UNSEEN, "split_seed": 1}, False),
    ],
)
def test_a_teacher_that_knows_the_validation_images_teaches_in_no_search(tmp_path, unseen, fits):
    teacher, study = {save(tmp_path / "t", unseen=unseen)}, Folder(tmp_path / "s")
    if fits:
        teachers.check(teacher, sets(), study, NOWHERE)
    else:
        with pytest.raises(ConfigError) as caught:
            teachers.check(teacher, sets(), study, NOWHERE)
        assert caught.value.problems[0].endswith(
            "--set trial.data.train_on_validation=false --set trial.data.validation_fraction=0.1 "
            "--set trial.data.split_seed=0"
        )
    teachers.check(teacher, data.build("synthetic", images=64, final=True), study, NOWHERE)


def test_a_set_with_validation_images_of_its_own_wants_them_left_out(tmp_path):
    own = dataclasses.replace(sets(), unseen={})
    teachers.check({save(tmp_path / "t", unseen={})}, own, Folder(tmp_path / "s"), NOWHERE)
    for other in (None, UNSEEN):
        with pytest.raises(ConfigError, match=r"train_on_validation=false$"):
            teachers.check(
                {save(tmp_path / "other", unseen=other)}, own, Folder(tmp_path / "s"), NOWHERE
            )


@pytest.mark.parametrize("kind", ["runs", "models"])
def test_a_model_is_found_in_the_mlflow_that_was_named_and_in_no_other(tmp_path, monkeypatch, kind):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/theirs.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info
    client.log_artifacts(run.run_id, save(tmp_path / "t", unseen=UNSEEN), "teacher")
    client.create_registered_model("big")
    client.create_model_version("big", f"{run.artifact_uri}/teacher", run.run_id)
    teacher = {{"runs": f"runs:/{run.run_id}/teacher", "models": "models:/big/1"}[kind]}

    study = Folder(tmp_path / "study")
    with pytest.raises(ConfigError, match=r"MLflow at sqlite:///other.db has no such model: "):
        teachers.check(teacher, sets(), study, "sqlite:///other.db")
    teachers.check(teacher, sets(), study, uri)
    teachers.bring(teacher, study, uri)
    (name,) = study.names("teachers")
    assert study.names(f"teachers/{name}") == [shipping.DESCRIPTION, shipping.WEIGHTS]
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_finished_trainings_folder_is_its_first_model(tmp_path: Path):
    save(tmp_path / "trained/models/seed-0")
    study = Folder(tmp_path / "study")
    teachers.bring({str(tmp_path / "trained")}, study, NOWHERE)
    (name,) = study.names("teachers")
    assert study.names(f"teachers/{name}") == [shipping.DESCRIPTION, shipping.WEIGHTS]


def test_an_unfinished_baseline_is_no_teacher(tmp_path: Path):
    study = new_study(tmp_path, space_of("tf_kd_self"))
    study.records["0001"].status = records.DIVERGED
    with pytest.raises(teachers.NoTeacher, match="begin another search, with a lower") as raised:
        teachers.take_baseline(study)
    assert raised.value.for_good, "no resume tries again what diverged"
    study.records["0001"].status = records.FAILED
    with pytest.raises(teachers.NoTeacher, match="trial 0001, failed") as raised:
        teachers.take_baseline(study)
    assert not raised.value.for_good


def test_a_baseline_whose_checkpoint_is_lost_is_trained_again_by_a_resume(tmp_path: Path):
    study = new_study(tmp_path, space_of("tf_kd_self"))
    study.save()
    baseline = study.records["0001"]
    baseline.status, baseline.ended = records.FINISHED, 1.0
    with pytest.raises(teachers.NoTeacher, match="has lost its last checkpoint"):
        teachers.take_baseline(study)
    assert records.load(study.folder).records["0001"].status == records.PENDING


def test_a_plan_of_one_role_runs_that_alone(tmp_path: Path):
    space = space_of("tf_kd_self")
    study = new_study(tmp_path, space)
    plan = Plan(study, space, only=records.BASELINE)
    assert [record.key for record in plan.queue] == ["0001"]
    plan.queue.clear()
    assert plan.is_done
    assert not Plan(study, space).is_done


@pytest.mark.slow
@pytest.mark.timeout(540)
def test_the_search_trains_its_teacher_first_and_once_and_the_training_its_own(tmp_path: Path):
    quick = [
        "--set=trial.data.name=synthetic",
        "--set=trial.data.images=128",
        "--set=trial.model.name=small_cnn",
        "--epochs=3",
    ]
    alone = ["--concurrency=1"]
    done = program(
        *("search", "tf_kd_self", *quick, "--trials=2", "--name=s"), *alone, folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(tmp_path, "s")
    own = shipping.load(study.folder.folder("teachers/own"))
    assert own.classes == ("0", "1", "2", "3")
    baseline = study.records["0001"]
    assert baseline.role == records.BASELINE
    others = [record for key, record in study.records.items() if key != "0001"]
    assert len(others) == 2
    assert all(record.started >= baseline.ended for record in others)
    assert {record.config["method"]["teacher"] for record in others} == {None}
    weights = (tmp_path / "studies/s/teachers/own/model.safetensors").read_bytes()

    done = program("search", "--resume", "--name=s", "--trials=3", *alone, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "studies/s/teachers/own/model.safetensors").read_bytes() == weights
    assert read_study(tmp_path, "s").records["0001"].attempts == 1

    assert program("export", "s", folder=tmp_path).returncode == 0
    edits = ["--set=compare=null", "--set=trial.data.train_on_validation=false"]
    done = program("train", "best.yaml", "--seeds=1", *edits, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = records.load(Folder(tmp_path / "trained/s"))
    assert list(trained.records) == ["seed-0", "teacher-0"]
    assert trained.records["teacher-0"].config["method"] == {"name": "cross_entropy"}
    assert trained.records["teacher-0"].seed == trained.records["seed-0"].seed

    # what was trained teaches another search, by its folder and by its MLflow model
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'skdtune'")
    runs = client.search_runs([experiment.experiment_id], "tags.`skdtune.kind` = 'training'")
    (parent,) = (run for run in runs if "skdtune.trial" not in run.data.tags)
    uri = f"runs:/{parent.info.run_id}/models/seed-0/mlflow"
    elsewhere = tmp_path / "elsewhere"  # whose own MLflow has no such run
    elsewhere.mkdir()
    for index, teacher in enumerate((tmp_path / "trained/s", uri)):
        done = program(
            "search",
            "kd",
            *quick,
            *alone,
            f"--set=trial.method.teacher={teacher}",
            "--trials=1",
            f"--name=kd-{index}",
            f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db",
            folder=elsewhere,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        taught = read_study(elsewhere, f"kd-{index}")
        assert {record.status for record in taught.records.values()} == {records.FINISHED}
