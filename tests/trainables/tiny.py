"""Small real things that several test files need: configs, batches, fixed logits."""

import atexit
import copy
import functools
import inspect
import json
import shutil
import tempfile
import typing
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables import methods, metrics, models, shipping

VECTORS = json.loads((Path(__file__).parents[1] / "method_vectors.json").read_text())
NOT_REPEATED = {  # what two equal trainings need not share
    metrics.EPOCH_SECONDS,
    metrics.IMAGES_PER_SECOND,
    metrics.PEAK_MEMORY,
    metrics.TIMESTAMP,
}


class Fixed(nn.Module):
    """A head whose logits are its parameter, whatever comes in."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, features: Tensor) -> Tensor:
        return self.logits


def fixed_classifier(logits: Tensor) -> models.Classifier:
    """Two stages that change nothing, then the logits given."""
    return models.Classifier(
        [nn.Identity(), nn.Identity()], Fixed(logits), (1, 1), classes=logits.shape[1]
    )


def config(**sections) -> dict:
    """A trial of a few milliseconds an epoch; sections given are merged into the small ones."""
    base = {
        "data": {"name": "synthetic", "images": 48, "batch_size": 16},
        "augment": {"crop_padding": 1},
        "model": {"name": "small_cnn", "width": 4},
        "method": {"name": "drg_dsr"},
        "optim": {"lr": 0.05},
        "epochs": 3,
        "precision": "float32",
    }
    for name, value in sections.items():
        changed = isinstance(value, dict) and value.get("name") not in (None, _name(base, name))
        if isinstance(value, dict) and not changed:
            base[name] = {**base[name], **value}
        else:
            base[name] = value
    return copy.deepcopy(base)


def batch(count: int = 8, size: int = 8, channels: int = 3, classes: int = 4, seed: int = 0):
    """Random images and labels.  # [B, C, H, W], [B]"""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((count, channels, size, size), generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


def repeated(reports: list[dict]) -> list[dict]:
    """Reports without times and memory."""
    return [
        {name: value for name, value in report.items() if name not in NOT_REPEATED}
        for report in reports
    ]


def same(one, other) -> bool:
    """Whether two states are equal to the bit, tensors and all."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def method_settings() -> list[tuple[str, dict]]:
    """Every method with its defaults, and once for each choice of each switch it has."""
    cases = []
    for name, kind in methods.classes().items():
        cases.append((name, {}))
        hints = typing.get_type_hints(kind.__init__)
        for key, parameter in inspect.signature(kind).parameters.items():
            hint = hints.get(key)
            choices = (True, False) if hint is bool else ()
            choices = (
                typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else choices
            )
            cases += [(name, {key: choice}) for choice in choices if choice != parameter.default]
    return cases


@functools.cache
def required(method: str, channels: int = 3) -> dict:
    """What a method cannot be built without: a teacher of 4 classes of 8x8 images."""
    if "teacher" not in inspect.signature(methods.classes()[method]).parameters:
        return {}
    folder = _teachers() / str(channels)
    torch.manual_seed(0)
    network = models.build("small_cnn", 4, (channels, 8, 8), width=4).eval()
    shipped = shipping.Shipped(network, torch.zeros(channels), torch.ones(channels), tuple("0123"))
    shipping.save(folder, shipped, {"name": "small_cnn", "width": 4}, (channels, 8, 8))
    return {"teacher": str(folder)}


@functools.cache
def _teachers() -> Path:
    folder = tempfile.mkdtemp(prefix="skdtune-teachers-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _name(base: dict, section: str) -> str | None:
    return base[section].get("name") if isinstance(base.get(section), dict) else None
