"""BAKE: the released code's numbers, the sum over all ways as a loop, and its edges."""

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
from tests.trainables.tiny import VECTORS, Fixed, batch
from trainables import methods, models
from trainables.methods.bake import affinity, ensembled

GIVEN = VECTORS["others"]["bake"]
FEATURES = GIVEN["feats"]


def bake(dtype=torch.float64, logits=Z, **hyperparameters):
    """The method around images of these features and logits."""
    stages = [nn.Identity(), Looks(tensor(FEATURES, dtype))]
    model = models.Classifier(stages, Fixed(tensor(logits, dtype)), (1, 3), classes=len(Z[0]))
    return methods.build("bake", model, **hyperparameters)


def loop_affinity():
    """Softmax of cosine similarities, one pair at a time."""
    rows = []
    for i, one in enumerate(FEATURES):
        found = [
            sum(a * b for a, b in zip(one, other, strict=True))
            / (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5
            for other in FEATURES
        ]
        shares = iter(softmax([value for j, value in enumerate(found) if j != i]))
        rows.append([0.0 if j == i else next(shares) for j in range(len(found))])
    return rows


def loop_taught(answers, omega, steps=400):
    """(1 - omega) * sum over t of (omega * W)^t answers, term by term."""
    near, moving = loop_affinity(), [list(row) for row in answers]
    taught = [[(1 - omega) * value for value in row] for row in moving]
    for _ in range(steps):
        moving = [
            [omega * sum(w * row[k] for w, row in zip(ways, moving, strict=True)) for k in range(5)]
            for ways in near
        ]
        for i, row in enumerate(moving):
            taught[i] = [a + (1 - omega) * b for a, b in zip(taught[i], row, strict=True)]
    return taught


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_it_equals_the_vector(dtype, error):
    method = bake(dtype)
    logits, terms = method.losses(IMAGES, LABELS)
    assert torch.equal(logits, tensor(Z, dtype)[:1])
    assert set(terms) == {"ce", "bake"}
    assert_close(terms["ce"], VECTORS["ce_main"], error)
    assert_close(terms["bake"], GIVEN["kd"], error)


def test_its_parts_equal_the_vector():
    features, answers = tensor(FEATURES), (tensor(Z) / GIVEN["T"]).softmax(dim=1)
    assert_close(affinity(features), GIVEN["W"], 1e-12)
    assert_close(ensembled(features, answers, GIVEN["omega"]), GIVEN["targets"], 1e-12)


def test_the_equation_as_a_loop_and_its_gradient_which_spares_the_teachers():
    temperature, omega, weight = 2.5, 0.7, 0.3
    answers = [softmax([value / temperature for value in row]) for row in Z]
    taught = loop_taught(answers, omega)

    def loop(rows):
        divergence = 0.0
        for row, targets in zip(rows, taught, strict=True):
            mine = softmax([value / temperature for value in row])
            for target, share in zip(targets, mine, strict=True):
                divergence += target * (math.log(target) - math.log(share)) / len(rows)
        return loop_cross_entropy(rows, VECTORS["y"]) + weight * temperature**2 * divergence

    method = bake(weight=weight, temperature=temperature, omega=omega)
    loss = total(method)
    assert_close(loss, loop(Z), 1e-12)
    assert_close(gradient(loss, method.model.head.logits), slopes(loop, Z), 1e-8)


def test_what_is_taught_are_distributions():
    taught = ensembled(tensor(FEATURES), tensor(Z).softmax(dim=1), 0.9)
    assert (taught > 0).all()
    assert_close(taught.sum(dim=1), [1.0, 1.0, 1.0], 1e-12)


def test_weight_zero_equals_cross_entropy_to_the_bit():
    assert_is_cross_entropy(bake(weight=0.0))


def test_answers_that_do_not_travel_teach_nothing():
    assert_close(bake(omega=0.0).losses(IMAGES, LABELS)[1]["bake"], 0.0, 1e-14)


def test_both_halves_of_the_batch_are_trained():
    torch.manual_seed(0)
    method = methods.build("bake", models.build("small_cnn", 4, (3, 8, 8), width=4))
    images, labels = batch(16)
    images.requires_grad_()
    sum(method.losses(images, labels)[1].values()).backward()
    assert images.grad[:8].any()
    assert images.grad[8:].any()
