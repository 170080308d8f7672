"""Label smoothing: the released code's numbers, torch's own, and the equation as a loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    LABELS_100,
    Z_100,
    Z,
    assert_close,
    gradient,
    slopes,
    tensor,
    total,
)
from tests.trainables.test_losses import softmax
from tests.trainables.tiny import VECTORS, fixed_classifier
from trainables import methods

TFKD = VECTORS["tfkd"]


def smoothing(dtype=torch.float64, logits=Z, **hyperparameters):
    return methods.build(
        "label_smoothing", fixed_classifier(tensor(logits, dtype)), **hyperparameters
    )


def loop(rows, labels, eps):
    found = 0.0
    for row, label in zip(rows, labels, strict=True):
        for k, p in enumerate(softmax(row)):
            found -= (1 - eps if k == label else eps / (len(row) - 1)) * math.log(p)
    return found / len(rows)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_it_equals_the_vectors(dtype, error):
    logits, terms = smoothing(dtype).losses(IMAGES, LABELS)
    assert torch.equal(logits, tensor(Z, dtype))
    assert list(terms) == ["ce"]
    assert_close(terms["ce"], TFKD["lsr_a0.1"], error)
    hundred = total(smoothing(dtype, Z_100), labels=LABELS_100)
    assert_close(hundred, TFKD["K100_lsr_a0.1"], error)


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.3, 0.8])
def test_the_equation_as_a_loop_and_its_gradient(eps):
    method = smoothing(eps=eps)
    loss = total(method)
    assert_close(loss, loop(Z, VECTORS["y"], eps), 1e-12)
    expected = slopes(lambda rows: loop(rows, VECTORS["y"], eps), Z)
    assert_close(gradient(loss, method.model.head.logits), expected, 1e-8)


@pytest.mark.parametrize(("logits", "labels"), [(Z, LABELS), (Z_100, LABELS_100)])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.3])
def test_it_equals_torch_which_shares_among_all_classes(eps, logits, labels):
    classes = len(logits[0])
    theirs = F.cross_entropy(tensor(logits), labels, label_smoothing=eps * classes / (classes - 1))
    assert_close(total(smoothing(logits=logits, eps=eps), labels=labels), theirs.item(), 1e-12)


def test_nothing_smoothed_equals_cross_entropy_in_value_and_gradient():
    method, logits = smoothing(eps=0.0), tensor(Z).requires_grad_()
    loss, plain = total(method), F.cross_entropy(logits, LABELS)
    assert_close(loss, plain.item(), 1e-12)
    assert_close(gradient(loss, method.model.head.logits), gradient(plain, logits), 1e-12)
