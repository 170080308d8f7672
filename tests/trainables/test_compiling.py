"""torch.compile changes no result beyond rounding, and trials of one process share what it made."""

import gc
import shutil
import weakref

import pytest
import torch
from torch._dynamo.utils import counters

from tests.trainables.tiny import config
from trainables import metrics
from trainables.checkpoint import Checkpoints
from trainables.shipping import ship
from trainables.storage import Folder
from trainables.training import Training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++; .ci/run installs it"),
]
CPU = torch.device("cpu")


def trial(alpha: float, **changes) -> dict:
    method = {"name": "drg_dsr", "alpha": alpha}
    return config(method=method, precision="float32", **changes)


def losses(training: Training, checkpoints: Checkpoints | None = None) -> list[float]:
    return [report[metrics.LOSS_TOTAL] for report in training.epochs(checkpoints)]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_compiled_trials_give_what_others_give_and_share_what_was_compiled(tmp_path):
    before = graphs()
    compiled = Training(**trial(0.2), compile=True, device=CPU)
    checkpoints = Checkpoints(Folder(tmp_path), "k")
    found = losses(compiled, checkpoints)
    assert found == pytest.approx(losses(Training(**trial(0.2), device=CPU)), rel=1e-4)
    made = graphs()
    assert made - before >= 2, "something was compiled"

    other = Training(**trial(1.5, seed=3), compile=True, device=CPU)
    found = losses(other)
    assert found == pytest.approx(losses(Training(**trial(1.5, seed=3), device=CPU)), rel=1e-4)
    assert graphs() == made, "for another weight of the loss nothing is compiled again"

    plain = Training(**trial(0.2), device=CPU)
    plain.resume(checkpoints)
    assert plain.epoch == compiled.epoch
    images = compiled.sets.train.pixels[:4].float() / 255
    shipped = [ship(each.method, each.sets)(images) for each in (plain, compiled)]
    torch.testing.assert_close(*shipped, rtol=1e-4, atol=1e-4)
    assert graphs() == made, "what is shipped is compiled nowhere"

    gone = weakref.ref(other.method)
    del other
    gc.collect()
    assert gone() is None, "what was compiled holds no network of an ended trial"
