"""What a lost answer, a cut-off push or a lost record leaves in MLflow, and that the next push
mends it."""

import copy

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from skdtune import leaderboard, records
from skdtune.tracked import read_study
from skdtune.tracking import Mirror
from tests.skdtune.builders import (
    assert_mirrored,
    curve,
    end,
    expected_history,
    mixed_study,
    new_study,
    server_content,
    server_runs,
)
from tests.skdtune.mirrors import parent_and_children, push, read_study_of, without_times
from trainables import metrics


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
