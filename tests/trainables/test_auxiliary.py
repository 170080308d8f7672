"""The auxiliary head: its fast depthwise convolutions compute what plain modules compute."""

import copy

import pytest
import torch
from torch import nn

from trainables.auxiliary import AuxiliaryHead


def pair() -> tuple[AuxiliaryHead, AuxiliaryHead]:
    """The same weights twice; every convolution of the second is torch's own."""
    torch.manual_seed(0)
    head = AuxiliaryHead((8, 16, 32), 5)
    plain = copy.deepcopy(head)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
    return head, plain


def trained(head: AuxiliaryHead, dtype: torch.dtype, autocast: bool) -> list[torch.Tensor]:
    """Logits and gradients of the features and of every parameter."""
    torch.manual_seed(1)
    head = head.to(dtype, memory_format=torch.channels_last)
    features = torch.randn(16, 8, 12, 10, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = head(features.to(memory_format=torch.channels_last))
    logits.double().square().mean().backward()
    gradients = [parameter.grad for parameter in head.parameters()]
    return [logits.detach(), features.grad, *gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_autocast_logits_and_gradients_are_those_of_plain_modules(dtype):
    head, plain = pair()
    for found, expected in zip(
        trained(head, dtype, False), trained(plain, dtype, False), strict=True
    ):
        assert torch.equal(found, expected)


def test_under_autocast_the_logits_are_within_rounding_of_float32():
    head, plain = pair()
    exact = trained(copy.deepcopy(plain), torch.float32, False)[0]
    found, rough = trained(head, torch.float32, True)[0], trained(plain, torch.float32, True)[0]
    assert found.dtype == rough.dtype == torch.float32
    assert distance(found, exact) < 0.02  # bfloat16 keeps 8 bits through eight layers
    assert distance(found, rough) < 0.02


@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_a_depthwise_convolution_is_within_rounding_of_a_plain_one(stride):
    head, plain = pair()
    place = 0 if stride == 2 else 4  # in a separable convolution

    def passed(module):
        torch.manual_seed(1)
        maps = torch.randn(16, 8, 12, 10, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(maps.bfloat16().to(memory_format=torch.channels_last))
        out.float().backward(torch.randn(out.shape))
        return out.detach(), maps.grad, module.weight.grad

    assert head.trunk[0][place].stride == (stride, stride)
    for found, rough in zip(
        passed(head.trunk[0][place]), passed(plain.trunk[0][place]), strict=True
    ):
        assert distance(found, rough) < 0.01


def distance(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, in the 2-norm."""
    return float((value.double() - expected.double()).norm() / expected.double().norm())


def test_a_state_of_plain_modules_fits():
    head, plain = pair()
    shapes = {name: tuple(value.shape) for name, value in plain.state_dict().items()}
    assert shapes["gate.0.0.weight"] == shapes["trunk.0.4.weight"] == (8, 1, 3, 3)
    assert shapes == {name: tuple(value.shape) for name, value in head.state_dict().items()}
    head.load_state_dict(plain.state_dict())
