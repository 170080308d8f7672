"""Every second pair of a method and a backbone, with real weights and images of 32x32, every fourth
of 64x64, half as many with RSD. The contract tests have every method on a backbone of each family,
without weights."""

import copy

import pytest
import torch

from tests.trainables.test_contracts import build, optimizer, step, told, without_gradient
from tests.trainables.tiny import same
from trainables import methods, models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

# One of each family and each kind of block (resnet50 has resnext50's); the others are deeper.
BACKBONES = [
    "densenet121",
    "googlenet",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "small_cnn",
    "vgg16_bn",
    "wrn_20_8",
]
ONLY_DEEPER = {"resnet34", "resnet50", "resnet101", "resnet32", "resnet56", "resnet110", "vgg19_bn"}
METHODS = sorted(methods.classes())


def pairs(first: int, of: int) -> list[tuple[str, str]]:
    """One in `of` pairs, as on a chessboard: each method and each backbone has its share. Of RSD,
    whose blocks of five branches take as long as ten other methods, half as many."""
    return [
        (name, backbone)
        for row, name in enumerate(METHODS)
        for column, backbone in enumerate(BACKBONES)
        if (row + column) % (2 * of if name == "rsd" else of) == first
    ]


def test_no_backbone_is_left_out():
    assert set(BACKBONES) | ONLY_DEEPER == set(models.builders())


@pytest.mark.parametrize(("name", "backbone"), pairs(0, of=2))
def test_it_trains_goes_on_from_its_state_and_ships(name: str, backbone: str):
    method = build(name, {}, backbone, size=32)
    sgd = optimizer(method)
    method.start_epoch()
    for number in (0, 1):
        _, terms, _ = step(method, number, sgd, size=32)
        assert all(term.isfinite() for term in terms.values())
    assert without_gradient(method) == []

    other = build(name, {}, backbone, seed=1, size=32)
    other_sgd = optimizer(other)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    other_sgd.load_state_dict(copy.deepcopy(sgd.state_dict()))
    ours, theirs = step(method, 2, sgd, size=32), step(other, 2, other_sgd, size=32)
    assert same(ours[:2], theirs[:2])
    assert same(method.state_dict(), other.state_dict())

    method.double().eval()
    images = told(method, 5, size=32)[0][:2].double()
    with torch.no_grad():
        shipped = method.deploy().eval()
        torch.testing.assert_close(shipped(images), method(images), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("name", "backbone"), pairs(1, of=4))
def test_it_takes_a_step_on_larger_images(name: str, backbone: str):
    method = build(name, {}, backbone, size=64)
    method.start_epoch()
    logits, _, total = step(method, 0, size=64)
    assert logits.shape == (8, 4)
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
