"""The Ray trainable, used without a cluster: what it reports, skips, forgets and survives."""

import errno
import gc
import json
import os
import subprocess
import sys
import time
import weakref
from types import SimpleNamespace

import pytest
import ray.tune.trainable.trainable as trainable_module
import torch

from tests.trainables.tiny import config, repeated, same
from trainables import checkpoint, classifier, sources, watchdog
from trainables.attempts import MOST_RETRIES
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.classifier import (
    DIVERGED,
    FAILED,
    FINISHED,
    OUTCOME,
    STORAGE_FULL,
    ClassifierTrial,
    UnfitNode,
)
from trainables.sources import DataError
from trainables.storage import Folder
from trainables.training import Training

WATCHED = ["epoch", "val/accuracy"]


def given(study, trial=None, key="k1", after=0, session="s1") -> dict:
    run = {
        "key": key,
        "identity": key,
        "study": str(study),
        "after": after,
        "threads": 1,
        "session": session,
        "device": "cpu",
        "images": None,
        "silence_s": 60.0,
        "watched": WATCHED,
    }
    return {"trial": trial or config(), "run": run}


def reports_of(results: list[dict]) -> list[dict]:
    return repeated([dict(result["report"]) for result in results])


def steps(trainable: ClassifierTrial) -> list[dict]:
    """All results until it is done."""
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    return results


@pytest.fixture(scope="module", autouse=True)
def _quick_collection():
    """The trainable collects garbage between trials: not that of all modules imported so far."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts a trainable as Ray does and stops it after the test."""
    monkeypatch.setattr(trainable_module, "DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    monkeypatch.setattr(classifier, "_NODE_PAUSE_S", 0.0)
    started = []

    def start(run: dict) -> ClassifierTrial:
        started.append(ClassifierTrial(run))
        return started[-1]

    yield start
    for trainable in started:
        trainable.stop()


@pytest.fixture
def trained(monkeypatch):
    """The epochs that were really trained, one entry each."""
    epochs, inner = [], Training._one_epoch

    def counted(self):
        epochs.append(self.epoch + 1)
        return inner(self)

    monkeypatch.setattr(Training, "_one_epoch", counted)
    return epochs


def reader(monkeypatch, error: BaseException) -> dict:
    """A config whose data set raises the error when it is read."""

    def broken(root):
        raise error

    known = {**sources.readers(), "broken": broken}
    monkeypatch.setattr(sources, "readers", lambda: known)
    return config(data={"name": "broken"})


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


def test_a_diverged_trial_ends_with_its_outcome(start, tmp_path):
    (result,) = steps(start(given(tmp_path, config(optim={"lr": 1e30}))))
    assert result[OUTCOME] == DIVERGED
    assert result["error"].startswith("not finite in epoch 1: ")
    assert "epoch" not in result
    assert "report" not in result


def test_the_user_s_mistake_ends_its_trial_with_the_message(start, tmp_path):
    (result,) = steps(start(given(tmp_path, config(model={"name": "resnet0"}))))
    assert result[OUTCOME] == FAILED
    assert result["error"].startswith("KeyError: 'resnet0'")
    assert "Traceback" in result["details"]


def test_a_node_without_the_images_or_with_others_is_left_to_another_attempt(start, tmp_path):
    missing = config(data={"name": "imagefolder", "root": str(tmp_path / "missing")})
    with pytest.raises(DataError, match="missing: no such folder"):
        start(given(tmp_path, missing)).train()
    run = given(tmp_path, key="k2")
    run["run"]["images"] = "of the study"
    with pytest.raises(UnfitNode, match=r"images or labels on .* are not the study's"):
        start(run).train()
    run["run"]["images"] = Training(**config()).sets.fingerprint()
    assert steps(start(run))[-1][OUTCOME] == FINISHED


def test_a_node_that_does_not_see_the_study_is_left_and_nothing_written_there(start, tmp_path):
    for _ in range(2):
        with pytest.raises(UnfitNode, match="elsewhere, the study, is not seen on "):
            start(given(tmp_path / "elsewhere")).train()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, AssertionError])
def test_a_bug_ends_its_trial_and_not_the_search(start, monkeypatch, tmp_path, kind):
    trial = reader(monkeypatch, kind("two\n  lines"))
    (result,) = steps(start(given(tmp_path, trial)))
    assert result[OUTCOME] == FAILED
    assert result["error"].startswith(f"{kind.__name__}: ")
    assert "\n" not in result["error"]


@pytest.mark.parametrize("kind", [OSError, ConnectionResetError, PermissionError])
def test_what_another_attempt_may_mend_is_raised(start, monkeypatch, tmp_path, kind):
    trainable = start(given(tmp_path, reader(monkeypatch, kind(5, "gone"))))
    with pytest.raises(kind, match="gone"):
        trainable.train()


def test_out_of_memory_is_tried_once_more_and_says_what_to_change(start, monkeypatch, tmp_path):
    """A neighbour on the same GPU may have taken it."""
    text = "CUDA out of memory. Tried to allocate 2 GiB. " + 30 * "Process 7 has 3 GiB in use. "
    error = torch.OutOfMemoryError(text)
    trial = reader(monkeypatch, error)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            start(given(tmp_path, trial)).train()
    (result,) = steps(start(given(tmp_path, trial)))
    assert result[OUTCOME] == FAILED
    hint = "lower trial.data.batch_size, or raise resources.gpu"
    assert result["error"].startswith(
        f"KeepsFailing: out of memory: {hint}; OutOfMemoryError: CUDA"
    )


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("No CUDA GPUs are available", True),
        (
            "Unexpected error from cudaGetDeviceCount(). Error 807: MPS client failed to connect",
            True,
        ),
        ("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR", True),
        ("CUDA driver error: device-side assert triggered", True),
        ("Expected all tensors to be on the same device, cuda:0 and cpu!", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_an_error_of_the_gpu_wants_another_process(start, monkeypatch, tmp_path, text, passes):
    trainable = start(given(tmp_path, reader(monkeypatch, RuntimeError(text))))
    if passes:
        with pytest.raises(RuntimeError, match=r"CUDA|cuda|cuDNN|cusolver|engine"):
            trainable.train()
    else:
        assert trainable.train()[OUTCOME] == FAILED


def test_what_a_compiler_refuses_is_not_the_gpus():
    from torch._inductor.exc import GPUTooOldForTriton

    properties = SimpleNamespace(name="K80", major=3, minor=7)
    error = GPUTooOldForTriton(properties, None)
    assert "CUDA" in str(error)
    assert not classifier.is_of_the_gpu(error)


def test_a_full_storage_is_not_the_trials_failure(start, monkeypatch, tmp_path):
    """Nothing of what was saved is lost, and the trial goes on from there when there is room."""
    trainable = start(given(tmp_path))
    trainable.train()
    write = Folder.write

    def full(self, name, data):
        if name.startswith("epoch_"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", full)
    result = trainable.train()
    assert (result[OUTCOME], result["done"]) == (STORAGE_FULL, True)
    assert "No space left" in result["error"]
    monkeypatch.setattr(Folder, "write", write)
    results = steps(start(given(tmp_path, after=1)))
    assert [result["epoch"] for result in results] == [2, 3]


def test_a_storage_that_does_not_answer_costs_no_checkpoint(start, trained, monkeypatch, tmp_path):
    first = start(given(tmp_path))
    first.train()
    first.train()
    monkeypatch.setattr(checkpoint, "_PAUSES_S", (0.0, 0.0))
    read, refused = Folder.read, []

    def stale(self, name):
        if name.endswith("state.pt") and len(refused) < 3:
            refused.append(name)
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self, name)

    monkeypatch.setattr(Folder, "read", stale)
    with pytest.raises(OSError, match="Stale"):
        start(given(tmp_path, after=2)).train()
    refused.clear()
    refused.append("once is forgiven")
    results = steps(start(given(tmp_path, after=2)))
    assert trained == [1, 2, 3]
    assert results[-1]["warnings"] == []


HANGS = """
import ctypes, sys
import torch._dynamo  # else the first optimizer imports it, for longer than the silence below
from trainables.classifier import ClassifierTrial
from trainables.methods.cross_entropy import CrossEntropy
from tests.trainables.test_classifier import given

losses, calls = CrossEntropy.losses, []

def stuck(self, images, labels):
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        ctypes.PyDLL(None).sleep(600)  # in C, with Python's lock held
    return losses(self, images, labels)

CrossEntropy.losses = stuck
run = given(sys.argv[1])
run["trial"]["method"] = {"name": "cross_entropy"}
run["run"]["silence_s"] = 2.0
ClassifierTrial(run).train()
"""


@pytest.mark.parametrize("batch", [1, 2])
def test_a_process_that_stands_still_ends_and_where_is_kept_with_the_study(start, tmp_path, batch):
    began, log = time.monotonic(), tmp_path / "worker.err"  # as Ray has one of each process
    with log.open("wb") as errors:
        done = subprocess.run(
            [sys.executable, "-c", HANGS, str(tmp_path), str(batch)],
            env={**os.environ, "HOME": str(tmp_path)},
            stderr=errors,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert time.monotonic() - began < 100
    result = start(given(tmp_path)).train()
    told = "its process stood still and was ended; stood_still/k1.txt says where"
    assert result["warnings"] == [told]
    dump = (tmp_path / "stood_still" / "k1.txt").read_text()
    assert dump.startswith("Timeout (0:00:02)!")
    assert "in stuck" in dump
    resumed = given(tmp_path, after=1, session="s2")  # who ends with its driver is not told of
    assert start(resumed).train()["warnings"] == []


def test_between_epochs_a_process_may_wait_as_long_as_it_likes(start, monkeypatch, tmp_path):
    """The clock is set while an epoch runs, and off when it is reported."""
    calls = []
    monkeypatch.setattr(
        watchdog.faulthandler, "dump_traceback_later", lambda *a, **k: calls.append("set")
    )
    monkeypatch.setattr(
        watchdog.faulthandler, "cancel_dump_traceback_later", lambda: calls.append("off")
    )
    trainable = start(given(tmp_path))
    for _ in range(3):
        calls.clear()
        trainable.train()
        assert calls[0] == "set"
        assert calls[-1] == "off"


def test_a_trial_after_a_failed_one_runs(start, monkeypatch, tmp_path):
    trainable = start(given(tmp_path, reader(monkeypatch, ValueError("x"))))
    steps(trainable)
    trainable.reset(given(tmp_path, key="next"))
    assert steps(trainable)[-1][OUTCOME] == FINISHED


def test_a_start_on_a_node_that_is_gone_does_not_count(start, monkeypatch, tmp_path):
    trial = reader(monkeypatch, ConnectionResetError(104, "gone"))
    monkeypatch.setattr(classifier, "_is_gone", lambda node: True)
    for _ in range(3 * MOST_RETRIES):
        with pytest.raises(ConnectionResetError):
            start(given(tmp_path, trial)).train()
    noted = json.loads((tmp_path / CHECKPOINTS / "k1" / "attempt.json").read_text())
    assert noted["starts"] == [None]


@pytest.mark.parametrize("kind", [ConnectionResetError, RuntimeError])
def test_a_trial_that_fails_again_and_again_in_one_epoch_is_given_up(
    start, monkeypatch, tmp_path, kind
):
    trial = reader(monkeypatch, kind("CUDA error: gone"))

    def attempts(session: str) -> tuple[int, dict]:
        for tries in range(20):
            try:
                return tries, start(given(tmp_path, trial, session=session)).train()
            except kind:
                continue
        raise AssertionError("never given up")

    tries, result = attempts("one")
    assert result[OUTCOME] == FAILED
    assert result["error"].startswith(f"KeepsFailing: {kind.__name__}: ")
    assert result["error"].endswith(f"gone ({tries} times in epoch 1)")
    assert result["done"]
    assert attempts("two")[0] == tries  # a resumed study gives it as many attempts again


def test_attempts_that_get_further_are_not_counted(start, trained, tmp_path):
    trial = config(epochs=8)
    for _ in range(7):  # the process goes away after each epoch
        start(given(tmp_path, trial, after=len(trained))).train()
    assert steps(start(given(tmp_path, trial, after=7)))[-1][OUTCOME] == FINISHED
    assert trained == list(range(1, 9))


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
