"""A final training on Ray: several runs at once, in processes that die, end as one after the
other."""

import os
import shutil
import signal
from collections import deque
from types import SimpleNamespace

import pytest
import ray
import torch

from skdtune import capacity, cluster, final, records, spread
from skdtune.capacity import Slots
from skdtune.records import Record, Study
from skdtune.settings import Resources
from skdtune.spread import Room, Runner
from skdtune.writer import Writer
from tests.programs import at_once, descendants, title
from tests.skdtune.test_final import CONFIG, again, outcome, training, with_models
from trainables.storage import Folder

RESOURCES = Resources(cpu=1)


@pytest.fixture(scope="module")
def room():
    """Of two runs at once."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield Room(RESOURCES, Slots(RESOURCES, [{"cpu": 2, "gpu": 0}]), "")
    cluster.disconnect()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the two seeds that are trained in this process, on one thread as in Ray's."""
    folder, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    study = training(folder)
    writer = Writer(study)
    desk = final.Desk(study, writer, print)
    final.train(study, list(study.records.values()), desk, torch.device("cpu"))
    writer.close()
    torch.set_num_threads(threads)
    return folder


def spread_out(study: Study, room: Room, say=lambda line: None) -> dict[str, Record]:
    """The records as they are on disk behind it, whatever happens."""
    writer = Writer(study)
    try:
        spread.train(study, list(study.records.values()), final.Desk(study, writer, say), room)
    finally:
        writer.close()
    return records.load(study.folder).records


def runners() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if title(pid).startswith("ray::Runner")]


@pytest.mark.slow
def test_runs_at_once_end_as_those_one_after_the_other(room, alone, tmp_path):
    found = spread_out(with_models(training(tmp_path), alone), room).values()
    assert [(r.status, r.attempts) for r in found] == [("finished", 1)] * 2
    assert at_once(found) == 2
    assert all(record.host and record.device.startswith("CPU, ") for record in found)
    assert outcome(tmp_path) == outcome(alone)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_and_ends_as_the_unbroken_one(
    room, alone, tmp_path, monkeypatch
):
    monkeypatch.setattr(final, "_LINE_EVERY_S", -1.0)
    killed: list[int] = []

    def say(line: str) -> None:
        if not killed and "epoch 1/2" in line:
            killed.extend(runners())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    found = spread_out(with_models(training(tmp_path), alone), room, say)
    assert killed
    assert [record.status for record in found.values()] == ["finished"] * 2
    assert max(record.attempts for record in found.values()) == 2
    assert outcome(tmp_path) == outcome(alone)


@pytest.mark.slow
def test_one_that_is_stopped_goes_on_where_it_was(room, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(final, "_LINE_EVERY_S", -1.0)

    def say(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread_out(with_models(training(tmp_path), alone), room, say)
    assert "running" not in [r.status for r in records.load(Folder(tmp_path)).records.values()]
    found = spread_out(again(tmp_path), room)
    assert [record.status for record in found.values()] == ["finished"] * 2
    assert outcome(tmp_path) == outcome(alone)


class Dies(Runner):
    """Its process ends in the first epoch."""

    def next(self) -> None:
        os._exit(1)


@pytest.mark.slow
def test_a_run_whose_processes_all_die_is_given_up(room, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "Runner", Dies)
    monkeypatch.setattr(spread, "MOST_RETRIES", 1)
    lines: list[str] = []
    (record,) = spread_out(training(tmp_path, 1), room, lines.append).values()
    assert (record.status, record.attempts) == ("failed", 2)
    assert record.error.startswith("its process died: ")
    assert lines == [f"seed-0 failed: {record.error}"]


TAUGHT = {**CONFIG, "method": {"name": "tf_kd_self"}}


def taught_by_itself(folder, seeds: int = 1, **compare) -> Study:
    """Each seed's teacher is trained before it."""
    study = Study("tiny", "training", {"trial": TAUGHT}, "best", folder=Folder(folder))
    final.add_seeds(study, TAUGHT, seeds, compare)
    study.save()
    return study


@pytest.mark.slow
def test_a_teacher_comes_before_those_it_teaches_and_who_fails_leaves_the_others(
    room, alone, tmp_path
):
    study = taught_by_itself(tmp_path, wild={**CONFIG, "optim": {"lr": 1e30}})
    there = tmp_path / "models" / "seed-0" / "mlflow"
    shutil.copytree(alone / "models" / "seed-0" / "mlflow", there)
    lines: list[str] = []
    found = spread_out(study, room, lines.append)
    assert {key: record.status for key, record in found.items()} == {
        "teacher-0": "finished",
        "seed-0": "finished",
        "wild-0": "diverged",
    }
    assert found["seed-0"].started >= found["teacher-0"].ended
    assert any(line.startswith("wild-0 diverged: not finite in epoch 1") for line in lines)


@pytest.mark.slow
def test_without_its_teacher_no_run_is_begun(room, alone, tmp_path):
    study = taught_by_itself(tmp_path, 2)
    study.records["teacher-0"].config["optim"] = {"lr": 1e30}
    there = tmp_path / "models" / "seed-1" / "mlflow"
    shutil.copytree(alone / "models" / "seed-1" / "mlflow", there)
    spread_out(study, room)
    assert study.records["teacher-0"].status == "diverged"
    assert (study.records["seed-0"].status, study.records["seed-0"].attempts) == ("pending", 0)
    assert study.records["seed-1"].status == "finished", "it has a teacher of its own"


@pytest.mark.parametrize(
    ("cause", "most"), [(OSError("gone"), 3), (torch.OutOfMemoryError("CUDA out of memory"), 1)]
)
def test_a_run_is_tried_again_a_few_times_in_one_epoch_after_a_pause(tmp_path, cause, most):
    record = next(iter(training(tmp_path).records.values()))
    retries = spread._Retries()
    assert all(retries.grant(record, cause, is_node_alive=False) for _ in range(9))
    assert retries.may_start(record), "a node that is gone was no fault of its own"
    assert [retries.grant(record, cause, True) for _ in range(most + 1)] == [True] * most + [False]
    assert not retries.may_start(record)
    record.epochs.append({"epoch": 1})
    assert retries.grant(record, cause, True), "it has come further"


class LacksMemory(Runner):
    def next(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.slow
def test_a_run_without_memory_is_tried_once_more_and_says_what_to_change(
    room, tmp_path, monkeypatch
):
    monkeypatch.setattr(spread, "Runner", LacksMemory)
    (record,) = spread_out(training(tmp_path, 1), room).values()
    assert (record.status, record.attempts) == ("failed", 2)
    assert record.error == (
        "out of memory: lower trial.data.batch_size, or raise resources.gpu; "
        "OutOfMemoryError: CUDA out of memory"
    )


def test_a_seed_may_start_when_its_own_teacher_is_done(tmp_path):
    study = taught_by_itself(tmp_path, 3)
    desk = final.Desk(study, None, print)
    waiting = deque(record for record in study.records.values() if record.role == records.SEED)
    statuses = {"teacher-0": "running", "teacher-1": "finished", "teacher-2": "failed"}
    for key, status in statuses.items():
        study.records[key].status = status
    assert [record.key for record in spread._next(waiting, desk, spread._Retries(), 5)] == [
        "seed-1"
    ]
    assert [record.key for record in waiting] == ["seed-0"], "one that will never be is dropped"


@pytest.mark.parametrize(
    ("asked", "offer", "expected"),
    [
        ({"cpu": 1}, {"cpu": 4, "gpu": 0}, True),
        ({"cpu": 4}, {"cpu": 4, "gpu": 0}, False),
        ({"cpu": 64}, {"cpu": 4, "gpu": 0}, False),
        ({"cpu": 1, "gpu": 0.25}, {"cpu": 4, "gpu": 1}, True),
        ({"cpu": 1, "gpu": 1}, {"cpu": 4, "gpu": 1}, False),
        ({"cpu": 1, "gpu": 1}, {"cpu": 16, "gpu": 8}, True),
    ],
)
def test_ray_is_wanted_where_several_runs_fit_at_once(monkeypatch, asked, offer, expected):
    monkeypatch.setattr(capacity, "offered", lambda: [offer])
    space = SimpleNamespace(resources=Resources(**asked))
    assert spread.is_of_use(space, cluster.LOCAL, 2) is expected
    assert spread.is_of_use(space, cluster.LOCAL, 1) is False
    assert spread.is_of_use(space, "auto", 1) is True
