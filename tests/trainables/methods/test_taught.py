"""kd and tf_kd_self: the released code's numbers, and a teacher that stays as it is."""

import pytest
import torch

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    A,
    Z,
    assert_close,
    gradient,
    tensor,
)
from tests.trainables.test_losses import loop_cross_entropy, loop_distillation
from tests.trainables.tiny import VECTORS, batch, fixed_classifier
from trainables import methods, models, shipping
from trainables.methods import Task

TFKD = VECTORS["tfkd"]
CODE = {"temperature": 20.0, "multiplier": 1.0}  # of the released code's normal KD
LABELS_100 = torch.tensor(VECTORS["inputs100"]["y"])
Z_100 = [[3 * torch.sin(torch.tensor(0.7 * (k + 1) * (i + 1), dtype=torch.float64)).item()
          for k in range(100)] for i in range(4)]  # fmt: skip
T_100 = [[2 * torch.cos(torch.tensor(0.3 * (k + 1) + i, dtype=torch.float64)).item()
          for k in range(100)] for i in range(4)]  # fmt: skip


def taught(name, dtype=torch.float64, logits=Z, teacher=A, **hyperparameters):
    """The method around logits Z, its teacher replaced by one that answers A."""
    model = fixed_classifier(tensor(logits, dtype))
    method = methods.build(name, model, teacher="nowhere", **hyperparameters)
    method.teacher.shipped = shipping.Shipped(
        fixed_classifier(tensor(teacher, dtype)), torch.zeros(1), torch.ones(1), ()
    )
    return method


def total(method, labels=LABELS):
    return sum(method.losses(torch.zeros(len(labels), 1, 8, 8), labels)[1].values())


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("kd", {"alpha": 0.95, **CODE}, "loss_kd_a0.95_T20"),
        ("kd", {"alpha": 0.6, **CODE}, "loss_kd_a0.6_T20"),
        ("tf_kd_self", {}, "loss_kd_self_a0.95_T6_m50"),
    ],
)
def test_it_equals_the_vectors(name, settings, expected, dtype, error):
    assert_close(total(taught(name, dtype, **settings)), TFKD[expected], error)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("kd", {"alpha": 0.95, **CODE}, "K100_loss_kd_a0.95_T20"),
        ("tf_kd_self", {}, "K100_loss_kd_self_a0.95_T6_m50"),
    ],
)
def test_it_equals_the_vectors_of_100_classes(name, settings, expected, dtype, error):
    method = taught(name, dtype, Z_100, T_100, **settings)
    assert_close(total(method, LABELS_100), TFKD[expected], error)


@pytest.mark.parametrize("name", ["kd", "tf_kd_self"])
@pytest.mark.parametrize(("multiplier", "weight"), [(None, 1.0), (3.0, 3 / 5)])
def test_the_equation_as_a_loop_and_its_gradient(name, multiplier, weight):
    method = taught(name, alpha=0.3, temperature=2.5, multiplier=multiplier)
    terms = method.losses(IMAGES, LABELS)[1]

    def loop(rows):
        ce = 0.7 * loop_cross_entropy(rows, VECTORS["y"])
        return ce, 0.3 * weight * loop_distillation(rows, A, 2.5)

    assert [terms["ce"].item(), terms["kl"].item()] == pytest.approx(loop(Z), abs=1e-12)
    found = gradient(sum(terms.values()), method.model.head.logits)
    step = 1e-6
    for row in range(3):
        for column in range(5):
            up, down = ([list(r) for r in Z] for _ in range(2))
            up[row][column] += step
            down[row][column] -= step
            slope = (sum(loop(up)) - sum(loop(down))) / (2 * step)
            assert found[row, column].item() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("name", ["kd", "tf_kd_self"])
def test_alpha_zero_equals_cross_entropy_in_value_and_gradient(name):
    method = taught(name, alpha=0.0)
    plain = methods.build("cross_entropy", fixed_classifier(tensor(Z)))
    ours, theirs = total(method), total(plain)
    assert ours.item() == theirs.item()
    assert torch.equal(
        gradient(ours, method.model.head.logits), gradient(theirs, plain.model.head.logits)
    )


def test_alpha_one_with_a_teacher_that_is_the_student_has_no_loss():
    method = taught("kd", alpha=1.0, teacher=Z)
    assert_close(total(method), 0.0, 1e-12)


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(3)
    network = models.build("small_cnn", 4, (3, 8, 8))
    network.stages[0][1].running_mean.fill_(0.3)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    shipped = shipping.Shipped(network, mean, std, tuple("abcd")).eval()
    shipping.save(tmp_path, shipped, {"name": "small_cnn"}, (3, 8, 8))
    return str(tmp_path), shipped


def test_the_teacher_sees_the_images_as_it_is_used_to(teacher):
    place, shipped = teacher
    method = methods.build("kd", models.build("small_cnn", 4, (3, 8, 8)), teacher=place)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    method.start_training(Task(8, 1, mean, std))
    images = torch.rand(8, 3, 8, 8)
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(
        method.teacher.logits(normalised), shipped(images).detach(), atol=1e-5, rtol=1e-5
    )


def test_reading_the_teacher_leaves_the_trainings_random_numbers_alone(teacher):
    method = methods.build("kd", models.build("small_cnn", 4, (3, 8, 8)), teacher=teacher[0])
    before = torch.get_rng_state()  # a backbone's dropout draws from it, resumed or not
    method.teacher.logits(torch.rand(2, 3, 8, 8, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_teacher_is_no_part_of_what_is_trained_saved_or_shipped(teacher):
    method = methods.build("kd", models.build("small_cnn", 4, (3, 8, 8)), teacher=teacher[0])
    plain = models.build("small_cnn", 4, (3, 8, 8))
    before = {name: value.clone() for name, value in teacher[1].state_dict().items()}
    method.train()
    sgd = torch.optim.SGD(method.parameters(), lr=0.1)
    sum(method.losses(*batch())[1].values()).backward()
    sgd.step()
    after = method.teacher.shipped.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [name.removeprefix("model.") for name in method.state_dict()] == [*plain.state_dict()]
    assert len(list(method.parameters())) == len(list(plain.parameters()))


def test_without_a_teacher_the_first_batch_says_so():
    method = methods.build("tf_kd_self", models.build("small_cnn", 4, (3, 8, 8)))
    with pytest.raises(ValueError, match=r"method\.teacher"):
        method.losses(*batch())


def test_a_folder_without_a_model_is_named(tmp_path):
    method = methods.build("kd", models.build("small_cnn", 4, (3, 8, 8)), teacher=str(tmp_path))
    with pytest.raises(OSError, match=r"model\.json"):
        method.losses(*batch())
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="no model that can be read"):
        method.losses(*batch())
