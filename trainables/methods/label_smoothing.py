"""Label smoothing: the target keeps a share for the classes that are wrong."""

from torch import Tensor

from trainables.bounds import Fraction
from trainables.losses import cross_entropy, smoothed
from trainables.methods import Method
from trainables.models import Classifier


class LabelSmoothing(Method):
    """Label smoothing regularization (LSR) of arXiv:1512.00567, in the form in which
    arXiv:1909.11723 compares with it (its released code, `loss_label_smoothing`).

        L = CE(z, t),  t_y = 1 - eps,  t_k = eps / (K - 1) for every other class k

    z: logits; y: label; K: classes. The share goes to the wrong classes alone. arXiv:1512.00567
    and torch share it among all classes, so this is torch's `label_smoothing` of
    eps * K / (K - 1). No other deviation.

    eps: share of the wrong classes (0.1, hard-coded, in the code)."""

    def __init__(self, model: Classifier, *, eps: Fraction = 0.1):
        super().__init__(model)
        self.eps = eps

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        logits = self(images)
        return logits, {"ce": cross_entropy(logits, smoothed(labels, self.eps, logits))}
