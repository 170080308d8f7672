"""Backbones: their published sizes, stages that fit together, the networks they are cut from."""

import copy
import inspect

import pytest
import torch
import torchvision
from torch import nn

from benchmarks import backbones
from trainables import models
from trainables.auxiliary import AuxiliaryHead
from trainables.models.cifar_resnet import _Block

BUILDERS = sorted(models.builders())
TORCHVISION = [n for n in BUILDERS if "stem" in inspect.signature(models.builders()[n]).parameters]
# Built by the code of a smaller one, of its blocks or those of wrn_20_8.
LARGER = {"resnet34", "resnet50", "resnext50_32x4d", "resnet56", "resnet101", "resnet110"}
EACH_FAMILY = [name for name in BUILDERS if name not in LARGER | {"vgg19_bn"}]


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(name: str, classes: int, channels: int, **options) -> models.Classifier:
    with torch.device("meta"):
        return models.build(name, classes, (channels, 8, 8), **options).eval()


def published(name: str, classes: int = 10) -> nn.Module:
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, num_classes=classes, **options)


def test_resnet18_has_the_size_its_docstring_states():
    assert size(on_meta("resnet18", 100, 3)) == 11_220_132


@pytest.mark.parametrize(
    ("name", "million"), [("resnet18", 11.220), ("resnet34", 21.328), ("resnet50", 23.705)]
)
def test_sizes_for_100_classes(name, million):
    assert size(on_meta(name, 100, 3)) / 1e6 == pytest.approx(million, abs=5e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_have_the_sizes_it_publishes(name):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert size(on_meta(name, 1000, 3, stem="imagenet")) == weights.meta["num_params"]


@pytest.mark.parametrize(
    ("name", "million"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85), ("resnet110", 1.7)],
)
def test_thin_resnets_have_the_sizes_of_table_6_of_their_paper(name, million):
    assert round(size(on_meta(name, 10, 3)) / 1e6, 2 if million < 1 else 1) == million


@pytest.mark.parametrize(("name", "million"), [("wrn_20_8", 6.85), ("vgg16_bn", 14.73)])
def test_sizes_of_the_networks_of_rsd_for_10_classes(name, million):
    assert round(size(on_meta(name, 10, 3)) / 1e6, 2) == million


@pytest.mark.parametrize(("classes", "count"), [(10, 6_848_090), (100, 6_871_220)])
def test_wrn_20_8_has_the_sizes_its_docstring_states(classes, count):
    assert size(on_meta("wrn_20_8", classes, 3)) == count


@pytest.mark.parametrize(("name", "million"), [("resnet18", 555.5), ("resnet50", 1298.0)])
def test_multiply_adds_of_the_networks_of_lightskd(name, million):
    assert backbones.measure(name).multiply_adds / 1e6 == pytest.approx(million, abs=0.05)


def test_the_page_of_backbones_is_what_its_command_writes():
    assert backbones.PAGE.read_text() == backbones.text()


@pytest.mark.parametrize(("stage", "count"), [(1, 330e3), (2, 342_116), (3, 391e3)])
def test_auxiliary_heads_of_resnet18_have_the_sizes_of_the_released_code(stage, count):
    head = AuxiliaryHead((64, 128, 256, 512)[stage - 1 :], 100)
    assert size(head) == pytest.approx(count, abs=0 if stage == 2 else 600)


def test_an_auxiliary_head_keeps_its_names():
    """Checkpoints hold them."""
    state = AuxiliaryHead((8, 16, 32), 5).state_dict()
    assert state["gate.0.0.weight"].shape == state["trunk.0.4.weight"].shape == (8, 1, 3, 3)
    assert state["trunk.1.5.weight"].shape == (32, 16, 1, 1)
    assert state["head.2.weight"].shape == (5, 32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BUILDERS)
def test_shapes_of_every_backbone(name, channels):
    model = on_meta(name, 7, channels)
    images = torch.zeros(2, channels, 32, 32, device="meta")
    maps = model.features(images)
    assert [found.shape[1] for found in maps] == list(model.widths)
    assert 3 <= len(maps) == len(model.stages) == len(model.widths) <= 5
    assert maps[0].shape[-2:] == (32, 32)  # what a small stem is for
    assert model.classes == 7
    assert model.head(maps[-1]).shape == (2, 7)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_stem_for_large_images_makes_the_maps_smaller_and_no_other_width(name):
    small, large = on_meta(name, 7, 1), on_meta(name, 7, 1, stem="imagenet")
    images = torch.zeros(2, 1, 96, 96, device="meta")
    maps = large.features(images)
    assert [found.shape[1] for found in maps] == list(large.widths) == list(small.widths)
    sides = [found.shape[-1] for found in maps]
    if name.startswith("vgg"):  # the same convolutions
        assert sides == [96, 48, 24, 12, 6]
    else:
        assert sides[-1] == 3
        assert sides[0] in (12, 24)
    assert large.head(maps[-1]).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_stem_follows_from_the_size_of_the_image(name):
    with torch.device("meta"):
        sides = [
            models.build(name, 7, (3, 96, side)).features(torch.zeros(1, 3, 64, 64))[0].shape[-1]
            for side in (64, 65)
        ]
        named = models.build(name, 7, (3, 96, 96), stem="small")
    assert sides == [16, 16]
    assert named.features(torch.zeros(1, 3, 64, 64, device="meta"))[0].shape[-1] == 64


@pytest.mark.parametrize("name", EACH_FAMILY)
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


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_no_stage_writes_into_the_map_it_takes(name):
    model = models.build(name, 7, (3, 8, 8))
    images = torch.randn(2, 3, 16, 16)
    kept = images.clone()
    maps = model.features(images)
    logits = model.head(maps[-1])
    assert torch.equal(images, kept)
    with torch.no_grad():
        taken = images
        for stage, found in zip(model.stages, maps, strict=True):
            taken = stage(taken)
            assert torch.equal(found, taken)
    # autograd refuses a map that was overwritten after something read it
    (logits.sum() + sum(found.square().mean() for found in maps)).backward()


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_odd_and_tiny_image_sizes_and_other_channels_work(name):
    model = models.build(name, 5, (4, 8, 8)).eval()
    with torch.no_grad():
        for shape in [(9, 13), (8, 8)]:
            assert model(torch.randn(2, 4, *shape)).shape == (2, 5)


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_a_copy_trains_in_channels_last_and_mixed_precision(name):
    original = models.build(name, 5, (3, 8, 8)).eval()
    model = copy.deepcopy(original).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 16, 16)
    last = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(model(last), original(images), atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.train()(last)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float()), "computed so, and not only kept so"
    logits.logsumexp(dim=1).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert all(parameter.grad is None for parameter in original.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_stem_for_large_images_is_torchvisions_network(name):
    """The same tensors in the same order, and from them the same logits to the bit."""
    model = on_meta(name, 10, 3, stem="imagenet")
    if name not in EACH_FAMILY:
        with torch.device("meta"):
            reference = published(name)
        shapes = [tensor.shape for tensor in reference.state_dict().values()]
        assert [tensor.shape for tensor in model.state_dict().values()] == shapes
        return
    reference = published(name).eval()
    with torch.no_grad():
        for tensor in [*reference.parameters(), *reference.buffers()]:
            if tensor.dim() == 1:  # norms and biases start equal: swapped ones would not show
                tensor.uniform_(0.5, 1.5)
    values = zip(model.state_dict(), reference.state_dict().values(), strict=True)
    model.load_state_dict(dict(values), assign=True)
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model(images), reference(images))


def _small_resnet(net: nn.Module) -> None:
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()


def _small_densenet(net: nn.Module) -> None:
    net.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.features.pool0 = nn.Identity()


def _small_mobilenet(net: nn.Module) -> None:
    net.features[0][0].stride = net.features[2].conv[1][0].stride = (1, 1)


def _small_shufflenet(net: nn.Module) -> None:
    net.conv1[0].stride, net.maxpool = (1, 1), nn.Identity()


def _small_googlenet(net: nn.Module) -> None:
    net.conv1 = net.conv2 = net.maxpool1 = net.maxpool2 = nn.Identity()
    net.conv3.conv = nn.Conv2d(3, 192, 3, padding=1, bias=False)


def _small_vgg(net: nn.Module) -> None:
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 10)


SMALL = {
    "resnet18": _small_resnet,
    "resnext50_32x4d": _small_resnet,
    "densenet121": _small_densenet,
    "mobilenet_v2": _small_mobilenet,
    "shufflenet_v2_x1_0": _small_shufflenet,
    "googlenet": _small_googlenet,
    "vgg16_bn": _small_vgg,
}


@pytest.mark.parametrize("name", SMALL)
def test_the_stem_for_small_images_changes_nothing_but_the_first_steps(name):
    model = models.build(name, 10, (3, 8, 8)).eval()
    with torch.device("meta"):
        reference = published(name).eval()
        SMALL[name](reference)
    values = zip(reference.state_dict(), model.state_dict().values(), strict=True)
    reference.load_state_dict(dict(values), assign=True)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), reference(images))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "vgg16_bn"])
def test_weights_start_as_torchvisions_do(name):
    """All but the first convolution are the same draws; that one has the same spread."""
    torch.manual_seed(1)
    reference = list(published(name).state_dict().values())
    torch.manual_seed(1)
    weights = list(models.build(name, 10, (3, 8, 8), stem="imagenet").state_dict().values())
    assert all(map(torch.equal, weights[1:], reference[1:]))
    assert float(weights[0].std()) == pytest.approx(float(reference[0].std()), rel=0.1)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("resnet18", (2 / (9 * 64)) ** 0.5),
        ("wrn_20_8", (2 / (9 * 16)) ** 0.5),
        ("densenet121", (2 / (9 * 3)) ** 0.5),
        ("mobilenet_v2", (2 / (9 * 32)) ** 0.5),
        ("shufflenet_v2_x1_0", 1 / (3 * 9 * 3) ** 0.5),  # torch's own
        ("googlenet", 0.01),
        ("vgg16_bn", (2 / (9 * 64)) ** 0.5),
    ],
)
def test_a_small_stem_starts_with_the_spread_of_its_family(name, deviation):
    first = next(models.build(name, 10, (3, 8, 8)).parameters()).detach()
    assert float(first.std()) == pytest.approx(deviation, rel=0.15)


def test_vgg_starts_as_torchvisions_does():
    for module in models.build("vgg16_bn", 100, (3, 8, 8)).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            kaiming = (2 / (9 * len(module.weight))) ** 0.5
            spread = kaiming if isinstance(module, nn.Conv2d) else 0.01
            assert float(module.weight.detach().std()) == pytest.approx(spread, rel=0.1)
            assert not module.bias.any()


@pytest.mark.parametrize("name", TORCHVISION)
def test_dropout_stays_where_torchvision_has_it_but_in_the_small_vgg(name):
    def shares(module):
        return [part.p for part in module.modules() if isinstance(part, nn.Dropout)]

    with torch.device("meta"):
        expected = shares(published(name))
    assert shares(on_meta(name, 10, 3, stem="imagenet")) == expected
    assert shares(on_meta(name, 10, 3)) == ([] if name.startswith("vgg") else expected)


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


def test_wrn_20_8_has_20_layers_and_is_8_times_as_wide_inside():
    model = on_meta("wrn_20_8", 10, 3)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    shortcuts = 3  # are not counted
    assert len(layers) - shortcuts == 20
    wide = [m.out_channels for m in layers[1:-1] if m.kernel_size == (3, 3)]
    assert wide == [8 * 16] * 2 + [8 * 32] * 2 + [8 * 64] * 2


def test_small_cnn_takes_its_width():
    assert models.build("small_cnn", 4, (1, 8, 8), width=6).widths == (6, 12, 24)


def test_fresh_weights_follow_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return next(models.build("small_cnn", 4, (3, 8, 8)).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
