"""CS-KD: the released code's number, and a companion that teaches without being taught."""

import pytest
import torch

from tests.trainables.methods.vectors import (
    DTYPES,
    LABELS,
    A,
    Z,
    assert_close,
    gradient,
    naming,
    rows_classifier,
    slopes,
    tensor,
    total,
)
from tests.trainables.test_losses import loop_cross_entropy, loop_distillation
from tests.trainables.tiny import VECTORS, batch, fixed_classifier
from trainables import methods, models

IMAGES, TWICE = naming(0, 1, 2, 3, 4, 5), LABELS.repeat(2)


def class_wise(dtype=torch.float64, **hyperparameters):
    """The method around logits Z of the images and A of their companions."""
    return methods.build("cs_kd", rows_classifier(tensor(Z + A, dtype)), **hyperparameters)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_it_equals_the_vector(dtype, error):
    method = class_wise(dtype)
    logits, terms = method.losses(IMAGES, TWICE)
    assert torch.equal(logits, tensor(Z, dtype))
    assert set(terms) == {"ce", "cs"}
    assert_close(terms["ce"], VECTORS["ce_main"], error)
    assert_close(sum(terms.values()), VECTORS["others"]["cskd_T4_l1"], error)


def test_the_equation_as_a_loop_and_its_gradient_which_spares_the_companions():
    def loop(rows):
        taught = loop_distillation(rows, A, 2.5)
        return loop_cross_entropy(rows, VECTORS["y"]) + 0.7 * taught

    method = class_wise(weight=0.7, temperature=2.5)
    loss = total(method, IMAGES, TWICE)
    assert_close(loss, loop(Z), 1e-12)
    found = gradient(loss, method.model.head.logits)
    assert_close(found[:3], slopes(loop, Z), 1e-8)
    assert not found[3:].any()


def test_a_companion_that_answers_alike_teaches_nothing():
    method = methods.build("cs_kd", rows_classifier(tensor(Z)))
    terms = method.losses(naming(0, 1, 2, 0, 1, 2), TWICE)[1]
    assert_close(terms["cs"], 0.0, 1e-14)


def test_weight_zero_equals_cross_entropy_of_the_images_alone_to_the_bit():
    method = class_wise(weight=0.0)
    plain = methods.build("cross_entropy", fixed_classifier(tensor(Z)))
    ours, theirs = total(method, IMAGES, TWICE), total(plain)
    assert ours.item() == theirs.item()
    found = gradient(ours, method.model.head.logits)[:3]
    assert torch.equal(found, gradient(theirs, plain.model.head.logits))


def test_each_half_is_a_batch_of_its_own_to_batch_norm():
    torch.manual_seed(0)
    model = models.build("small_cnn", 4, (3, 8, 8), width=4)
    method = methods.build("cs_kd", model)
    images, labels = batch(16)
    logits, _ = method.losses(images, labels)
    assert torch.equal(logits, model(images[:8]))
    assert model.stages[0][1].num_batches_tracked == 3  # the two of the method and this one


def test_the_forward_pass_without_gradient_leaves_none_out_under_mixed_precision():
    torch.manual_seed(0)
    method = methods.build("cs_kd", models.build("small_cnn", 4, (3, 8, 8), width=4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(method, *batch(16))
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())
