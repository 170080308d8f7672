"""Several trials on one device, measured; on a CPU here."""

import math
import multiprocessing

import pytest
import torch

from trainables import calibration
from trainables.calibration import Load

CPU = torch.device("cpu")
CONFIG = {
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "small_cnn"},
    "method": {"name": "drg_dsr"},
    "optim": {"lr": 0.01},
    "epochs": 3,
}


@pytest.mark.slow
def test_trials_are_measured_side_by_side_and_nothing_is_left():
    loads = calibration.measure(CONFIG, 10, (1, 8, 8), CPU, together=(1, 2), seconds=0.2)
    assert [load.trials for load in loads] == [1, 2]
    assert [load.problem for load in loads] == ["", ""]
    assert all(load.images_per_s > 0 for load in loads)
    assert loads[1].memory_gib > 1.5 * loads[0].memory_gib > 0.1
    assert multiprocessing.active_children() == []


def test_what_is_measured_is_computed_as_a_trial_is(monkeypatch):
    asked = {**CONFIG, "precision": "float32", "channels_last": False, "compile": True}
    seen, inner = [], calibration._processes

    def processes(count, sections, device, threads):
        seen.append(sections)
        return inner(0, sections, device, threads)

    monkeypatch.setattr(calibration, "_processes", processes)
    monkeypatch.setattr(calibration, "_load", lambda *arguments: Load(1, 1.0, 1.0))
    calibration.measure(asked, 10, (1, 8, 8), CPU, together=[1])
    assert asked.items() <= {**seen[0], "data": asked["data"], "epochs": asked["epochs"]}.items()


@pytest.mark.slow
def test_what_does_not_fit_is_said_and_ends_it():
    config = {**CONFIG, "model": {"name": "no_such_network"}}
    (load,) = calibration.measure(config, 10, (1, 8, 8), CPU, together=(1, 2), seconds=0.1)
    assert load.trials == 1
    assert "no_such_network" in load.problem
    assert math.isnan(load.images_per_s)


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [((100, 150, 200), 4), ((100, 196, 200), 2), ((100, 99, 60), 1), ((100, 104, 103), 1)],
)
def test_the_fewest_that_are_nearly_as_fast_are_recommended(speeds, expected):
    loads = [Load(count, speed, 1.0) for count, speed in zip((1, 2, 4), speeds, strict=True)]
    assert calibration.best(loads).trials == expected


def test_a_number_that_did_not_fit_is_not_recommended():
    loads = [Load(1, 10.0, 1.0), Load(2, 30.0, 2.0), Load(4, math.nan, math.nan, "out of memory")]
    assert calibration.best(loads).trials == 2
