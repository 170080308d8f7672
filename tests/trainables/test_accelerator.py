"""Training as a GPU would meet it: nothing of the host among its tensors, and no waiting."""

import pytest
import torch

from tests.trainables import layouts
from tests.trainables.accelerator import DEVICE, Accelerator, stand_in
from tests.trainables.tiny import config, method_settings, required
from trainables import methods
from trainables.losses import cross_entropy
from trainables.training import Training

_EVERY = method_settings()
_IDS = [f"{name}-{'-'.join(map(str, settings.values()))}" for name, settings in _EVERY]


def second_epoch(**sections) -> Accelerator:
    """What the device sees of one, after a first that may look at more."""
    trial = config(**sections)
    with Accelerator() as device:
        reports = Training(**trial, final=True, device=DEVICE).epochs()
        next(reports)
        device.waits.clear()
        next(reports)
    return device


def made(batches: int, method: dict) -> Accelerator:
    data = {"images": 16 * batches, "classes": 4, "image_size": 8}
    return second_epoch(data=data, augment={"cutout": 4}, method=method)


@pytest.mark.parametrize(("name", "settings"), _EVERY, ids=_IDS)
def test_no_method_mixes_devices_or_waits_for_a_batch(name, settings, monkeypatch):
    stand_in(monkeypatch)
    few, more = (made(batches, {"name": name, **required(name), **settings}) for batches in (1, 2))
    assert few.mixed == more.mixed == []
    assert few.waits == more.waits
    assert len(more.waits) <= 3  # the losses, the scores, and how many images a class has


def test_batches_out_of_files_are_not_waited_for(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    seen = []
    for each in (4, 8):
        for part in ("train", "test"):
            layouts.folder(tmp_path / str(each) / part, each=each)
        root = str(tmp_path / str(each))
        data = {"name": "imagefolder", "root": root, "image_size": 72, "workers": 0}
        seen.append(second_epoch(data={**data, "batch_size": 4}, augment={"crop_padding": 0}))
    few, more = seen
    assert few.mixed == more.mixed == []
    assert few.waits == more.waits
    assert len(more.waits) <= 5  # and the seed of the crops, and the labels of both parts


class Careless(methods.Method):
    """Asks for a number in each batch, and counts with weights that stay on the host."""

    def losses(self, images, labels):
        logits = self(images)
        weight = float(logits.detach().max())
        return logits, {"ce": weight * cross_entropy(logits * torch.ones(4), labels)}


def test_a_method_that_waits_and_mixes_is_seen(monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(methods, "build", lambda name, model: Careless(model))
    training = Training(**config(data={"classes": 4, "image_size": 8}), device=DEVICE)
    with Accelerator() as device, pytest.raises(RuntimeError, match="expected device meta"):
        next(training.epochs())
    assert len(device.waits) == 1
    assert len(device.mixed) == 1
