"""Convolutions that a CPU computes in another way have the values and gradients of torch's own."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from tests.trainables.tiny import config
from trainables import convolutions
from trainables.convolutions import CpuConvolutions, fitting
from trainables.training import Training

CPU = torch.device("cpu")
WIDE = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1x1 with stride": {"kernel_size": 1, "stride": 2},
    "oblong": {"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)},
    "no padding": {"kernel_size": 2},
    "bias": {"kernel_size": 3, "padding": 1, "bias": True},
}
DEPTHWISE = {
    "depthwise": {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 192},
    "depthwise, bias": {"kernel_size": 5, "stride": (1, 2), "groups": 192, "bias": True},
}
OTHERS = {
    "grouped": {"kernel_size": 3, "groups": 2, "stride": 2},
    "depthwise without a stride": {"kernel_size": 3, "groups": 192},
    "dilated": {"kernel_size": 2, "dilation": 2},
    "padding by name": {"kernel_size": 3, "padding": "same"},
}
PLAIN = contextlib.nullcontext()


def case(layout=torch.channels_last, channels=192, **settings) -> tuple[nn.Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    outputs = 256 if settings.get("groups", 1) < channels else channels
    layer = nn.Conv2d(channels, outputs, **{"bias": False, **settings}).to(memory_format=layout)
    return layer, torch.randn(8, channels, 6, 5).to(memory_format=layout)


def passed(layer: nn.Conv2d, images: torch.Tensor, entered, autocast=True) -> list[torch.Tensor]:
    """What comes out, and the gradients of the images and of every parameter."""
    layer, images = copy.deepcopy(layer), images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), entered:
        maps = layer(images)
    torch.manual_seed(1)
    (maps.float() * torch.randn(maps.shape)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return [maps.detach(), images.grad, *gradients]


def are_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(mine, torchs) for mine, torchs in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("settings", [*WIDE.values(), *DEPTHWISE.values()], ids=[*WIDE, *DEPTHWISE])
def test_they_are_torchs_own_within_rounding(settings, layout):
    layer, images = case(layout, **settings)
    exact = passed(layer, images, PLAIN, autocast=False)
    plain = passed(layer, images, PLAIN)
    found = passed(layer, images, CpuConvolutions(products=True))
    assert not are_equal(found, exact)
    if layer.groups > 1:
        assert not are_equal(found, plain)  # it was computed in the other way
    for mine, torchs, true in zip(found, plain, exact, strict=True):
        assert mine.dtype == torchs.dtype
        assert distance(mine, true) < max(1.1 * distance(torchs, true), 0.003)


def distance(found: torch.Tensor, true: torch.Tensor) -> float:
    return ((found.float() - true).norm() / true.norm()).item()


def test_many_channels_and_few_pixels_take_products_where_they_are_wanted():
    def made_by(channels: int = 192, times: int = 1, products: bool = True) -> str:
        layer, images = case(kernel_size=3, channels=channels)
        with torch.autocast("cpu", dtype=torch.bfloat16), CpuConvolutions(products):
            return layer(images.repeat(1, 1, times, times)).grad_fn.name()

    assert "ByProducts" in made_by()
    assert "ByProducts" not in made_by(products=False)
    assert "ByProducts" not in made_by(channels=63)
    assert "ByProducts" not in made_by(times=3)  # 16x13 pixels come out


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
def test_other_convolutions_stay_torchs(settings):
    layer, images = case(**settings)
    found = passed(layer, images, CpuConvolutions(products=True))
    assert are_equal(found, passed(layer, images, PLAIN))


@pytest.mark.parametrize("settings", [WIDE["3x3"], DEPTHWISE["depthwise"]])
def test_without_autocast_or_gradient_nothing_changes(settings):
    layer, images = case(**settings)
    found = passed(layer, images, CpuConvolutions(products=True), autocast=False)
    assert are_equal(found, passed(layer, images, PLAIN, autocast=False))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = layer(images)
        with CpuConvolutions(products=True):
            assert torch.equal(layer(images), plain)


def test_calls_that_are_not_a_modules_are_left_alone():
    layer, images = case(kernel_size=3)
    depthwise, _ = case(**DEPTHWISE["depthwise"])
    with torch.autocast("cpu", dtype=torch.bfloat16), CpuConvolutions(products=True):
        maps = [
            torch.conv2d(images, layer.weight, stride=2),
            torch.conv2d(input=images, weight=layer.weight),
            torch.conv2d(images, layer.weight, None, 2, 0, 1, 1),
            layer(images[0]),
            layer.double()(images.double()),
            torch.conv2d(images, depthwise.weight, None, 2, 1, 1, 192),
        ]
    assert not any("ByProducts" in each.grad_fn.name() for each in maps)


def test_networks_that_have_such_layers_get_them_on_a_cpu(monkeypatch):
    def gets(layer: nn.Conv2d, has_amx: bool, device: torch.device = CPU) -> bool:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
        return isinstance(fitting(nn.Sequential(layer), device), CpuConvolutions)

    wide, narrow = nn.Conv2d(128, 256, 1), nn.Conv2d(64, 128, 1)
    assert (gets(wide, True), gets(wide, False), gets(narrow, True)) == (True, False, False)
    strided = nn.Conv2d(8, 8, 3, 2, groups=8)
    assert (gets(strided, True), gets(strided, False)) == (True, True)
    assert not gets(nn.Conv2d(8, 8, 3, groups=8), True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert isinstance(fitting(wide, CPU, products=False), contextlib.nullcontext)
    assert not fitting(strided, CPU, products=False).products
    assert not gets(nn.Conv2d(1, 1, 3, 2), True)
    assert not any(gets(layer, True, torch.device("cuda")) for layer in (wide, strided))


def test_a_training_with_them_learns_what_one_without_does(monkeypatch):
    taken = []
    product = convolutions.gradient_by_products
    monkeypatch.setattr(
        convolutions,
        "gradient_by_products",
        lambda *given: taken.append(given) or product(*given),
    )
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    reports = []
    for is_plain in (False, True):
        training = Training(**config(model={"width": 128}, precision="bfloat16"))
        assert isinstance(training._convolutions, CpuConvolutions)
        if is_plain:
            assert len(taken) == 3 * training.total_epochs * 4  # steps, and wide layers in each
            training._convolutions = PLAIN
        reports.append(list(training.epochs()))
    for mine, torchs in zip(*reports, strict=True):
        for name in ("loss/total", "val/loss"):
            assert mine[name] == pytest.approx(torchs[name], rel=0.01)
    assert len(taken) == 3 * training.total_epochs * 4
