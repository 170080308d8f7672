"""The MLflow mirror against a real database: equal to the records, repeatable, and whole again
after anything that was lost on the way."""

import copy
import csv
import io
import json
import time

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from skdtune import formats, leaderboard, records
from skdtune.export import text as best_yaml
from skdtune.plan import Plan
from skdtune.records import Study
from skdtune.strict_yaml import dump
from skdtune.tracked import exists, read_study
from skdtune.tracking import Mirror
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
    server_runs,
)
from trainables import metrics
from trainables.storage import Folder


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """One database for the module: making it takes seconds; a study has its own id in it."""
    place = tmp_path_factory.mktemp("mlflow é")
    found = f"sqlite:///{place}/mlflow.db"
    MlflowClient(tracking_uri=found).create_experiment("skdtune", (place / "artifacts").as_uri())
    return found


def push(study: Study, uri: str, live: bool = False) -> Mirror:
    mirror = Mirror(study, uri)
    mirror.push(live=live)
    return mirror


def artifact(uri: str, run_id: str, path: str) -> str:
    from mlflow.artifacts import download_artifacts

    place = download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=uri)
    with open(place, encoding="utf-8") as stream:
        return stream.read()


def parent_and_children(uri: str, study: Study) -> tuple[dict, dict[str, dict]]:
    content = server_content(uri, study).values()
    (parent,) = [run for run in content if "skdtune.trial" not in run["tags"]]
    children = {run["tags"]["skdtune.trial"]: run for run in content if run is not parent}
    assert len(children) == len(content) - 1
    return parent, children


def without_times(board: leaderboard.Board) -> dict:
    content = json.loads(formats.as_json(board))
    for trial in content["trials"]:
        trial["metrics"].pop("timestamp_s", None)
    return content


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


# What a lost answer leaves behind


def copy_run(client: MlflowClient, run, **tags: str):
    found = {**run.data.tags, **tags}
    found = {name: value for name, value in found.items() if not name.endswith("mirrored")}
    return client.create_run(run.info.experiment_id, run.info.start_time, found, run.info.run_name)


@pytest.mark.parametrize("times", [1, 3])
def test_runs_that_were_made_twice_are_reduced_to_one(tmp_path, uri, times):
    study = mixed_study(tmp_path)
    push(study, uri)
    client = MlflowClient(tracking_uri=uri)
    for run in server_runs(uri, study):
        for _ in range(times):
            copy_run(client, run)
    assert len(server_runs(uri, study)) == (1 + times) * 7
    push(study, uri)
    assert len(server_runs(uri, study)) == 7
    assert_mirrored(uri, study)
    before = server_content(uri, study)
    push(study, uri)
    assert server_content(uri, study) == before


def test_children_of_a_parent_that_was_made_twice_hang_below_the_one_that_stays(tmp_path, uri):
    study = mixed_study(tmp_path)
    client = MlflowClient(tracking_uri=uri)
    push(study, uri)
    runs = server_runs(uri, study)
    for _ in range(4):  # whichever is kept, some child hangs below another
        twin = copy_run(client, next(run for run in runs if "skdtune.trial" not in run.data.tags))
        child = next(run for run in runs if run.data.tags.get("skdtune.trial") == "0002")
        client.set_tag(child.info.run_id, "mlflow.parentRunId", twin.info.run_id)
    push(study, uri)
    assert_mirrored(uri, study)


class TwiceClient(MlflowClient):
    """A client whose every run is made twice, as a retry after a lost answer makes it."""

    def create_run(self, *arguments, **named):
        super().create_run(*arguments, **named)
        return super().create_run(*arguments, **named)


def test_runs_that_a_retry_made_twice_are_gone_when_the_study_ends(tmp_path, uri):
    study = mixed_study(tmp_path)
    mirror = Mirror(study, uri)
    mirror.client = TwiceClient(tracking_uri=uri)
    mirror.push(live=True)
    assert len(server_runs(uri, study)) == 14
    used = {mirror.parent, *(child.run_id for child in mirror.children.values())}
    mirror.push(live=False)
    assert_mirrored(uri, study)
    assert set(server_content(uri, study)) == used, "those that were written to stay"


class CutOff(Exception):
    """The process ends here."""


WRITES = (
    "create_run",
    "log_dict",
    "log_text",
    "log_batch",
    "set_tag",
    "update_run",
    "set_terminated",
    "log_artifacts",
)


class DyingClient(MlflowClient):
    """A client that dies after so many writes."""

    left = 0

    def __getattribute__(self, name: str):
        found = super().__getattribute__(name)
        if name not in WRITES:
            return found

        def write(*arguments, **named):
            if self.left <= 0:
                raise CutOff
            self.left -= 1
            return found(*arguments, **named)

        return write


@pytest.mark.parametrize("writes", [0, 1, 3, 4, 5, 6, 8, 20, 23])
def test_a_push_that_was_cut_off_anywhere_is_completed_by_the_next(tmp_path, uri, writes):
    study = mixed_study(tmp_path)
    mirror = Mirror(study, uri)
    mirror.client = DyingClient(tracking_uri=uri)
    mirror.client.left = writes
    with pytest.raises(CutOff):
        mirror.push(live=False)
    push(study, uri)
    assert_mirrored(uri, study)
    board = without_times(leaderboard.rank(read_study_of(study, uri)))
    assert board == without_times(leaderboard.rank(study))


def test_a_trial_that_has_ended_takes_three_writes_beside_its_file(tmp_path, uri):
    study = mixed_study(tmp_path)
    mirror = Mirror(study, uri)
    mirror.client = DyingClient(tracking_uri=uri)
    mirror.client.left = before = 1000
    mirror.push(live=True)
    trials = sum(record.attempts > 0 for record in study.records.values())
    assert before - mirror.client.left == 4 + 3 * trials  # the study itself takes four
    mirror.push(live=True)
    assert before - mirror.client.left == 4 + 3 * trials, "nothing was new"


@pytest.mark.parametrize("writes", [0, 1, 2, 4])
def test_a_push_that_failed_at_its_beginning_is_made_good_while_the_study_runs(
    tmp_path, uri, writes
):
    study = new_study(tmp_path)
    end(study.records["0000"], records.RUNNING, curve(0)[:2])
    mirror = Mirror(study, uri)
    mirror.client = DyingClient(tracking_uri=uri)
    mirror.client.left = writes
    with pytest.raises(CutOff):
        mirror.push(live=True)
    mirror.client.left = 10**9
    mirror.push(live=True)
    parent, children = parent_and_children(uri, study)
    assert sorted(parent["artifacts"]) == ["space.yaml", "study.json"]
    assert children["0000"]["metrics"] == expected_history(study.records["0000"])


# Reading a study back


def read_study_of(study: Study, uri: str) -> Study:
    """The study by its name, which other tests of this module use too: it is the newest."""
    found = read_study(study.name, uri)
    assert found is not None
    assert found.id == study.id
    return found


@pytest.mark.parametrize("name", ["実験 é 🙂", 'it\'s "both"', "100 % a_b"])
def test_the_leaderboard_from_the_server_is_that_of_the_disk(tmp_path, uri, name):
    study = mixed_study(tmp_path, name)
    push(study, uri)
    found = read_study_of(study, uri)
    assert found.folder is None
    for part in ("name", "kind", "space", "space_name", "id", "created", "versions", "commit"):
        assert getattr(found, part) == getattr(study, part)
    assert found.data == study.data
    board, expected = leaderboard.rank(found), leaderboard.rank(study)
    assert formats.as_csv(board) == formats.as_csv(expected)
    assert without_times(board) == without_times(expected)
    assert formats.summary(board) == formats.summary(expected)
    for key, record in study.records.items():
        assert found.records[key].params == record.params
        assert found.records[key].config == record.config
        assert found.records[key].error == record.error


def test_the_same_best_config_is_exported_from_server_and_disk(tmp_path, uri):
    study = mixed_study(tmp_path)
    study.tracking_uri = uri
    push(study, uri)
    assert best_yaml(read_study_of(study, uri)) == best_yaml(study)


def test_names_are_not_patterns(tmp_path, uri):
    study = mixed_study(tmp_path, "pattern 1x")
    push(study, uri)
    for name in (
        "pattern 1_",
        "pattern%",
        "PATTERN 1X",
        "pattern 1",
        "%",
        "_",
        "",
        "'",
        '"',
        "a' OR",
    ):
        assert read_study(name, uri) is None
    assert read_study("pattern 1x", uri).id == study.id


def test_the_newest_study_of_a_name_is_read(tmp_path, uri):
    old, new = mixed_study(tmp_path / "a", "twice"), mixed_study(tmp_path / "b", "twice")
    old.created, new.created = 1000.0, 2000.0
    push(new, uri)
    push(old, uri)
    assert read_study("twice", uri).id == new.id


def test_a_study_that_runs_can_be_read(tmp_path, uri):
    study = new_study(tmp_path, name="live one")
    end(study.records["0000"], records.RUNNING, curve(0)[:2])
    push(study, uri, live=True)
    found = read_study("live one", uri)
    assert found.records["0000"].status == records.RUNNING
    assert found.records["0000"].epoch == 2


def test_what_is_not_there_is_not_made_by_looking(tmp_path, uri):
    assert not exists(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    assert exists(uri)
    assert read_study("no such study", uri) is None


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


def test_a_training_of_the_same_name_does_not_hide_the_search(tmp_path, uri):
    study = mixed_study(tmp_path / "search", name="namesakes")
    push(study, uri)
    training = mixed_study(tmp_path / "training", name="namesakes")
    training.kind, training.created = "training", study.created + 1000
    push(training, uri)
    assert read_study("namesakes", uri).id == study.id


def test_a_key_that_was_given_anew_has_nothing_of_the_trial_before(tmp_path, uri):
    """A record that never reached the disk was mirrored all the same."""
    study = mixed_study(tmp_path)
    lost = copy.deepcopy(study)
    lost.records["0002"].config["method"]["alpha"] = 0.0123
    push(lost, uri)
    push(study, uri)
    assert_mirrored(uri, study)
    read = read_study(study.name, uri)
    assert read.records["0002"].config == study.records["0002"].config


def test_a_key_that_is_given_anew_while_the_study_runs_gets_a_run_of_its_own(tmp_path, uri):
    """A driver that was killed had mirrored a trial whose record never reached the disk."""
    study = mixed_study(tmp_path)
    lost = copy.deepcopy(study)
    lost.records["0002"].config["method"]["alpha"] = 0.0123
    lost.records["0009"] = lost.records["0003"]
    lost.records["0009"].key = "0009"
    push(lost, uri, live=True)
    record = study.records.pop("0002")
    mirror = Mirror(study, uri)
    mirror.push(live=True)
    study.records["0002"] = record
    study.records = dict(sorted(study.records.items()))
    mirror.push(live=True)
    mirror.push(live=False)
    runs = {run.data.tags.get("skdtune.trial"): run for run in server_runs(uri, study)}
    assert "RUNNING" not in {run.info.status for run in runs.values()}
    assert runs.pop("0009").info.status == "KILLED", "of which nothing is on disk"
    assert runs.keys() == {None, *study.records}
    assert runs["0002"].data.params["method/alpha"] == str(record.params["method/alpha"])
    history = MlflowClient(uri).get_metric_history(runs["0002"].info.run_id, "val/loss")
    assert len(history) == record.epoch


def test_a_trial_that_the_server_refuses_keeps_no_other_from_it(tmp_path, uri):
    study = mixed_study(tmp_path)
    for epoch in study.records["0001"].epochs:
        epoch["loss/kl(a)"] = 1.0
    with pytest.raises(MlflowException, match="kl"):
        push(study, uri)
    runs = {run.data.tags.get("skdtune.trial"): run for run in server_runs(uri, study)}
    assert runs.keys() == {None, *study.records}
    assert "RUNNING" not in {run.info.status for key, run in runs.items() if key != "0001"}


def test_an_epoch_that_is_trained_again_is_there_once(tmp_path, uri):
    """The disk could not be written, so a resume begins behind what the server has."""
    study = mixed_study(tmp_path)
    record = study.records["0002"]
    record.epochs = curve(2)[:3]
    record.status, record.ended = records.RUNNING, None
    push(study, uri, live=True)
    record.epochs, record.attempts = curve(2)[:2], record.attempts + 1
    push(study, uri, live=True)
    record.epochs = [{**line, metrics.TIMESTAMP: line[metrics.TIMESTAMP] + 9} for line in curve(2)]
    push(study, uri, live=True)
    (run,) = (r for r in server_runs(uri, study) if r.data.tags.get("skdtune.trial") == "0002")
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "val/loss")
    assert sorted(metric.step for metric in history) == list(range(1, len(curve(2)) + 1))
