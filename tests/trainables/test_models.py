"""Backbones: their published sizes, and stages that fit together."""

import pytest
import torch
import torchvision
from torch import nn

from trainables import models
from trainables.auxiliary import AuxiliaryHead
from trainables.models.cifar_resnet import _Block

BUILDERS = sorted(models.builders())
SLOW = {"resnet101", "resnet110"}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(name: str, classes: int, channels: int) -> models.Classifier:
    with torch.device("meta"):
        return models.build(name, classes, (channels, 8, 8))


def test_resnet18_has_the_size_its_docstring_states():
    assert size(on_meta("resnet18", 100, 3)) == 11_220_132


@pytest.mark.parametrize(
    ("name", "million"), [("resnet18", 11.220), ("resnet34", 21.328), ("resnet50", 23.705)]
)
def test_sizes_for_100_classes(name, million):
    assert size(on_meta(name, 100, 3)) / 1e6 == pytest.approx(million, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "million"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85), ("resnet110", 1.7)],
)
def test_thin_resnets_have_the_sizes_of_table_6_of_their_paper(name, million):
    assert round(size(on_meta(name, 10, 3)) / 1e6, 2 if million < 1 else 1) == million


@pytest.mark.parametrize(("stage", "count"), [(1, 330e3), (2, 342_116), (3, 391e3)])
def test_auxiliary_heads_of_resnet18_have_the_sizes_of_the_released_code(stage, count):
    head = AuxiliaryHead((64, 128, 256, 512)[stage - 1 :], 100)
    assert size(head) == pytest.approx(count, abs=0 if stage == 2 else 600)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BUILDERS)
def test_shapes_of_every_backbone(name, channels):
    model = on_meta(name, 7, channels)
    maps = model.features(torch.zeros(2, channels, 32, 32, device="meta"))
    assert [found.shape[1] for found in maps] == list(model.widths)
    assert len(maps) == len(model.stages) == len(model.widths)
    assert model.classes == 7
    assert model(torch.zeros(2, channels, 32, 32, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in SLOW])
def test_features_go_on_from_any_stage(name):
    model = models.build(name, 7, (3, 8, 8)).eval()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        maps = model.features(images)
        for start in range(1, len(maps)):
            rest = model.features(maps[start - 1], start=start)
            assert len(rest) == len(maps) - start
            assert all(map(torch.equal, rest, maps[start:]))
        logits = model(images)
        assert torch.equal(model.head(maps[-1]), logits)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "resnet18"])
def test_odd_image_sizes_and_other_channels_work(name):
    model = models.build(name, 5, (4, 8, 8)).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 4, 9, 13)).shape == (2, 5)


def test_resnet18_computes_what_torchvisions_does_with_its_weights_and_a_small_stem():
    model = models.build("resnet18", 10, (3, 8, 8)).eval()
    reference = torchvision.models.resnet18(num_classes=10).eval()
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    reference.load_state_dict(
        dict(zip(reference.state_dict(), model.state_dict().values(), strict=True))
    )
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(images), reference(images))


def test_the_thin_shortcut_subsamples_and_pads_with_zero_channels():
    block = _Block(4, 8, 2).eval()
    for parameter in block.residual.parameters():
        nn.init.zeros_(parameter)
    maps = torch.rand(2, 4, 6, 6)
    out = block(maps)
    assert out.shape == (2, 8, 3, 3)
    for channel in range(8):
        for row in range(3):
            for column in range(3):
                taken = 2 <= channel < 6
                expected = maps[:, channel - 2, 2 * row, 2 * column] if taken else torch.zeros(2)
                assert torch.equal(out[:, channel, row, column], expected)


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_thin_resnets_have_as_many_layers_as_their_name_says(depth):
    model = on_meta(f"resnet{depth}", 10, 3)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_small_cnn_takes_its_width():
    assert models.build("small_cnn", 4, (1, 8, 8), width=6).widths == (6, 12, 24)


def test_fresh_weights_follow_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return next(models.build("small_cnn", 4, (3, 8, 8)).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
