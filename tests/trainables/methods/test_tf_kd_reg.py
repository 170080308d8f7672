"""Tf-KD_reg: the released code's numbers through one weight, the paper's, the virtual teacher."""

import math

import pytest
import torch

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    LABELS_100,
    Z_100,
    Z,
    assert_close,
    assert_is_cross_entropy,
    gradient,
    slopes,
    tensor,
    total,
)
from tests.trainables.test_losses import loop_cross_entropy, softmax
from tests.trainables.tiny import VECTORS, fixed_classifier
from trainables import methods

TFKD = VECTORS["tfkd"]


def regularized(dtype=torch.float64, logits=Z, **hyperparameters):
    return methods.build("tf_kd_reg", fixed_classifier(tensor(logits, dtype)), **hyperparameters)


def virtual_teacher(label, classes, temperature):
    probabilities = [0.99 if k == label else 0.01 / (classes - 1) for k in range(classes)]
    return softmax(probabilities, temperature)


def loop_divergence(rows, labels, temperature, tempered):
    found = 0.0
    for row, label in zip(rows, labels, strict=True):
        q = softmax(row, temperature if tempered else 1.0)
        for k, p in enumerate(virtual_teacher(label, len(row), temperature)):
            found += p * (math.log(p) - math.log(q[k]))
    return found / len(rows)


def scaled(alpha, ratio):
    """s and eps with (1 - alpha) * CE + alpha * ratio * KL = s * [(1 - eps) * CE + eps * KL]."""
    scale = 1 - alpha + alpha * ratio
    return scale, alpha * ratio / scale


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize(
    ("name", "logits", "labels", "alpha", "temperature", "multiplier"),
    [
        ("loss_reg_a0.1_T20_m100", Z, LABELS, 0.1, 20, 100),
        ("loss_reg_a0.95_T40_m1", Z, LABELS, 0.95, 40, 1),
        ("K100_loss_reg_a0.1_T20_m100", Z_100, LABELS_100, 0.1, 20, 100),
        ("K100_loss_reg_a0.95_T40_m1", Z_100, LABELS_100, 0.95, 40, 1),
        ("K100_loss_reg_a0.95_T10_m1", Z_100, LABELS_100, 0.95, 10, 1),
    ],
)
def test_it_equals_the_vectors_of_the_code(
    name, logits, labels, alpha, temperature, multiplier, dtype, error
):
    scale, eps = scaled(alpha, multiplier / len(logits[0]))
    method = regularized(dtype, logits, eps=eps, temperature=temperature)
    assert_close(scale * total(method, labels=labels), TFKD[name], error)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_form_paper_equals_the_vectors_with_t_squared_and_rescaled_without(dtype, error):
    paper = {"form": "paper", "temperature": 20.0}
    value = total(regularized(dtype, Z_100, **paper), labels=LABELS_100)
    assert_close(value, TFKD["K100_reg_paper_Eq9_T2_a0.1_T20"], error)
    scale, eps = scaled(0.1, 1 / 20**2)
    value = scale * total(regularized(dtype, Z_100, eps=eps, **paper), labels=LABELS_100)
    assert_close(value, TFKD["K100_reg_paper_Eq9_noT2_a0.1_T20"], error)


def test_the_authors_resnet18_is_the_default_and_has_no_scale():
    scale, eps = scaled(0.1, 100 / 100)
    assert (scale, eps) == pytest.approx((1.0, 0.1), abs=1e-15)
    value = total(regularized(logits=Z_100), labels=LABELS_100)
    assert_close(value, TFKD["K100_loss_reg_a0.1_T20_m100"], 1e-10)


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize(("eps", "temperature"), [(0.35, 2.5), (0.1, 20.0), (1.0, 1.0)])
def test_the_equation_as_a_loop_and_its_gradient(form, eps, temperature):
    def loop(rows):
        divergence = loop_divergence(rows, VECTORS["y"], temperature, form == "paper")
        factor = temperature**2 if form == "paper" else 1.0
        return (1 - eps) * loop_cross_entropy(rows, VECTORS["y"]), eps * factor * divergence

    method = regularized(eps=eps, form=form, temperature=temperature)
    terms = method.losses(IMAGES, LABELS)[1]
    assert [terms["ce"].item(), terms["reg"].item()] == pytest.approx(loop(Z), abs=1e-12)
    expected = slopes(lambda rows: sum(loop(rows)), Z)
    assert_close(gradient(sum(terms.values()), method.model.head.logits), expected, 1e-7)


@pytest.mark.parametrize("eps", [0.053, 0.1, 0.5])
def test_a_multiplier_of_k_is_the_weighted_mean_of_the_two(eps):
    scale, same = scaled(eps, 5 / 5)
    assert (scale, same) == pytest.approx((1.0, eps), abs=1e-15)
    expected = (1 - eps) * loop_cross_entropy(Z, VECTORS["y"])
    expected += eps * loop_divergence(Z, VECTORS["y"], 20.0, tempered=False)
    assert_close(total(regularized(eps=eps)), expected, 1e-12)


@pytest.mark.parametrize("temperature", [1, 10, 20, 40])
def test_the_virtual_teacher_is_the_softmax_of_probabilities(temperature):
    method = regularized(logits=Z_100, eps=1.0, temperature=float(temperature))
    loss = total(method, labels=LABELS_100)
    # the gradient of the divergence is (softmax(z) - v) / N
    teacher = tensor(Z_100).softmax(dim=1) - 4 * gradient(loss, method.model.head.logits)
    right, other = TFKD[f"virtual_teacher_K100_T{temperature}"]["code_softmax_of_probs"]
    expected = torch.full((4, 100), other, dtype=torch.float64)
    expected[range(4), LABELS_100] = right
    assert_close(teacher, expected, 1e-12)


def test_the_temperature_of_form_code_is_nearly_dead_from_10_on_and_that_of_form_paper_is_not():
    def spread(form):
        losses = [
            total(regularized(logits=Z_100, eps=0.16, form=form, temperature=t), labels=LABELS_100)
            for t in (10.0, 40.0)
        ]
        return abs((losses[0] - losses[1]).item())

    assert spread("code") < 2e-5
    assert spread("paper") > 100 * spread("code")


@pytest.mark.parametrize("form", ["code", "paper"])
def test_eps_zero_equals_cross_entropy_to_the_bit(form):
    assert_is_cross_entropy(regularized(eps=0.0, form=form))
