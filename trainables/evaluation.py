"""The scores of a classifier on images held out."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainables.precision import full_precision

_ECE_BINS = 15


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
