"""The names of all metrics, and the evaluation that fills in most of them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainables.precision import full_precision

EPOCH = "epoch"  # 1-based; the scheduler's clock and MLflow's step
LOSS_TOTAL = "loss/total"
TRAIN_ACCURACY = "train/accuracy"
LEARNING_RATE = "optim/lr"
EPOCH_SECONDS = "time/epoch_s"
IMAGES_PER_SECOND = "time/images_per_s"
PEAK_MEMORY = "memory/peak_gib"
TIMESTAMP = "timestamp_s"  # when the epoch ended, Unix time; kept with the metrics, not one of them
SCORES = ("accuracy", "loss", "top5", "ece")
VALIDATION = "val"
TEST = "test"

_ECE_BINS = 15


def loss_name(term: str) -> str:
    """The metric of a method's term. Errors: TypeError for a name that MLflow might not take, or
    that is the sum's."""
    name = f"loss/{term}"
    if not (isinstance(term, str) and term.isidentifier()) or name == LOSS_TOTAL:
        what = "letters, digits and underscores make a name, and `total` is the sum's"
        raise TypeError(f"{term!r} cannot be the name of a term: {what}")
    return name


def score_names(prefix: str) -> tuple[str, ...]:
    """The evaluation metrics of one split, e.g. `val/accuracy`."""
    return tuple(f"{prefix}/{score}" for score in SCORES)


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Scores of a classifier over `batches` of (images, labels), every image once.

    Returns `accuracy` and `top5` (fractions), `loss` (mean cross entropy) and `ece` (expected
    calibration error over 15 equal-width confidence bins, Guo et al. 2017, arXiv:1706.04599).
    Sums stay on the device until the end: one transfer a call.
    """
    sums = None
    for images, labels in batches:
        batch = _batch_sums(full_precision(forward(images)), labels)
        sums = batch if sums is None else sums + batch
    if sums is None:
        raise ValueError("nothing to evaluate: the held-out set is empty")
    count, correct, top5, loss, *bins = sums.tolist()
    confidence, hits = bins[:_ECE_BINS], bins[_ECE_BINS:]
    gap = sum(abs(c - h) for c, h in zip(confidence, hits, strict=True))
    return {
        "accuracy": correct / count,
        "loss": loss / count,
        "top5": top5 / count,
        "ece": gap / count,
    }


def _batch_sums(logits: Tensor, labels: Tensor) -> Tensor:
    # [B, K], [B] -> [4 + 2 * bins]: count, correct, top 5, loss, confidence per bin, hits per bin
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    hit = (predicted == labels).to(torch.float64)
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    top5 = (best == labels[:, None]).any(dim=1).sum()
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    bins = (confidence.nan_to_num() * _ECE_BINS).long().clamp(max=_ECE_BINS - 1)
    zeros = torch.zeros(_ECE_BINS, dtype=torch.float64, device=logits.device)
    totals = torch.stack(
        [torch.full_like(hit.sum(), len(labels)), hit.sum(), top5.double(), loss.double()]
    )
    return torch.cat(
        [totals, zeros.index_add(0, bins, confidence.double()), zeros.index_add(0, bins, hit)]
    )
