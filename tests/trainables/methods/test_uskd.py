"""USKD: the released code's numbers in both rankings, the equation as a loop, and its edges."""

import math

import pytest
import torch
from torch import nn

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    Looks,
    Z,
    assert_close,
    assert_is_cross_entropy,
    gradient,
    slopes,
    tensor,
    total,
)
from tests.trainables.test_losses import loop_cross_entropy, softmax
from tests.trainables.tiny import VECTORS, Fixed
from trainables import methods, models

GIVEN = VECTORS["others"]["uskd"]
FEATURES = GIVEN["feats"]
WEIGHT = [[(3 * row + column) / 10 - 0.7 for column in range(3)] for row in range(5)]
WEIGHTS = {name: GIVEN[name] for name in ("alpha", "beta", "mu")}
WEAK = [[sum(a * b for a, b in zip(f, w, strict=True)) for w in WEIGHT] for f in FEATURES]


def uskd(dtype=torch.float64, logits=Z, **hyperparameters):
    """The method around images of these features before the last stage, and these logits."""
    stages = [Looks(tensor(FEATURES, dtype)), nn.Identity()]
    model = models.Classifier(stages, Fixed(tensor(logits, dtype)), (3, 3), classes=len(Z[0]))
    method = methods.build("uskd", model, **hyperparameters).to(dtype)
    with torch.no_grad():
        method.weak.weight.copy_(tensor(WEIGHT, dtype))
        method.weak.bias.zero_()
    return method


def loop_laws(ranking):
    """Zipf's law over the wrong classes of each image, by ranks among all."""
    laws = []
    for strong, weak, label in zip(Z, WEAK, VECTORS["y"], strict=True):
        s, w = softmax(strong), softmax(weak)
        if ranking == "code":
            s = [math.log(value) for value in s]
        below = (1 - w[label] + 1e-6, 1 - s[label] + 1e-6)
        score = [a / below[0] + b / below[1] for a, b in zip(w, s, strict=True)]
        ranks = [1 + sum(rival > mine for rival in score) for mine in score]
        shares = [0.0 if k == label else 1 / rank for k, rank in enumerate(ranks)]
        laws.append([share / sum(shares) for share in shares])
    return laws


def loop_terms(rows, ranking, sharpness):
    """The target's term and that of the wrong classes, each a mean over the images."""
    target = others = 0.0
    laws = loop_laws(ranking)
    for row, label, law, sharp in zip(rows, VECTORS["y"], laws, sharpness, strict=True):
        target -= sharp * math.log(softmax(row)[label]) / len(rows)
        wrong = [k for k in range(len(row)) if k != label]
        for k, q in zip(wrong, softmax([row[k] for k in wrong]), strict=True):
            others -= law[k] * math.log(q) / len(rows)
    return target, others


def sharpness():
    squares = [softmax(row)[label] ** 2 for row, label in zip(Z, VECTORS["y"], strict=True)]
    return [square + 1 - sum(squares) / len(squares) for square in squares]


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_it_equals_the_vector(dtype, error):
    logits, terms = uskd(dtype, ranking="code", **WEIGHTS).losses(IMAGES, LABELS)
    assert torch.equal(logits, tensor(Z, dtype))
    assert_close(terms["ce"], VECTORS["ce_main"], error)
    assert_close(terms["target"], GIVEN["alpha"] * GIVEN["loss_t"], error)
    assert_close(terms["zipf"], GIVEN["beta"] * GIVEN["loss_non_code"], error)
    assert_close(terms["weak"], GIVEN["loss_weak"], error)
    assert_close(terms["target"] + terms["zipf"] + terms["weak"], GIVEN["total_code"], error)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_ranked_by_probabilities_it_equals_the_vector(dtype, error):
    terms = uskd(dtype, **WEIGHTS).losses(IMAGES, LABELS)[1]
    assert_close(terms["zipf"], GIVEN["beta"] * GIVEN["loss_non_if_softmax"], error)


@pytest.mark.parametrize("ranking", ["probabilities", "code"])
def test_the_equation_as_a_loop_and_its_gradient_which_spares_the_targets(ranking):
    fixed = sharpness()

    def loop(rows):
        target, others = loop_terms(rows, ranking, fixed)
        weak = sum(
            -(0.9 * (k == label) + 0.1 / 5) * math.log(p) / len(WEAK)
            for row, label in zip(WEAK, VECTORS["y"], strict=True)
            for k, p in enumerate(softmax(row))
        )
        hard = loop_cross_entropy(rows, VECTORS["y"])
        return hard + 0.7 * target + 0.4 * others + 0.2 * weak

    method = uskd(alpha=0.7, beta=0.4, mu=0.2, ranking=ranking)
    loss = total(method)
    assert_close(loss, loop(Z), 1e-12)
    assert_close(gradient(loss, method.model.head.logits), slopes(loop, Z), 1e-8)


def test_all_weights_zero_equal_cross_entropy_to_the_bit():
    assert_is_cross_entropy(uskd(alpha=0.0, beta=0.0, mu=0.0))


def test_the_weak_head_learns_from_its_own_term_alone():
    method = uskd(mu=0.0)
    assert not gradient(total(method), method.weak.weight).any()
    method = uskd(alpha=0.0, beta=0.0)
    assert gradient(total(method), method.weak.weight).any()


def test_the_weak_head_does_not_ship():
    torch.manual_seed(0)
    model = models.build("small_cnn", 4, (3, 8, 8), width=4)
    shipped = methods.build("uskd", model).deploy()
    assert shipped is model
    assert not any("weak" in name for name in shipped.state_dict())


def test_a_backbone_of_one_stage_is_refused():
    model = models.Classifier([nn.Identity()], nn.Flatten(), (1,), classes=64)
    with pytest.raises(ValueError, match="two stages"):
        methods.build("uskd", model)
