"""What every test of the training shares: the CPU, one thread, no data left from another test;
and what those of the Ray trainable share: quick starts, and the epochs that were trained."""

import gc

import pytest
import torch

from trainables import data
from trainables.training import Training


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # equal to the bit: CPU only
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data._build.cache_clear()
    yield
    data._build.cache_clear()


@pytest.fixture(scope="module")
def quick_collection():
    """The trainable collects garbage between trials: not that of all modules imported so far."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Starts a trainable as Ray does and stops it after the test."""
    # not at the top: pytest reads this file before it calls `environment.prepare`
    import ray.tune.trainable.trainable as trainable_module

    from trainables import classifier
    from trainables.classifier import ClassifierTrial

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
