"""Scores: each equal to a plain loop over the images."""

import math

import pytest
import torch

from trainables.evaluation import evaluate


def scored(logits, labels, cut: int):
    """Evaluates fixed logits, handed over in batches of `cut`."""
    batches = zip(logits.split(cut), labels.split(cut), strict=True)
    return evaluate(lambda given: given, batches)


def loop(logits, labels) -> dict[str, float]:
    bins = [[0.0, 0.0] for _ in range(15)]
    correct = top5 = loss = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        powers = [math.exp(value) for value in row]
        shares = [power / sum(powers) for power in powers]
        order = sorted(range(len(row)), key=lambda k: -row[k])
        hit = order[0] == label
        correct += hit
        top5 += label in order[:5]
        loss -= math.log(shares[label])
        found = bins[min(int(max(shares) * 15), 14)]
        found[0] += max(shares)
        found[1] += hit
    n = len(labels)
    ece = sum(abs(confidence - hits) for confidence, hits in bins) / n
    return {"accuracy": correct / n, "loss": loss / n, "top5": top5 / n, "ece": ece}


@pytest.mark.parametrize("cut", [1, 7, 200])
@pytest.mark.parametrize("classes", [3, 9])
def test_scores_equal_a_loop_however_the_images_are_cut(classes, cut):
    logits = torch.randn(200, classes) * 3
    labels = torch.randint(classes, (200,))
    assert scored(logits, labels, cut) == pytest.approx(loop(logits, labels), abs=1e-6)


def test_a_perfect_and_sure_classifier():
    labels = torch.arange(6)
    found = scored(torch.eye(6) * 50, labels, 4)
    assert found == pytest.approx({"accuracy": 1, "loss": 0, "top5": 1, "ece": 0}, abs=1e-6)


def test_a_sure_and_wrong_classifier_has_a_calibration_error_of_one():
    labels = torch.arange(6).roll(1)
    assert scored(torch.eye(6) * 50, labels, 4)["ece"] == pytest.approx(1)


def test_guessing_is_calibrated():
    found = scored(torch.zeros(40, 4), torch.arange(40) % 4, 10)
    assert found["ece"] == pytest.approx(0, abs=1e-6)
    assert found["loss"] == pytest.approx(math.log(4), rel=1e-6)


def test_not_a_number_is_not_hidden():
    logits = torch.zeros(3, 4)
    logits[1, 2] = math.nan
    assert math.isnan(scored(logits, torch.zeros(3, dtype=torch.long), 3)["loss"])


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        evaluate(lambda images: images, [])
