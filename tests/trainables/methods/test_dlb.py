"""DLB: the released code's number, and what is kept of a batch for the one after it."""

import copy
import io

import pytest
import torch

from tests.trainables.methods.vectors import (
    DTYPES,
    LABELS,
    A,
    P,
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
from tests.trainables.tiny import VECTORS, batch, fixed_classifier, same
from trainables import methods, models

# The first batch is seen as rows A of the logits and, later, as rows Z; the second one as rows P.
FIRST, SECOND = naming(3, 4, 5, 0, 1, 2), naming(6, 7, 8, 6, 7, 8)
OTHERS = LABELS[[2, 0, 1]]  # the labels of the second batch


def last_batch(dtype=torch.float64, **hyperparameters):
    return methods.build("dlb", rows_classifier(tensor(Z + A + P, dtype)), **hyperparameters)


def first(method):
    method.losses(FIRST, LABELS.repeat(2))
    return method


def second(method):
    return method.losses(SECOND, OTHERS.repeat(2))


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_it_equals_the_vector(dtype, error):
    logits, terms = second(first(last_batch(dtype)))
    assert torch.equal(logits, tensor(P, dtype))
    assert set(terms) == {"ce", "dlb"}
    assert_close(sum(terms.values()), VECTORS["others"]["dlb_T3_a1"], error)


def test_the_equation_as_a_loop_and_its_gradient_which_spares_the_teacher():
    y, others = VECTORS["y"], OTHERS.tolist()

    def loop(rows):
        ce = loop_cross_entropy(rows, y + others)
        return ce, 0.7 * loop_distillation(rows[:3], A, 2.5)

    method = first(last_batch(alpha=0.7, temperature=2.5))
    terms = second(method)[1]
    assert [terms["ce"].item(), terms["dlb"].item()] == pytest.approx(loop(Z + P), abs=1e-12)
    found = gradient(sum(terms.values()), method.model.head.logits)
    expected = slopes(lambda rows: sum(loop(rows)), Z + P)
    assert_close(found[[0, 1, 2, 6, 7, 8]], expected, 1e-8)
    assert not found[3:6].any()


def test_the_first_batch_of_an_epoch_is_cross_entropy_to_the_bit():
    method = methods.build("dlb", rows_classifier(tensor(Z + A + P)))
    plain = methods.build("cross_entropy", fixed_classifier(tensor(Z)))
    for _ in range(2):  # an epoch each
        method.start_epoch()
        loss = total(method, naming(0, 1, 2, 6, 7, 8), LABELS.repeat(2))
        assert loss.item() == total(plain).item()
        found = gradient(loss, method.model.head.logits)
        assert torch.equal(found[:3], gradient(total(plain), plain.model.head.logits))


def test_alpha_zero_equals_cross_entropy_of_both_halves():
    terms = second(first(last_batch(alpha=0.0)))[1]
    expected = loop_cross_entropy(Z + P, VECTORS["y"] + OTHERS.tolist())
    assert terms["dlb"].item() == 0
    assert_close(sum(terms.values()), expected, 1e-12)


def test_a_batch_learns_from_the_logits_it_had_and_not_from_todays():
    method = first(last_batch())
    with torch.no_grad():
        method.model.head.logits[3:6] += 5 * torch.rand(3, 5, dtype=torch.float64)
    assert_close(sum(second(method)[1].values()), VECTORS["others"]["dlb_T3_a1"], 1e-10)


def test_batches_of_unequal_size_follow_each_other():
    method = first(last_batch())
    logits, terms = method.losses(naming(6, 6), OTHERS[:1].repeat(2))
    assert logits.shape == (1, 5)
    expected = loop_cross_entropy(Z + P[:1], VECTORS["y"] + OTHERS.tolist()[:1])
    assert_close(terms["ce"], expected, 1e-12)
    assert len(method.previous["images"]) == 1


def test_both_halves_are_one_batch_to_batch_norm():
    torch.manual_seed(0)
    model = models.build("small_cnn", 4, (3, 8, 8), width=4)
    method = methods.build("dlb", model)
    (one, labels), (two, _) = batch(16, seed=1), batch(16, seed=2)
    method.losses(one, labels)
    expected = copy.deepcopy(model)(torch.cat([one[8:], two[:8]]))[8:]
    assert torch.equal(method.losses(two, labels)[0], expected)
    assert model.stages[0][1].num_batches_tracked == 2


def test_nothing_crosses_an_epoch():
    method = first(last_batch())
    method.start_epoch()
    assert method.get_extra_state() == {"previous": None}
    assert set(second(method)[1]) == {"ce"}


def test_evaluation_leaves_the_memory_alone():
    method = first(last_batch())
    before = method.previous
    method(FIRST)
    assert method.previous is before


def test_memory_is_in_the_state_without_the_rest_of_its_batch():
    method, other = first(last_batch()), last_batch()
    buffer = io.BytesIO()
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    other.load_state_dict(state)
    assert same(other.previous, method.previous)
    assert same(second(other), second(method))
    kept = state["_extra_state"]["previous"]["images"]
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()
    other.load_state_dict(last_batch().state_dict())
    assert other.previous is None
