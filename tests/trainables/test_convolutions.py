"""Gradients of weights as matrix products are those of torch's own convolutions."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from tests.trainables.tiny import config
from trainables import convolutions
from trainables.convolutions import WeightGradients, weight_gradients
from trainables.training import Training

CPU = torch.device("cpu")
LAYERS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1x1 with stride": {"kernel_size": 1, "stride": 2},
    "oblong": {"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)},
    "no padding": {"kernel_size": 2},
    "bias": {"kernel_size": 3, "padding": 1, "bias": True},
}
OTHERS = {
    "grouped": {"kernel_size": 3, "groups": 2},
    "dilated": {"kernel_size": 2, "dilation": 2},
    "padding by name": {"kernel_size": 3, "padding": "same"},
}


def passed(layer: nn.Conv2d, images: torch.Tensor, entered, autocast=True) -> list[torch.Tensor]:
    """What comes out, and the gradients of the images and of every parameter."""
    layer, images = copy.deepcopy(layer), images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), entered:
        maps = layer(images)
    torch.manual_seed(1)
    (maps.float() * torch.randn(maps.shape)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return [maps.detach(), images.grad, *gradients]


def case(layout=torch.channels_last, channels=192, **settings) -> tuple[nn.Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 256, **{"bias": False, **settings}).to(memory_format=layout)
    return layer, torch.randn(8, channels, 6, 5).to(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)
def test_they_are_torchs_own_within_rounding(settings, layout):
    layer, images = case(layout, **settings)
    exact = passed(layer, images, contextlib.nullcontext(), autocast=False)
    plain = passed(layer, images, contextlib.nullcontext())
    found = passed(layer, images, WeightGradients())
    assert torch.equal(found[0], plain[0])
    for mine, torchs, true in zip(found, plain, exact, strict=True):
        assert mine.dtype == torchs.dtype
        assert distance(mine, true) < max(1.1 * distance(torchs, true), 0.003)


def distance(found: torch.Tensor, true: torch.Tensor) -> float:
    return ((found.float() - true).norm() / true.norm()).item()


def test_wide_layers_alone_take_them():
    for channels, is_wide in ((192, True), (63, False)):
        layer, images = case(kernel_size=3, channels=channels)
        with torch.autocast("cpu", dtype=torch.bfloat16), WeightGradients():
            maps = layer(images)
        assert ("_Convolution" in maps.grad_fn.name()) == is_wide
    layer, images = case(kernel_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16), WeightGradients():
        many = layer(images.repeat(1, 1, 3, 3))  # 16x13 pixels come out
    assert "_Convolution" not in many.grad_fn.name()


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
def test_what_is_no_plain_convolution_stays_torchs(settings):
    layer, images = case(**settings)
    plain = passed(layer, images, contextlib.nullcontext())
    found = passed(layer, images, WeightGradients())
    assert all(torch.equal(mine, torchs) for mine, torchs in zip(found, plain, strict=True))


def test_without_autocast_or_gradient_nothing_changes():
    layer, images = case(kernel_size=3)
    plain = passed(layer, images, contextlib.nullcontext(), autocast=False)
    found = passed(layer, images, WeightGradients(), autocast=False)
    assert all(torch.equal(mine, torchs) for mine, torchs in zip(found, plain, strict=True))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), WeightGradients():
        assert layer(images).grad_fn is None


def test_they_are_for_wide_networks_on_a_cpu_with_amx(monkeypatch):
    wide, narrow = nn.Sequential(nn.Conv2d(128, 256, 1)), nn.Sequential(nn.Conv2d(64, 128, 1))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert isinstance(weight_gradients(wide, CPU), WeightGradients)
    assert not isinstance(weight_gradients(narrow, CPU), WeightGradients)
    assert not isinstance(weight_gradients(wide, torch.device("cuda")), WeightGradients)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not isinstance(weight_gradients(wide, CPU), WeightGradients)


def test_a_training_with_them_learns_what_one_without_does(monkeypatch):
    made = []
    product = convolutions._for_weight
    monkeypatch.setattr(
        convolutions, "_for_weight", lambda *given: made.append(product(*given)) or made[-1]
    )
    reports = {}
    for has_amx in (False, True):
        assert not made
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_amx: has)
        training = Training(**config(model={"width": 128}, precision="bfloat16"))
        reports[has_amx] = list(training.epochs())
    assert len(made) == 3 * training.total_epochs * 4  # steps, and wide convolutions in each
    for mine, torchs in zip(reports[True], reports[False], strict=True):
        for name in ("loss/total", "val/loss"):
            assert mine[name] == pytest.approx(torchs[name], rel=0.01)
