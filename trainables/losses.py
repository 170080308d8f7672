"""The distillation terms that methods share, as pure functions; each states its reduction."""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(logits: Tensor) -> Tensor:
    """Logits in at least float32, so that a softmax under mixed precision loses nothing."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy.  # [B, K], [B] -> scalar"""
    return F.cross_entropy(full_precision(logits), labels)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Tempered KL divergence, `T^2 * KL(softmax(teacher / T) || softmax(student / T))`.

    Summed over classes, mean over the batch (torch's `batchmean`). No gradient reaches the
    teacher. Source: Hinton et al. 2015 (arXiv:1503.02531), in the form arXiv:2305.09183 uses.
    """
    # [B, K], [B, K] -> scalar
    log_student = F.log_softmax(full_precision(student) / temperature, dim=1)
    log_teacher = F.log_softmax(full_precision(teacher).detach() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
