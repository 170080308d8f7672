"""DRG and DSR: the released code's numbers through the class itself, values and gradients."""

import pytest
import torch
from torch import nn

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    A,
    P,
    Z,
    after_a_batch_of,
    assert_close,
    gradient,
    tensor,
)
from tests.trainables.test_losses import loop_cross_entropy, loop_distillation
from tests.trainables.tiny import VECTORS, Fixed, batch, fixed_classifier, same
from trainables import methods, models


def drg_dsr(dtype=torch.float64, logits=Z, shallow=A, **hyperparameters):
    """The method around logits Z, its auxiliary head replaced by one that gives A."""
    method = methods.build("drg_dsr", fixed_classifier(tensor(logits, dtype)), **hyperparameters)
    if method.auxiliary is not None:
        method.auxiliary = Fixed(tensor(shallow, dtype))
    return method


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_drg_dsr_equals_the_vectors_in_the_first_batch(dtype, error):
    logits, terms = drg_dsr(dtype).losses(IMAGES, LABELS)
    assert torch.equal(logits, tensor(Z, dtype))
    assert set(terms) == {"ce", "aux_ce", "drg"}
    assert_close(terms["ce"], VECTORS["ce_main"], error)
    assert_close(terms["aux_ce"], VECTORS["ce_aux"], error)
    assert_close(terms["drg"], VECTORS["drg_term_a0.2_T4"], error)
    assert_close(sum(terms.values()), VECTORS["total_first_batch"], error)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_drg_dsr_equals_the_vectors_and_their_gradients(dtype, error):
    method = after_a_batch_of(P, drg_dsr(dtype))
    _, terms = method.losses(IMAGES, LABELS)
    total, main = sum(terms.values()), method.model.head.logits
    assert set(terms) == {"ce", "aux_ce", "drg", "dsr"}
    assert_close(terms["dsr"], VECTORS["dsr_term_b1_T4"], error)
    assert_close(total, VECTORS["total"], error)
    assert_close(gradient(terms["drg"], main), VECTORS["grad_Z_drg"], error)
    assert_close(gradient(terms["dsr"], main), VECTORS["grad_Z_dsr"], error)
    assert_close(gradient(total, main), VECTORS["grad_Z_total"], error)
    assert_close(gradient(total, method.auxiliary.logits), VECTORS["grad_ZA_total"], error)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_each_temperature_is_its_own(temperature, dtype, error):
    method = drg_dsr(dtype, alpha=1.0, drg_temperature=temperature, dsr_temperature=4)
    terms = after_a_batch_of(P, method).losses(IMAGES, LABELS)[1]
    assert_close(terms["drg"], VECTORS[f"drg_kl_T{temperature}"], error)
    assert_close(terms["dsr"], VECTORS["dsr_kl_T4"], error)
    method = drg_dsr(dtype, alpha=1.0, drg_temperature=4, dsr_temperature=temperature)
    terms = after_a_batch_of(P, method).losses(IMAGES, LABELS)[1]
    assert_close(terms["drg"], VECTORS["drg_kl_T4"], error)
    assert_close(terms["dsr"], VECTORS[f"dsr_kl_T{temperature}"], error)


def test_temperature_1000_is_near_the_limit():
    method = drg_dsr(alpha=1.0, drg_temperature=1000)
    assert_close(method.losses(IMAGES, LABELS)[1]["drg"], VECTORS["drg_kl_T1000"], 2e-9)


def test_the_equation_as_a_loop_with_every_weight_unlike_its_default():
    weights = {"alpha": 0.7, "drg_temperature": 3.0, "aux_weight": 0.4}
    method = drg_dsr(**weights, beta=1.9, dsr_temperature=1.5)
    terms = after_a_batch_of(P, method).losses(IMAGES, LABELS)[1]
    y = VECTORS["y"]
    ranked, before = [sorted(row) for row in Z], [sorted(row) for row in P]
    expected = {
        "ce": loop_cross_entropy(Z, y),
        "aux_ce": 0.4 * loop_cross_entropy(A, y),
        "drg": 0.7 * loop_distillation(Z, A, 3.0),
        "dsr": 1.9 * loop_distillation(ranked, before, 1.5),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-12)


def test_all_weights_zero_equals_cross_entropy_in_value_and_gradient():
    method = after_a_batch_of(P, drg_dsr(alpha=0.0, beta=0.0, aux_weight=0.0))
    plain = methods.build("cross_entropy", fixed_classifier(tensor(Z)))
    total, reference = (sum(m.losses(IMAGES, LABELS)[1].values()) for m in (method, plain))
    assert total.item() == reference.item()
    ours, theirs = (
        gradient(*pair)
        for pair in ((total, method.model.head.logits), (reference, plain.model.head.logits))
    )
    assert torch.equal(ours, theirs)


def test_variants_train_only_what_they_name():
    def names(variant):
        method = after_a_batch_of(P, drg_dsr(variant=variant))
        return set(method.losses(IMAGES, LABELS)[1])

    assert names("drg") == {"ce", "aux_ce", "drg"}
    assert names("dsr") == {"ce", "dsr"}
    assert names("drg_dsr") == {"ce", "aux_ce", "drg", "dsr"}
    model = models.build("small_cnn", 4, (3, 8, 8), width=4)
    method = methods.build("drg_dsr", model, variant="dsr")
    assert {id(p) for p in method.parameters()} == {id(p) for p in model.parameters()}


def test_drg_is_zero_when_the_heads_differ_by_a_shift_of_each_row():
    shifted = tensor(Z) + tensor([[5.0], [-2.0], [0.3]])
    drg = drg_dsr(shallow=shifted.tolist()).losses(IMAGES, LABELS)[1]["drg"]
    assert abs(drg.item()) < 1e-14


def test_dsr_sees_the_shape_of_a_row_and_not_its_classes():
    order = [[4, 2, 0, 1, 3], [1, 0, 3, 4, 2], [2, 4, 1, 3, 0]]
    permuted = [[row[k] for k in way] for row, way in zip(Z, order, strict=True)]
    same_shape = after_a_batch_of(permuted, drg_dsr()).losses(IMAGES, LABELS)[1]["dsr"]
    assert abs(same_shape.item()) < 1e-14
    method = after_a_batch_of(P, drg_dsr(logits=permuted))
    assert_close(method.losses(IMAGES, LABELS)[1]["dsr"], VECTORS["dsr_kl_T4"], 1e-12)


def test_dsr_follows_the_last_batch_and_not_the_one_before_it():
    method = after_a_batch_of(P, drg_dsr(beta=1.0))
    method.losses(IMAGES, LABELS)
    assert abs(method.losses(IMAGES, LABELS)[1]["dsr"].item()) < 1e-14


@pytest.mark.parametrize(("carry", "expected"), [(False, False), (True, True)])
def test_memory_crosses_an_epoch_only_when_asked(carry, expected):
    method = after_a_batch_of(P, drg_dsr(carry_across_epochs=carry))
    method.start_epoch()
    assert ("dsr" in method.losses(IMAGES, LABELS)[1]) is expected
    assert "dsr" in method.losses(IMAGES, LABELS)[1]


def test_batches_of_unequal_size_are_compared_on_the_rows_they_share():
    for now, before in ((Z, P[:2]), (Z[:2], P)):
        method = drg_dsr(logits=now, shallow=A[: len(now)])
        labels = LABELS[: len(now)]
        parameter, kept = method.model.head.logits, tensor(now)
        parameter.data, method.auxiliary.logits.data = tensor(before), tensor(A[: len(before)])
        method.losses(IMAGES[: len(before)], LABELS[: len(before)])
        parameter.data, method.auxiliary.logits.data = kept, tensor(A[: len(now)])
        value = method.losses(IMAGES, labels)[1]["dsr"].item()
        shared = [[sorted(row) for row in rows[:2]] for rows in (Z, P)]
        assert value == pytest.approx(loop_distillation(*shared, 4.0), abs=1e-12)


def test_teachers_carry_no_gradient():
    method = after_a_batch_of(P, drg_dsr())
    assert not method.previous.requires_grad
    terms = method.losses(IMAGES, LABELS)[1]
    for term in ("drg", "dsr"):
        shallow = method.auxiliary.logits
        assert torch.autograd.grad(terms[term], shallow, retain_graph=True, allow_unused=True) == (
            None,
        )


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_auxiliary_cross_entropy_reaches_the_stages_up_to_its_tap_only(stage):
    method = methods.build("drg_dsr", models.build("small_cnn", 4, (3, 8, 8), width=4), stage=stage)
    terms = method.losses(*batch())[1]
    terms["aux_ce"].backward(retain_graph=True)
    for index, part in enumerate(method.model.stages):
        for parameter in part.parameters():
            assert (parameter.grad is not None) == (index < stage)
    assert all(p.grad is None for p in method.model.head.parameters())
    assert all(p.grad is not None for p in method.auxiliary.parameters())
    method.zero_grad()
    terms["drg"].backward()
    assert all(p.grad is None for p in method.auxiliary.parameters())
    assert all(p.grad is not None for p in method.model.parameters())


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_a_stage_the_backbone_has_not_is_refused(stage):
    with pytest.raises(ValueError, match=rf"^method.stage: {stage} .*\(1 to 3\)$"):
        methods.build("drg_dsr", models.build("small_cnn", 4, (3, 8, 8)), stage=stage)


def test_memory_is_in_the_state_and_none_is_too():
    fresh, method = drg_dsr(), after_a_batch_of(P, drg_dsr())
    other = drg_dsr()
    other.load_state_dict(method.state_dict())
    assert same(other.previous, tensor([sorted(row) for row in P]))
    other.load_state_dict(fresh.state_dict())
    assert other.previous is None


def test_evaluation_leaves_the_memory_alone():
    method = after_a_batch_of(P, drg_dsr())
    before = method.previous
    method(IMAGES)
    assert method.previous is before


def test_a_file_of_methods_offers_exactly_one():
    assert set(methods.classes()) >= {"cross_entropy", "drg_dsr"}
    for name, kind in methods.classes().items():
        assert issubclass(kind, methods.Method)
        assert kind.__module__ == f"trainables.methods.{name}"


def test_an_unknown_hyperparameter_is_a_type_error():
    with pytest.raises(TypeError, match="temprature"):
        methods.build("drg_dsr", models.build("small_cnn", 4, (3, 8, 8)), temprature=4.0)


def test_a_method_must_say_what_it_trains_on():
    with pytest.raises(NotImplementedError):
        methods.Method(fixed_classifier(tensor(Z))).losses(IMAGES, LABELS)


class Echo(nn.Module):
    def forward(self, images):
        return images


def test_the_gate_of_the_auxiliary_head_lies_between_a_half_and_one():
    method = methods.build("drg_dsr", models.build("small_cnn", 4, (3, 8, 8), width=4))
    head, features = method.auxiliary.eval(), torch.randn(2, 8, 5, 7)  # odd and not square
    head.trunk, head.head = Echo(), Echo()
    ratio = head(features) / features
    assert ratio.shape == features.shape
    assert ratio.min() >= 0.5 - 1e-6
    assert ratio.max() <= 1
