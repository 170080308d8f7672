"""Universal self-knowledge distillation: a soft target for the label, Zipf's law for the rest."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.bounds import NonNegative
from trainables.losses import cross_entropy
from trainables.methods import Method
from trainables.models import Classifier
from trainables.precision import exactly, full_precision

_SMOOTHING = 0.1  # of the weak head's labels
_TINY = 1e-6


class Uskd(Method):
    """arXiv:2303.13005 (ICCV 2023), as its released code computes it (uskd.py of cls_KD).

        L = CE(z, y) - alpha * mean[ (s_y^2 + 1 - mean s_y^2) * log s_y ]
            - beta * mean[ sum_k q_k log softmax(z without z_y)_k ]
            + mu * CE(w, 0.9 onehot(y) + 0.1 / K)
        q_k = r_k^-1 / sum_j r_j^-1 over the wrong classes, r_k: rank of class k among all classes
              by w'_k / (1 - w'_y) + s_k / (1 - s_y)

    z, s: final logits and their softmax; w, w': logits of a linear layer on the averaged map of
    the stage before the last, and their softmax; y: label. The weight of log s_y, and q, carry no
    gradient. The linear layer is dropped for inference.

    ranking `code`: the authors' code has replaced s by log s when it comes to the ranks, most
    likely by mistake; `probabilities`, the default, is the equation.

    alpha, beta, mu: 0.1 each in the authors' file for CIFAR-100; 1, 0.1 and 0.005 in their class
    and on ImageNet. Errors: ValueError for a backbone of a single stage."""

    def __init__(
        self,
        model: Classifier,
        *,
        alpha: NonNegative = 0.1,
        beta: NonNegative = 0.1,
        mu: NonNegative = 0.1,
        ranking: Literal["probabilities", "code"] = "probabilities",
    ):
        super().__init__(model)
        if len(model.stages) < 2:
            raise ValueError("method.name: uskd needs a backbone of two stages or more")
        self.alpha, self.beta, self.mu, self.ranking = alpha, beta, mu, ranking
        self.weak = nn.Linear(model.widths[-2], model.classes)

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        *_, tapped, last_map = self.model.features(images)
        logits = self.model.classify(last_map)
        scored = full_precision(logits)
        weak = exactly(self.weak, tapped.mean(dim=(2, 3)))
        log_strong = scored.log_softmax(dim=1)
        log_target = log_strong.gather(1, labels[:, None])
        with torch.no_grad():
            squared = log_target.exp() ** 2
            sharpness = squared + 1 - squared.mean()
            strong = log_strong if self.ranking == "code" else log_strong.exp()
            law = zipf(weak.softmax(dim=1), strong, labels)
        wrong = scored.masked_fill(_marks(scored, labels), -torch.inf).log_softmax(dim=1)
        wrong = wrong.masked_fill(
            _marks(scored, labels), 0.0
        )  # no share there, and 0 * inf is none
        soft_labels = F.cross_entropy(weak, labels, label_smoothing=_SMOOTHING)
        return logits, {
            "ce": cross_entropy(logits, labels),
            "target": -self.alpha * (sharpness * log_target).mean(),
            "zipf": -self.beta * (law * wrong).sum(dim=1).mean(),
            "weak": self.mu * soft_labels,
        }


def zipf(weak: Tensor, strong: Tensor, labels: Tensor) -> Tensor:
    """Zipf's law over the wrong classes, ranked by both heads together; none for the label. Equal
    scores are ranked by class.  # [B, K], [B, K], [B] -> [B, K]"""

    def relative(scores: Tensor) -> Tensor:
        return scores / (1 - scores.gather(1, labels[:, None]) + _TINY)

    together = relative(weak) + relative(strong)
    order = together.argsort(dim=1, descending=True, stable=True)
    shares = (order.argsort(dim=1) + 1).to(together.dtype).reciprocal()
    shares = shares.masked_fill(_marks(shares, labels), 0.0)
    return shares / shares.sum(dim=1, keepdim=True)


def _marks(scores: Tensor, labels: Tensor) -> Tensor:
    """Where the labels are.  # [B, K], [B] -> [B, K]"""
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, labels[:, None], True)
