"""The shared loss terms: equal to the published vectors and to plain Python loops."""

import math

import pytest
import torch

from tests.trainables.tiny import VECTORS
from trainables.losses import cross_entropy, distillation, smoothed
from trainables.precision import full_precision

Z, A, P, Y = (VECTORS[name] for name in ("Z", "A", "P", "y"))
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-6)]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def loop_cross_entropy(logits, labels) -> float:
    return sum(
        -math.log(softmax(row)[label]) for row, label in zip(logits, labels, strict=True)
    ) / len(labels)


def loop_distillation(student, teacher, temperature: float) -> float:
    total = 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        q, p = softmax(s_row, temperature), softmax(t_row, temperature)
        for k in range(len(p)):
            total += p[k] * (math.log(p[k]) - math.log(q[k]))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_cross_entropy_equals_the_vectors(dtype, error):
    labels = torch.tensor(Y)
    for logits, name in ((Z, "ce_main"), (A, "ce_aux")):
        value = cross_entropy(torch.tensor(logits, dtype=dtype), labels).item()
        assert value == pytest.approx(VECTORS[name], abs=error, rel=0)
        assert value == pytest.approx(loop_cross_entropy(logits, Y), abs=error, rel=0)


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_cross_entropy_towards_a_distribution_is_the_weighted_mean_over_its_classes(dtype, error):
    logits, teacher = (torch.tensor(value, dtype=dtype) for value in (Z, A))
    targets = teacher.requires_grad_().softmax(dim=1)
    value = cross_entropy(logits.requires_grad_(), targets)
    expected = 0.0
    for z_row, a_row in zip(Z, A, strict=True):
        for q, p in zip(softmax(z_row), softmax(a_row), strict=True):
            expected -= p * math.log(q) / len(Z)
    assert value.item() == pytest.approx(expected, abs=error, rel=0)
    value.backward()
    assert logits.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_smoothed_labels_share_evenly_among_the_other_classes(share):
    targets = smoothed(torch.tensor(Y), share, torch.tensor(Z, dtype=torch.float64))
    for row, label in zip(targets.tolist(), Y, strict=True):
        expected = [1 - share if k == label else share / 4 for k in range(5)]
        assert row == pytest.approx(expected, abs=1e-15)
    assert smoothed(torch.tensor(Y), share, torch.tensor(Z).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_distillation_equals_the_vectors(temperature, dtype, error):
    tensors = (torch.tensor(value, dtype=dtype) for value in (Z, A))
    value = distillation(*tensors, temperature).item()
    assert value == pytest.approx(VECTORS[f"drg_kl_T{temperature}"], abs=error, rel=0)
    assert value == pytest.approx(loop_distillation(Z, A, temperature), abs=error, rel=0)
    ranked = [[sorted(row) for row in rows] for rows in (Z, P)]
    tensors = (torch.tensor(value, dtype=dtype) for value in ranked)
    value = distillation(*tensors, temperature).item()
    assert value == pytest.approx(VECTORS[f"dsr_kl_T{temperature}"], abs=error, rel=0)


def test_distillation_at_a_huge_temperature_compares_the_centred_logits():
    value = distillation(
        torch.tensor(Z, dtype=torch.float64), torch.tensor(A, dtype=torch.float64), 1000
    ).item()
    # T^2 multiplies the rounding of float64: 1e6 times 1e-16 and a little
    assert value == pytest.approx(VECTORS["drg_kl_T1000"], abs=2e-9, rel=0)
    limit = 0.0  # KL tends to the variance over classes of the difference, over twice T^2
    for z_row, a_row in zip(Z, A, strict=True):
        gaps = [z - a for z, a in zip(z_row, a_row, strict=True)]
        middle = sum(gaps) / len(gaps)
        limit += sum((gap - middle) ** 2 for gap in gaps) / len(gaps) / 2 / len(Z)
    assert limit == pytest.approx(VECTORS["limit_T_inf_drg"], abs=1e-12)
    assert value == pytest.approx(limit, rel=1e-3)


def test_distillation_is_zero_under_row_shifts_and_positive_else():
    student = torch.tensor(Z, dtype=torch.float64)
    shifted = student + torch.tensor([[3.0], [-7.0], [0.1]], dtype=torch.float64)
    assert abs(distillation(student, shifted, 4.0).item()) < 1e-14
    assert distillation(student, student.flip(1), 4.0).item() > 0.1


def test_no_gradient_reaches_the_teacher():
    student, teacher = (torch.tensor(value, requires_grad=True) for value in (Z, A))
    distillation(student, teacher, 2.0).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_scored_in_float32(dtype):
    logits = torch.tensor(Z, dtype=dtype)
    assert full_precision(logits).dtype == torch.float32
    assert cross_entropy(logits, torch.tensor(Y)).dtype == torch.float32
    assert distillation(logits, torch.tensor(A, dtype=dtype), 4.0).dtype == torch.float32
    # 0.2 and 0.3 round in half precision, so this is near and not equal
    value = distillation(logits, torch.tensor(A, dtype=dtype), 4.0).item()
    assert value == pytest.approx(VECTORS["drg_kl_T4"], abs=2e-3)


def test_float64_stays_float64():
    assert full_precision(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_a_teacher_that_is_not_detached_learns_too():
    student, teacher = (torch.tensor(value, dtype=torch.float64) for value in (Z, A))
    teacher.requires_grad_()
    value = distillation(student, teacher, 3.0, detach=False)
    assert value.item() == distillation(student, teacher, 3.0).item()
    (slope,) = torch.autograd.grad(value, teacher)
    for n, (s_row, t_row) in enumerate(zip(Z, A, strict=True)):
        q, p = softmax(s_row, 3.0), softmax(t_row, 3.0)
        ratios = [math.log(p_k / q_k) for p_k, q_k in zip(p, q, strict=True)]
        row = sum(p_k * ratio for p_k, ratio in zip(p, ratios, strict=True))
        for k in range(len(p)):  # d KL / d (t_k / T) = p_k (log(p_k / q_k) - KL), times T^2 / T
            expected = 3.0 * p[k] * (ratios[k] - row) / len(Z)
            assert slope[n, k].item() == pytest.approx(expected, abs=1e-12)
