"""The multi-branch block: its equation, its exact merge, what it replaces, and what it drops."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trainables.tiny import VECTORS, batch, same
from trainables import models
from trainables.multibranch import (
    Drop,
    MultiBranch,
    dropping,
    merged,
    restructure,
    statistics_kept,
)

VECTOR = VECTORS["rsd"]["ambb"]
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
UNPAIRED = {"densenet121": 58}  # it normalises before it convolves


def block(norm=True, seed=0, **convolution) -> MultiBranch:
    """A block around a convolution of 4 to 8 channels, in evaluation mode and float64, whose batch
    norms have seen something."""
    torch.manual_seed(seed)
    convolution = {"kernel_size": 3, "padding": 1, "bias": False, **convolution}
    plain = nn.Conv2d(4, 8, **convolution)
    found = MultiBranch(plain, nn.BatchNorm2d(8) if norm else None).double()
    with torch.no_grad():
        for name, values in found.state_dict().items():
            if "var" in name:
                values.add_(torch.rand_like(values))
            elif values.is_floating_point():
                values.add_(torch.randn_like(values))
    return found.eval()


def blocks(model: nn.Module) -> list[MultiBranch]:
    return [module for module in model.modules() if isinstance(module, MultiBranch)]


def wanted(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.kernel_size in {(3, 3), (5, 5)}


def classifier(*stages: nn.Module, head: nn.Module | None = None) -> models.Classifier:
    return models.Classifier(stages, head or nn.Flatten(), [1] * len(stages), classes=4)


def relative_error(found, expected) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_the_block_equals_the_vectors_whole_and_merged(dtype, error):
    whole = MultiBranch(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1)).to(dtype)
    strips = [[[value] for value in VECTOR["V_3x1"]], [VECTOR["H_1x3"]]]
    kernels = [*(VECTOR[name] for name in ("D1", "D2", "D3")), *strips]
    with torch.no_grad():
        for branch, kernel, norm in zip(whole.branches, kernels, VECTOR["bn"], strict=True):
            branch.convolution.weight.copy_(torch.tensor([[kernel]], dtype=dtype))
            branch.norm.weight.fill_(norm["w"])
            branch.norm.bias.fill_(norm["b"])
            branch.norm.running_mean.fill_(norm["m"])
            branch.norm.running_var.fill_(norm["v"])
    whole.eval()
    convolution, norm = whole.merged()
    image = torch.tensor([[VECTOR["x"]]], dtype=dtype)
    for found, name in (
        (convolution.weight[0, 0], "fused_kernel"),
        (norm.bias[0], "fused_bias"),
        (whole(image)[0, 0], "y"),
        (norm(convolution(image))[0, 0], "y"),
    ):
        assert relative_error(found, torch.tensor(VECTOR[name], dtype=dtype)) < error


def test_the_equation_as_a_loop_over_branches_and_taps():
    whole = block(kernel_size=5, padding=2, stride=2)
    image = torch.randn(1, 4, 7, 6, dtype=torch.float64)
    found = whole(image)
    assert found.shape == (1, 8, 4, 3)
    for out, row, column in ((0, 0, 0), (3, 2, 1), (7, 3, 2)):
        expected = 0.0
        for branch in whole.branches:
            kernel, norm = branch.convolution.weight[out].tolist(), branch.norm
            value = 0.0
            for channel, taps in enumerate(kernel):
                for i, line in enumerate(taps):
                    for k, weight in enumerate(line):
                        y = 2 * row + i - len(taps) // 2
                        x = 2 * column + k - len(line) // 2
                        if 0 <= y < 7 and 0 <= x < 6:
                            value += weight * image[0, channel, y, x].item()
            deviation = (norm.running_var[out].item() + norm.eps) ** 0.5
            scaled = norm.weight[out].item() * (value - norm.running_mean[out].item()) / deviation
            expected += scaled + norm.bias[out].item()
        assert found[0, out, row, column].item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    kernel_size=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2, (2, 1)]),
    groups=st.sampled_from([1, 2, 4]),
    dilation=st.sampled_from([1, 2, (1, 3)]),
    padding=st.sampled_from([0, 1, 2, 3, (0, 2), "valid", "same"]),
    padding_mode=st.sampled_from(["zeros", "reflect", "circular"]),
    bias=st.booleans(),
    norm=st.booleans(),
    seed=st.integers(0, 99),
)
def test_merging_is_exact(**drawn):
    if drawn["padding"] == "same":
        drawn["stride"] = 1  # torch has no other there
    whole = block(**drawn)
    for dtype, error in DTYPES:
        whole = whole.to(dtype)
        image = torch.randn(2, 4, 15, 17, dtype=dtype)
        convolution, last = whole.merged()
        answer = convolution(image) if last is None else last(convolution(image))
        assert relative_error(answer, whole(image)) < error
        assert last is None or convolution.bias is None or not convolution.bias.any()


def test_the_sum_starts_as_large_as_the_plain_output():
    torch.manual_seed(0)
    image = torch.randn(64, 32, 9, 9)
    for norm in (nn.BatchNorm2d(32), None):
        plain = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(plain.weight, mode="fan_out", nonlinearity="relu")
        expected = plain(image) if norm is None else norm(plain(image))
        found = MultiBranch(plain, norm)(image)
        assert found.var().item() == pytest.approx(expected.var().item(), rel=0.1)


def test_a_backbones_own_start_of_the_norm_is_kept():
    norm = nn.BatchNorm2d(8, eps=1e-3, momentum=0.03)
    nn.init.zeros_(norm.weight)
    nn.init.ones_(norm.bias)
    whole = MultiBranch(nn.Conv2d(4, 8, 3, padding=1), norm)
    assert torch.allclose(whole(torch.randn(2, 4, 5, 5)), torch.ones(()), atol=1e-6)
    assert {(b.norm.eps, b.norm.momentum) for b in whole.branches} == {(1e-3, 0.03)}
    assert whole.merged()[1].eps == 1e-3


@pytest.mark.parametrize("name", sorted(models.builders()))
def test_every_3x3_and_5x5_convolution_of_a_backbone_becomes_a_block(name):
    with torch.device("meta"):
        plain = models.build(name, 4, (3, 32, 32))
        model = copy.deepcopy(plain)
        restructure(model)
    found = blocks(model)
    assert len(found) == sum(map(wanted, plain.modules()))
    assert sum(not b.norm_paths for b in found) == UNPAIRED.get(name, 0)
    inside = {id(m) for b in found for m in b.modules()}
    others = [m for m in model.modules() if type(m) is nn.Conv2d and id(m) not in inside]
    assert not any(map(wanted, others))
    assert len(others) == sum(type(m) is nn.Conv2d for m in plain.modules()) - len(found)


@pytest.mark.parametrize(
    "name", ["small_cnn", "resnet20", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0"]
)
def test_a_merged_backbone_is_the_plain_one_with_the_answers_of_the_blocks(name):
    torch.manual_seed(0)
    plain = models.build(name, 4, (3, 16, 16)).double()
    names = [(path, type(module)) for path, module in plain.named_modules()]
    keys = list(plain.state_dict())
    model = copy.deepcopy(plain)
    restructure(model)
    images = batch(4, 8)[0].double()
    with torch.no_grad():
        model(images)  # so that the statistics are not those of the start
        before, generator = copy.deepcopy(model.eval().state_dict()), torch.get_rng_state()
        shipped = merged(model)
        assert torch.equal(torch.get_rng_state(), generator)
        assert same(model.state_dict(), before)
        assert blocks(model)
        assert [(path, type(module)) for path, module in shipped.named_modules()] == names
        assert list(shipped.state_dict()) == keys
        assert relative_error(shipped(images), model(images)) < 1e-10
        plain.load_state_dict(shipped.state_dict())
        assert torch.equal(plain.eval()(images), shipped(images))


def test_the_watched_pass_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = models.build("mobilenet_v2", 4, (3, 16, 16))
    model.stages[0].eval()
    kept = {id(m) for m in model.modules() if type(m) is nn.Conv2d and not wanted(m)}
    restructure(model)
    modules = list(model.modules())
    assert kept <= {id(m) for m in modules}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert all(m.num_batches_tracked == 0 and not m.running_mean.any() for m in norms)
    assert model.training
    assert not model.stages[0][1].training


class Split(nn.Module):
    """Its convolution goes into the batch norm and past it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.idle = nn.Conv2d(3, 3, 3)

    def forward(self, maps):
        maps = self.convolution(maps)
        return maps + self.norm(maps).relu()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, maps):
        return self.norm(self.convolution(self.norm(self.convolution(maps))))


class Named(models.Classifier):
    """Knows its parts by two names, as a wrapper around a network does."""

    def __init__(self):
        super().__init__([parts()], nn.Flatten(), [3], 4)
        self.wrapped = self.stages[0]


def parts(*between: nn.Module, **norm) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), *between, nn.BatchNorm2d(3, **norm))


@pytest.mark.parametrize(
    ("model", "pairs"),
    [
        (classifier(parts()), [True]),
        (classifier(parts(nn.ReLU(inplace=True))), [False]),
        (classifier(parts(nn.ReLU())), [False]),
        (classifier(parts(nn.Identity())), [True]),
        (classifier(parts(affine=False)), [False]),
        (classifier(parts(track_running_stats=False)), [False]),
        (classifier(Split()), [False]),
        (classifier(Twice()), [False]),
        (classifier(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), [True]),
        (classifier(nn.Identity(), head=nn.Sequential(*parts(), nn.Flatten())), [True]),
        (classifier(parts(), head=nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))), [True]),
        (Named(), [True]),
    ],
)
def test_a_norm_is_taken_in_only_where_nothing_else_sees_the_convolution(model, pairs):
    torch.manual_seed(0)
    keys = list(model.state_dict())
    restructure(model)
    assert [bool(b.norm_paths) for b in blocks(model)] == pairs
    images = batch(4)[0]
    with torch.no_grad():
        model.train()(images)
        model.eval()
        shipped = merged(model)
        assert relative_error(shipped(images), model(images)) < 1e-5
    assert list(shipped.state_dict()) == keys


def test_the_bias_of_a_convolution_without_a_norm_is_kept():
    model = classifier(nn.Conv2d(3, 3, 3))
    bias = model.stages[0].bias.detach().clone()
    restructure(model)
    assert all(b.convolution.bias is not None for b in model.stages[0].branches)
    torch.testing.assert_close(merged(model).stages[0].bias.detach(), bias)


@pytest.mark.parametrize("stage", [nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 7), nn.Identity()])
def test_a_model_with_nothing_to_restructure_is_refused(stage):
    with pytest.raises(ValueError, match=r"^model: has no 3x3 or 5x5 convolution"):
        restructure(classifier(stage))


def test_branches_drop_only_in_training_mode_and_within_the_context():
    whole, image = block(), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    expected = whole(image)
    with dropping(whole, Drop(0.9)):
        assert torch.equal(whole(image), expected)
    whole.train()
    complete = whole(image)
    with dropping(whole, Drop(0.9)):
        one, other = whole(image), whole(image)
    assert not torch.equal(one, complete)
    assert not torch.equal(one, other)
    assert torch.equal(whole(image), complete)
    with pytest.raises(RuntimeError, match="Expected 3D"), dropping(whole, Drop(0.9)):
        whole(image.flatten())
    assert torch.equal(whole(image), complete)  # a pass that fails leaves nothing behind
    with dropping(whole, Drop(0.0)):
        assert torch.equal(whole(image), complete)


@pytest.mark.parametrize("drop", [Drop(0.5), Drop(0.5, "batch"), Drop(0.9, keep_one=True)])
def test_a_dropped_pass_is_the_branches_times_what_was_drawn(drop):
    whole, image = block().train(), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    torch.manual_seed(3)
    scales = drop.scales(image)
    assert scales.shape == (5, 6 if drop.each == "sample" else 1, 1, 1, 1)
    torch.manual_seed(3)
    with dropping(whole, drop):
        found = whole(image)
    pairs = zip(scales, whole.branches, strict=True)
    expected = sum(scale * branch(image) for scale, branch in pairs)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("keep_one", [True, False])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_dropping_keeps_the_expectation_of_every_branch_and_draws_them_apart(rate, keep_one):
    torch.manual_seed(0)
    count = 200_000
    maps = torch.empty(count, 0, dtype=torch.float64)
    scales = Drop(rate, keep_one=keep_one).scales(maps).flatten(1)
    deviation = scales.std(dim=1) / count**0.5
    assert ((scales.mean(dim=1) - 1).abs() < 5 * deviation).all()
    kept = (scales > 0).sum(dim=0)
    none = 0.0 if keep_one else rate**5
    assert (kept == 0).double().mean().item() == pytest.approx(none, abs=5e-3 if none else 0)
    if not keep_one:
        assert (kept == 5).double().mean().item() == pytest.approx((1 - rate) ** 5, abs=5e-3)


def test_kept_statistics_stay_while_the_batch_still_normalises():
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    image = 5 + 2 * torch.randn(4, 3, 5, 5)
    before = copy.deepcopy(norm.state_dict())
    with statistics_kept(norm):
        kept = norm(image)
    assert same(norm.state_dict(), before)
    assert torch.equal(norm(image), kept)
    assert norm[0].num_batches_tracked == 1
    assert not norm[1].track_running_stats
    with statistics_kept(norm.eval()):
        inside = norm(image)
    assert torch.equal(inside, norm(image))  # in evaluation the running ones count, as ever
