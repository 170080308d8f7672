"""The Ray trainable, used without a cluster: what it reports, what it skips and what it forgets."""

import gc
import os
import weakref

import pytest
import torch

from tests.trainables.tiny import config, repeated, same
from tests.trainables.trials import WATCHED, given, reports_of, steps
from trainables import classifier
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.classifier import FINISHED, OUTCOME
from trainables.storage import Folder
from trainables.training import Training

pytestmark = pytest.mark.usefixtures("quick_collection")


def test_a_report_an_epoch_equal_to_the_loops(start, tmp_path):
    results = steps(start(given(tmp_path)))
    assert [result["epoch"] for result in results] == [1, 2, 3]
    assert [result["done"] for result in results] == [False, False, True]
    assert [result.get(OUTCOME) for result in results] == [None, None, FINISHED]
    expected = repeated(list(Training(**config()).epochs()))
    assert reports_of(results) == expected
    for result in results:
        assert isinstance(result["report"], list)  # into a dict Tune would look
        report = dict(result["report"])
        shown = {name: result[name] for name in report if name in result}
        assert shown == {name: report[name] for name in WATCHED}
        assert result["worker"] == os.getpid()
        assert result["host"]
        assert result["device"].startswith("CPU, ")
        assert result["warnings"] == []


def test_checkpoints_are_in_the_trials_own_folder(start, tmp_path):
    steps(start(given(tmp_path, key="k7")))
    assert set(Folder(tmp_path).names()) == {CHECKPOINTS, "ray"}
    assert Folder(tmp_path).names(CHECKPOINTS) == ["k7"]
    names = Folder(tmp_path).names(f"{CHECKPOINTS}/k7")
    assert [name for name in names if "epoch" in name] == ["epoch_000002", "epoch_000003"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_attempt_reports_what_the_record_lacks_and_trains_what_no_checkpoint_holds(
    start, trained, tmp_path, after
):
    first = start(given(tmp_path))
    begun = [first.train(), first.train()]
    assert trained == [1, 2]
    results = steps(start(given(tmp_path, after=after)))
    assert trained == [1, 2, 3]
    assert [result["epoch"] for result in results] == list(range(after + 1, 4))
    if after < 2:  # what is reported again is what was reported, times and all
        assert results[0]["report"] == begun[after]["report"]
    expected = repeated(list(Training(**config()).epochs()))[after:]
    assert reports_of(results) == expected


def test_a_finished_trial_reports_its_last_epoch_and_trains_nothing(start, trained, tmp_path):
    results = steps(start(given(tmp_path)))
    (again,) = steps(start(given(tmp_path, after=3)))
    assert trained == [1, 2, 3]
    assert again["report"] == results[-1]["report"]
    assert again[OUTCOME] == FINISHED


def test_lost_checkpoints_are_trained_again_but_not_reported_again(start, trained, tmp_path):
    results = steps(start(given(tmp_path, after=2)))
    assert trained == [1, 2, 3]
    assert [result["epoch"] for result in results] == [3]


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(start, trained, tmp_path):
    first = start(given(tmp_path))
    first.train()
    first.train()
    (tmp_path / CHECKPOINTS / "k1" / "epoch_000002" / "state.pt").write_bytes(b"x")
    results = steps(start(given(tmp_path, after=2)))
    assert trained == [1, 2, 2, 3]
    assert "epoch_000002 skipped" in results[0]["warnings"][0]


def test_a_reused_process_starts_clean(start, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    other = config(method={"name": "cross_entropy"}, optim={"lr": 0.5}, seed=4)
    trainable = start(given(tmp_path / "one", other, key="before"))
    trainable.train()
    used = trainable.reports.gi_frame.f_locals["self"]
    old, weights = weakref.ref(used), used.method.state_dict()
    del used
    assert trainable.reset(given(tmp_path / "one", key="after"))
    gc.collect()
    assert old() is None
    results = steps(trainable)
    fresh = steps(start(given(tmp_path / "two", key="after")))
    assert reports_of(results) == reports_of(fresh)
    states = [
        Checkpoints(Folder(tmp_path / name / CHECKPOINTS / "after"), "after").latest()
        for name in ("one", "two")
    ]
    assert same(states[0]["method"], states[1]["method"])
    assert not same(states[0]["method"]["model.head.2.bias"], weights["model.head.2.bias"])


def test_what_was_there_before_the_first_trial_is_not_looked_through_again(start, tmp_path):
    gc.unfreeze()
    start(given(tmp_path))

    assert gc.get_freeze_count() > 100_000  # torch's own objects alone are more
    assert len(gc.get_objects()) < gc.get_freeze_count() / 10


def test_stopping_forgets_the_training(start, tmp_path):
    trainable = start(given(tmp_path))
    trainable.train()
    old = weakref.ref(trainable.reports.gi_frame.f_locals["self"])
    trainable.cleanup()
    gc.collect()
    assert old() is None


def test_threads_are_those_asked_for(start, tmp_path):
    run = given(tmp_path, config(epochs=1))
    run["run"]["threads"] = 2
    start(run).train()
    assert torch.get_num_threads() == 2


def test_the_config_given_is_left_as_it_was(start, tmp_path):
    run = given(tmp_path)
    before = given(tmp_path)
    steps(start(run))
    assert run == before


def test_no_other_file_of_the_package_knows_ray():
    folder = os.path.dirname(classifier.__file__)
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py") and name != "classifier.py":
                with open(os.path.join(place, name)) as file:
                    lines = file.read().splitlines()
                assert not [
                    line for line in lines if line.lstrip().startswith(("import ray", "from ray"))
                ]
