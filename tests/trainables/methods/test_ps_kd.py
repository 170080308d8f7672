"""PS-KD: the released code's numbers, and what it knows of which image from which epoch."""

import io

import pytest
import torch

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    A,
    P,
    Z,
    assert_close,
    assert_is_cross_entropy,
    gradient,
    slopes,
    tensor,
)
from tests.trainables.test_losses import loop_cross_entropy, softmax
from tests.trainables.tiny import VECTORS, batch, config, fixed_classifier, repeated, same
from trainables import methods, models
from trainables.checkpoint import Checkpoints
from trainables.methods import Task
from trainables.storage import Folder
from trainables.training import Training

OTHERS = VECTORS["others"]["pskd"]
HOT = [[float(k == label) for k in range(5)] for label in VECTORS["y"]]


def progressive(dtype=torch.float64, images=3, epochs=10, logits=Z, **hyperparameters):
    model = fixed_classifier(tensor(logits, dtype))
    method = methods.build("ps_kd", model, **hyperparameters)
    method.start_training(Task(images, epochs, torch.zeros(1), torch.ones(1)))
    return method


def trained(method, indices=(0, 1, 2), logits=None):
    """The terms of a batch of those images, which have these logits."""
    parameter = method.model.head.logits
    now = parameter.data
    parameter.data = now if logits is None else tensor(logits, now.dtype)
    method.start_batch(torch.tensor(indices))
    terms = method.losses(IMAGES[: len(indices)], LABELS[: len(indices)])[1]
    parameter.data = now
    return terms


def loop_soft(rows, targets):
    found = 0.0
    for row, target in zip(rows, targets, strict=True):
        for t, p in zip(target, softmax(row), strict=True):
            found -= t * tensor(p).log().item() / len(rows)
    return found


def values(terms):
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize("epoch", [0, 149, 299])
def test_it_equals_the_vectors(epoch, dtype, error):
    method = progressive(dtype, epochs=300)
    for _ in range(epoch + 1):
        method.start_epoch()
    trained(method, logits=A)
    terms = trained(method)
    assert set(terms) == {"ce", "past"}
    assert_close(sum(terms.values()), OTHERS[f"epoch{epoch}_of_300_aT0.8"], error)


def test_the_equation_as_a_loop_and_its_gradient_which_spares_the_past():
    past, share = [softmax(row) for row in A], 0.6 * 3 / 10

    def loop(rows):
        hard = loop_cross_entropy(rows, VECTORS["y"])
        return {"ce": (1 - share) * hard, "past": share * loop_soft(rows, past)}

    method = progressive(alpha=0.6)
    for _ in range(3):
        method.start_epoch()
    trained(method, logits=A)
    method.start_batch(torch.arange(3))
    terms = method.losses(IMAGES, LABELS)[1]
    assert values(terms) == pytest.approx(loop(Z), abs=1e-12)
    found = gradient(sum(terms.values()), method.model.head.logits)
    assert_close(found, slopes(lambda rows: sum(loop(rows).values()), Z), 1e-8)
    # the two terms are the cross entropy towards the mixed target
    mixed = [
        [(1 - share) * h + share * p for h, p in zip(*pair, strict=True)]
        for pair in zip(HOT, past, strict=True)
    ]
    assert_close(sum(terms.values()), loop_soft(Z, mixed), 1e-12)


def test_images_that_are_new_have_the_label_alone():
    method = progressive(images=9)
    method.start_epoch()
    plain = loop_cross_entropy(Z, VECTORS["y"])
    share = 0.8 / 10
    expected = {"ce": (1 - share) * plain, "past": share * plain}
    for indices in ((0, 1, 2), (6, 3, 8)):
        assert values(trained(method, indices)) == pytest.approx(expected, abs=1e-12)


def test_the_past_is_each_images_own_and_the_last_one_it_had():
    method = progressive(images=9)
    method.start_epoch()
    trained(method, (4, 2, 7), P)
    trained(method, (5, 0, 1), Z)
    method.start_epoch()
    trained(method, (2, 4, 5), A)  # image 7 is left out of this epoch, 3 of both
    method.start_epoch()
    past = [softmax(A[1]), softmax(P[2]), HOT[2]]
    expected = 0.8 * 3 / 10 * loop_soft(Z, past)
    assert trained(method, (4, 7, 3))["past"].item() == pytest.approx(expected, abs=1e-12)


def test_the_share_of_the_past_grows_to_alpha_and_each_batch_of_an_epoch_has_the_same():
    method = progressive(images=6, epochs=4, alpha=0.5)
    plain = loop_cross_entropy(Z, VECTORS["y"])
    for epoch in range(4):
        method.start_epoch()
        for indices in ((0, 1, 2), (3, 4, 5)):
            kept = 1 - 0.5 * (epoch + 1) / 4
            ce = trained(method, indices)["ce"].item()
            assert ce == pytest.approx(kept * plain, abs=1e-12)


def test_alpha_zero_equals_cross_entropy_to_the_bit():
    method = progressive(alpha=0.0)
    for _ in range(2):
        method.start_epoch()
        trained(method, logits=A)
    method.start_batch(torch.arange(3))
    assert_is_cross_entropy(method)


def test_a_prediction_is_kept_whole_under_mixed_precision():
    torch.manual_seed(0)
    method = methods.build("ps_kd", models.build("small_cnn", 4, (3, 8, 8), width=4))
    method.start_training(Task(8, 2, torch.zeros(3), torch.ones(3)))
    method.start_batch(torch.arange(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = method.losses(*batch())
    assert logits.dtype == method.predictions.dtype == torch.float32
    assert torch.equal(method.predictions, logits.detach().softmax(dim=1))
    assert not method.predictions.requires_grad


def test_without_a_task_or_a_word_of_which_images_nothing_is_remembered():
    method = methods.build("ps_kd", fixed_classifier(tensor(Z)))
    method.start_epoch()
    method.start_batch(torch.arange(3))
    plain = loop_cross_entropy(Z, VECTORS["y"])
    for _ in range(2):
        terms = method.losses(IMAGES, LABELS)[1]
        assert sum(terms.values()).item() == pytest.approx(plain, abs=1e-12)
    method = progressive()
    trained(method)
    before = method.predictions.clone()
    method.losses(IMAGES, LABELS)  # whose images? not those of the batch before
    assert torch.equal(method.predictions, before)


def test_evaluation_leaves_the_memory_alone():
    method = progressive()
    trained(method)
    before = method.predictions.clone()
    method.start_batch(torch.arange(3))
    method(IMAGES + 1)
    assert torch.equal(method.predictions, before)


def test_memory_and_epoch_are_in_the_state():
    method, other = progressive(), progressive()
    for _ in range(4):
        method.start_epoch()
    trained(method, logits=A)
    buffer = io.BytesIO()
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert same(trained(other), trained(method))
    method.start_epoch()
    other.start_epoch()
    assert same(trained(other), trained(method))
    assert method.to("meta").predictions.device.type == "meta"


@pytest.mark.parametrize("images", [2, 4])
def test_the_state_of_other_images_is_refused(images):
    with pytest.raises(RuntimeError, match="size mismatch for predictions"):
        progressive(images=images).load_state_dict(progressive().state_dict())


def test_a_training_taken_up_again_equals_the_unbroken_one(tmp_path):
    section = config(method={"name": "ps_kd"}, data={"images": 50}, epochs=4)
    whole = Training(**section)
    reports = list(whole.epochs())
    batches = Training(**section).epochs(Checkpoints(Folder(tmp_path), "t"))
    for _ in range(2):
        next(batches)
    resumed = Training(**section)
    again = list(resumed.epochs(Checkpoints(Folder(tmp_path), "t")))
    assert repeated(again) == repeated(reports)
    assert same(resumed.method.state_dict(), whole.method.state_dict())
    # the batches of an epoch hold 32 of the images; the others came in other epochs
    assert whole.method.predictions.any(dim=1).sum() > 32
    final = reports[-1]  # with the labels alone the two would be equal
    assert final["loss/past"] / 0.8 != pytest.approx(final["loss/ce"] / 0.2, rel=1e-4)
