"""Plain cross entropy: the baseline that every distillation method must beat."""

from torch import Tensor

from trainables.losses import cross_entropy
from trainables.methods import Method


class CrossEntropy(Method):
    """Mean cross entropy of the final logits. No hyperparameters, no extra parts."""

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        logits = self(images)
        return logits, {"ce": cross_entropy(logits, labels)}
