"""The MLflow mirror against a real database: equal to the records, and the same however often it
is pushed."""

import csv
import io
import json
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from skdtune import formats, leaderboard, records
from skdtune.export import text as best_yaml
from skdtune.plan import Plan
from skdtune.records import Study
from skdtune.strict_yaml import dump
from tests.skdtune.builders import (
    assert_mirrored,
    build_space,
    curve,
    end,
    expected_history,
    mixed_study,
    new_study,
    report,
    server_content,
)
from tests.skdtune.mirrors import parent_and_children, push, read_study_of
from trainables import metrics
from trainables.storage import Folder


def artifact(uri: str, run_id: str, path: str) -> str:
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        place = download_artifacts(
            run_id=run_id, artifact_path=path, dst_path=folder, tracking_uri=uri
        )
        return Path(place).read_text(encoding="utf-8")


def test_the_server_has_a_parent_and_a_child_for_each_trial_that_ran(tmp_path, uri):
    study = mixed_study(tmp_path, unfinished=True)
    push(study, uri)
    assert_mirrored(uri, study)
    parent, children = parent_and_children(uri, study)
    assert sorted(children) == [f"{index:04d}" for index in range(7)], "0007 has not run"
    assert parent["name"] == "tiny"
    assert parent["times"][0] == int(study.created * 1000)
    assert parent["tags"]["skdtune.kind"] == "search"
    assert parent["tags"]["mlflow.source.git.commit"] == "abc"
    for key, child in children.items():
        record = study.records[key]
        tags = child["tags"]
        assert tags["skdtune.study_id"] == study.id
        assert tags["skdtune.study"] == "tiny"
        assert tags["skdtune.role"] == record.role
        assert tags["skdtune.method"] == record.config["method"]["name"]
        assert tags["skdtune.outcome"] == record.status
        assert tags["skdtune.error"] == record.error
        assert tags["skdtune.node"] == "node-1"
        assert tags["skdtune.attempts"] == "1"
        assert json.loads(tags["skdtune.config"]) == record.config
        assert json.loads(tags["skdtune.params"]) == record.params
        assert child["times"][0] == int(record.started * 1000)
        assert child["times"][1] == int((record.ended or record.last["timestamp_s"]) * 1000)


def test_parameters_are_the_config_by_section_and_key(tmp_path, uri):
    study = mixed_study(tmp_path)
    push(study, uri)
    _, children = parent_and_children(uri, study)
    for key, child in children.items():
        record = study.records[key]
        flat = {
            f"{section}/{name}": str(value)
            for section, inside in record.config.items()
            if isinstance(inside, dict)
            for name, value in inside.items()
        }
        flat |= {k: str(v) for k, v in record.config.items() if not isinstance(v, dict)}
        assert child["params"] == flat
        assert (
            record.params.items()
            <= {
                path: record.config[path.split("/")[0]][path.split("/")[1]]
                for path in record.params
            }.items()
        )
        assert all(child["params"][path] == str(value) for path, value in record.params.items())


def test_metrics_keep_their_step_their_time_and_every_bit(tmp_path, uri):
    study = mixed_study(tmp_path)
    push(study, uri)
    _, children = parent_and_children(uri, study)
    for key, child in children.items():
        assert child["metrics"] == expected_history(study.records[key])
    assert [point[0] for point in children["0000"]["metrics"]["val/accuracy"]] == [1, 2, 3, 4]
    assert children["0005"]["metrics"] == {}


def test_statuses_are_those_of_the_records_and_nothing_is_left_running(tmp_path, uri):
    study = mixed_study(tmp_path, unfinished=True)
    push(study, uri)
    parent, children = parent_and_children(uri, study)
    assert {key: child["status"] for key, child in children.items()} == {
        "0000": "FINISHED",
        "0001": "FINISHED",
        "0002": "FINISHED",
        "0003": "FINISHED",
        "0004": "FAILED",
        "0005": "FAILED",
        "0006": "KILLED",
    }
    assert parent["status"] == "KILLED", "two trials are still to be run"
    for key in ("0006", "0007"):
        end(study.records[key], records.STOPPED, curve(int(key)))
    push(study, uri)
    assert parent_and_children(uri, study)[0]["status"] == "FINISHED"


def test_a_study_in_which_nothing_finished_has_failed(tmp_path, uri):
    study = new_study(tmp_path)
    for record in study.records.values():
        end(record, records.FAILED, [], "ValueError")
    push(study, uri)
    parent, children = parent_and_children(uri, study)
    assert parent["status"] == "FAILED"
    assert "best.yaml" not in parent["artifacts"]
    assert {child["status"] for child in children.values()} == {"FAILED"}


def test_the_files_of_the_study_are_its_artifacts(tmp_path, uri):
    study = mixed_study(tmp_path)
    mirror = push(study, uri)
    parent, children = parent_and_children(uri, study)
    board = leaderboard.rank(study)
    assert sorted(parent["artifacts"]) == [
        "best.yaml",
        "checkpoint/manifest.json",
        "checkpoint/state.pt",
        "leaderboard.csv",
        "leaderboard.json",
        "space.yaml",
        "study.json",
    ]
    assert artifact(uri, mirror.parent, "space.yaml") == dump(study.space)
    assert artifact(uri, mirror.parent, "best.yaml") == best_yaml(study)
    assert artifact(uri, mirror.parent, "leaderboard.json") == formats.as_json(board)
    lines = list(csv.DictReader(io.StringIO(artifact(uri, mirror.parent, "leaderboard.csv"))))
    assert [line["trial"] for line in lines] == [row.key for row in board.rows]
    manifest = json.loads(artifact(uri, mirror.parent, "checkpoint/manifest.json"))
    assert manifest["trial"] == board.winner.record.identity
    assert parent["tags"]["skdtune.winner"] == board.winner.key
    assert parent["tags"]["skdtune.search_score"] == f"val/accuracy {board.winner.score:.4f}"
    for key, child in mirror.children.items():
        assert list(children[key]["artifacts"]) == ["config.yaml"]
        config = yaml.safe_load(artifact(uri, child.run_id, "config.yaml"))
        assert config == study.records[key].config


@pytest.mark.parametrize("unfinished", [False, True])
def test_pushing_again_from_scratch_changes_nothing(tmp_path, uri, unfinished):
    study = mixed_study(tmp_path, unfinished=unfinished)
    push(study, uri)
    before = server_content(uri, study)
    push(records.load(study.folder), uri)
    assert server_content(uri, study) == before


def test_what_is_pushed_bit_by_bit_is_what_is_pushed_at_once(tmp_path, uri):
    at_once = mixed_study(tmp_path)
    study = Study(**{**vars(at_once), "id": "f" * 32, "records": {}})
    mirror = push(study, uri, live=True)
    assert parent_and_children(uri, study)[0]["status"] == "RUNNING"
    for key, whole in at_once.records.items():
        record = records.Record(key, whole.role, whole.params, whole.config)
        study.records[key] = record
        mirror.push(live=True)
        assert key not in mirror.children, "it has not started"
        record.status, record.attempts = records.RUNNING, 1
        record.started, record.host = whole.started, whole.host
        for line in whole.epochs:
            mirror.push(live=True)
            record.add(line)
        vars(record).update(vars(whole))
    mirror.push(live=True)
    mirror.push(live=False)
    push(at_once, uri)
    assert_mirrored(uri, study)
    _, children = parent_and_children(uri, study)
    _, others = parent_and_children(uri, at_once)
    for key, child in children.items():
        for part in ("name", "status", "times", "params", "metrics", "artifacts"):
            assert child[part] == others[key][part]


def test_a_running_study_runs_on_the_server_and_a_resumed_one_goes_on_in_the_same_runs(
    tmp_path, uri
):
    study = new_study(tmp_path)
    first = study.records["0000"]
    end(first, records.RUNNING, curve(0)[:2])
    mirror = push(study, uri, live=True)
    parent, children = parent_and_children(uri, study)
    assert (parent["status"], children["0000"]["status"]) == ("RUNNING", "RUNNING")
    assert list(children) == ["0000"]

    first.status = records.INTERRUPTED
    mirror.push(live=False)
    parent, children = parent_and_children(uri, study)
    assert (parent["status"], children["0000"]["status"]) == ("KILLED", "KILLED")
    before = {mirror.parent, *(child.run_id for child in mirror.children.values())}

    first.status, first.attempts = records.RUNNING, 2
    again = push(study, uri, live=True)
    parent, children = parent_and_children(uri, study)
    assert (parent["status"], children["0000"]["status"]) == ("RUNNING", "RUNNING")
    end(first, records.FINISHED, curve(0))
    end(study.records["0001"], records.FINISHED, curve(1))
    again.push(live=False)
    assert_mirrored(uri, study)
    parent, children = parent_and_children(uri, study)
    assert {run["status"] for run in (parent, *children.values())} == {"FINISHED"}
    assert before < set(server_content(uri, study))
    assert children["0000"]["tags"]["skdtune.attempts"] == "2"


def test_a_study_that_is_resumed_for_more_trials_shows_its_new_space(tmp_path, uri):
    study = mixed_study(tmp_path)
    push(study, uri)
    study.space = {**study.space, "search": {**study.space["search"], "trials": 99}}
    push(study, uri)
    assert read_study_of(study, uri).space["search"]["trials"] == 99


def test_a_trial_of_more_points_than_one_request_takes(tmp_path, uri):
    study = new_study(tmp_path)
    record = study.records["0000"]
    end(record, records.FINISHED, [report(epoch, 1 / epoch) for epoch in range(1, 251)])
    record.config = record.config | {"data": {f"key_{index}": "x" * 7000 for index in range(130)}}
    push(study, uri)
    _, children = parent_and_children(uri, study)
    assert children["0000"]["metrics"] == expected_history(record)
    assert len([name for name in children["0000"]["params"] if "key_" in name]) == 130


def test_an_error_text_of_bytes_that_are_no_text_is_no_obstacle(tmp_path, uri):
    study = new_study(tmp_path)
    end(study.records["0000"], records.FAILED, [], "OSError: /data/\udcff.png é")
    push(study, uri)
    _, children = parent_and_children(uri, study)
    assert children["0000"]["tags"]["skdtune.error"] == "OSError: /data/?.png é"


def test_the_ranking_is_told_each_minute_of_a_running_study_and_at_its_end(
    tmp_path, uri, monkeypatch
):
    study = mixed_study(tmp_path, unfinished=True)
    mirror = push(study, uri, live=True)
    assert "mlflow.note.content" not in parent_and_children(uri, study)[0]["tags"]
    monkeypatch.setattr(mirror, "_described", time.monotonic() - 61)
    for expected in ("winner: trial 0002", "no trial of the search"):
        mirror.push(live=True)
        assert expected in parent_and_children(uri, study)[0]["tags"]["mlflow.note.content"]
        study.records = {"0006": study.records["0006"]}  # and nobody knows of the others
        monkeypatch.setattr(mirror, "_described", time.monotonic() - 61)


def test_what_a_person_wrote_of_a_study_stays(tmp_path, uri):
    study = mixed_study(tmp_path)
    mirror = push(study, uri)
    mirror.client.set_tag(mirror.parent, "mlflow.note.content", "my own notes")
    push(study, uri)
    assert parent_and_children(uri, study)[0]["tags"]["mlflow.note.content"] == "my own notes"


def test_a_final_training_is_mirrored_with_its_models(tmp_path, uri):
    config = build_space().baseline_config() | {"epochs": 2}
    space = {
        "trial": config,
        "provenance": {"study": "tiny", "study_id": "abc", "trial": "0002"},
    }
    study = Study("tiny", "training", space, "best", folder=Folder(tmp_path))
    for index in range(2):
        record = records.Record(f"seed-{index}", records.SEED, {}, config | {"seed": index})
        study.records[record.key] = record
        scores = dict.fromkeys(metrics.score_names(metrics.TEST), 0.6)
        end(record, records.FINISHED, [report(1, 0.5), report(2, 0.6) | scores])
        study.folder.write(f"models/{record.key}/model.json", b"{}")
        study.folder.write(f"models/{record.key}/mlflow/MLmodel", b"x")
    study.folder.write("result.json", b"{}")
    push(study, uri)
    parent, children = parent_and_children(uri, study)
    assert parent["tags"]["skdtune.kind"] == "training"
    assert parent["tags"]["skdtune.from_study_id"] == "abc"
    assert parent["tags"]["skdtune.from_trial"] == "0002"
    assert "- test/accuracy 0.6000 ± 0.0000" in parent["tags"]["mlflow.note.content"]
    assert {child["tags"]["skdtune.kind"] for child in children.values()} == {"seed"}
    assert children["seed-1"]["params"]["seed"] == "1"
    assert sorted(parent["artifacts"]) == [
        "models/seed-0/mlflow/MLmodel",
        "models/seed-0/model.json",
        "models/seed-1/mlflow/MLmodel",
        "models/seed-1/model.json",
        "result.json",
        "space.yaml",
        "study.json",
    ]


def test_a_plan_that_was_resumed_keeps_its_children(tmp_path, uri):
    study = mixed_study(tmp_path, unfinished=True)
    push(study, uri)
    before = set(server_content(uri, study))
    loaded = records.load(study.folder)
    Plan(loaded, build_space(trials=9)).new({"method/variant": "dsr"})
    for key in ("0006", "0007", "0008"):
        end(loaded.records[key], records.FINISHED, curve(int(key)))
    push(loaded, uri)
    assert_mirrored(uri, loaded)
    assert before < set(server_content(uri, loaded))
