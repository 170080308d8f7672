"""Trials that fail: what ends one, what another attempt may mend, and after how many it is given
up."""

import errno
import json
import socket
from types import SimpleNamespace

import pytest
import torch

from tests.trainables.tiny import config
from tests.trainables.trials import given, reader, steps
from trainables import attempts, checkpoint, classifier
from trainables.attempts import MOST_RETRIES, Attempts, KeepsFailing
from trainables.checkpoint import CHECKPOINTS
from trainables.classifier import DIVERGED, FAILED, FINISHED, OUTCOME, STORAGE_FULL, UnfitNode
from trainables.sources import DataError
from trainables.storage import Folder
from trainables.training import Training

pytestmark = pytest.mark.usefixtures("quick_collection")


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

    def tried(session: str) -> tuple[int, dict]:
        for tries in range(20):
            try:
                return tries, start(given(tmp_path, trial, session=session)).train()
            except kind:
                continue
        raise AssertionError("never given up")

    tries, result = tried("one")
    assert result[OUTCOME] == FAILED
    assert result["error"].startswith(f"KeepsFailing: {kind.__name__}: ")
    assert result["error"].endswith(f"gone ({tries} times in epoch 1)")
    assert result["done"]
    assert tried("two")[0] == tries  # a resumed study gives it as many attempts again


def test_attempts_that_get_further_are_not_counted(start, trained, tmp_path):
    trial = config(epochs=8)
    for _ in range(7):  # the process goes away after each epoch
        start(given(tmp_path, trial, after=len(trained))).train()
    assert steps(start(given(tmp_path, trial, after=7)))[-1][OUTCOME] == FINISHED
    assert trained == list(range(1, 9))


def test_where_the_log_of_a_process_that_died_lies_is_no_part_of_its_error(tmp_path, monkeypatch):
    """Three first trials that die alike stop a search, and no two have one log."""
    study = Folder(tmp_path)
    monkeypatch.setattr(attempts, "_log", lambda: "/tmp/ray/logs/worker-5eed.err")
    told = [Attempts(study, "k1", "s1", None).begin(0, lambda node: False) for _ in range(4)]
    died = "its process died, or stood still and was ended"
    where = f"; its log is /tmp/ray/logs/worker-5eed.err on {socket.gethostname()}"
    assert told == ["", *[died + where] * 3]
    with pytest.raises(KeepsFailing, match=rf"^{died} \(4 times in epoch 1\)$"):
        Attempts(study, "k1", "s1", None).begin(0, lambda node: False)
