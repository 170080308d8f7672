"""Workers that read images, inside an actor of Ray: they start, make what they should, and end."""

import copy
import gc

import pytest
import ray

from tests.trainables.layouts import folder
from tests.trainables.tiny import config, repeated
from tests.trainables.workers import gone, workers_of
from trainables import data
from trainables.classifier import ClassifierTrial
from trainables.training import Training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    gc.collect()


@pytest.fixture
def trial(tmp_path) -> dict:
    folder(tmp_path / "set", each=9)
    images = {"name": "imagefolder", "root": str(tmp_path / "set"), "image_size": 72}
    small = config(data={**images, "batch_size": 8, "workers": 2}, epochs=3)
    del small["augment"]["crop_padding"]
    return small


def run_of(trial: dict, study, key: str) -> dict:
    run = {"key": key, "identity": key, "study": str(study), "after": 0, "threads": 1}
    run |= {
        "session": "s",
        "device": "cpu",
        "images": None,
        "silence_s": 60.0,
        "watched": ["epoch"],
    }
    return {"trial": trial, "run": run}


def test_a_reused_actor_trains_trial_after_trial_and_leaves_no_worker(trial, tmp_path):
    other = copy.deepcopy(trial)
    other["seed"] = 7
    expected = [repeated(list(Training(**each).epochs())) for each in (trial, other)]
    data.forget()
    actor = ray.remote(num_cpus=1)(ClassifierTrial).remote(run_of(trial, tmp_path, "k0"))
    results = [ray.get(actor.train.remote(), timeout=120) for _ in range(3)]
    assert repeated([dict(result["report"]) for result in results]) == expected[0]
    first = workers_of(results[0]["worker"])
    assert len(first) == 2
    assert ray.get(actor.reset.remote(run_of(other, tmp_path, "k1")), timeout=60)
    assert gone(first)
    results = [ray.get(actor.train.remote(), timeout=60) for _ in range(2)]
    assert repeated([dict(result["report"]) for result in results]) == expected[1][:2]
    second = workers_of(results[0]["worker"])
    assert len(second) == 2
    assert not first & second
    ray.kill(actor)
    assert gone(second)
