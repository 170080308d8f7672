"""The distillation terms that methods share, as pure functions; each states its reduction."""

import torch.nn.functional as F
from torch import Tensor

from trainables.precision import full_precision


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy towards classes or distributions; no gradient reaches the latter.

    # [B, K], [B] or [B, K] -> scalar"""
    return F.cross_entropy(full_precision(logits), targets.detach())


def smoothed(labels: Tensor, share: float, logits: Tensor) -> Tensor:
    """A distribution a label: all but `share` of it on the label, `share` evenly on the other
    classes, in the precision that the logits are scored in.  # [B], [B, K] -> [B, K]"""
    others = share / (logits.shape[1] - 1)
    targets = full_precision(logits.detach()).new_full(logits.shape, others)
    return targets.scatter_(1, labels[:, None], 1 - share)


def distillation(
    student: Tensor, teacher: Tensor, temperature: float, *, detach: bool = True
) -> Tensor:
    """Tempered KL divergence, `T^2 * KL(softmax(teacher / T) || softmax(student / T))`.

    Summed over classes, mean over the batch (torch's `batchmean`). detach: no gradient reaches the
    teacher. Computed in float64 and returned in at least float32: T^2 multiplies the rounding of
    a divergence between two nearly equal distributions (400 times at T = 20).
    Source: Hinton et al. 2015 (arXiv:1503.02531), in the form arXiv:2305.09183 uses.
    """
    # [B, K], [B, K] -> scalar
    log_student = F.log_softmax(student.double() / temperature, dim=1)
    teacher = teacher.detach() if detach else teacher
    log_teacher = F.log_softmax(teacher.double() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return (divergence * temperature**2).to(full_precision(student).dtype)
