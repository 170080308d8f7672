"""Class-wise self-knowledge distillation: an image learns from another one of its class."""

import torch
from torch import Tensor

from trainables.bounds import NonNegative, Positive
from trainables.losses import cross_entropy, distillation
from trainables.methods import Method
from trainables.models import Classifier


class CsKd(Method):
    """arXiv:2003.13964, the total training loss, as its released code computes it (train.py).

        L = CE(z(x), y) + weight * T^2 KL(softmax(z(x') / T) || softmax(z(x) / T))

    x': another image of the class of x; z: logits. x' is a second forward pass without gradient,
    by the statistics of its own batch, which also move the running ones.

    Deviation: x' is never x itself unless its class has no other image (there it is drawn from
    the whole class).

    weight: of the divergence (1 in the code, 3 in the paper's fine-grained data sets)."""

    companion = "class"

    def __init__(
        self, model: Classifier, *, weight: NonNegative = 1.0, temperature: Positive = 4.0
    ):
        super().__init__(model)
        self.weight, self.temperature = weight, temperature

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [2 * B, C, H, W], [2 * B] -> [B, K], {name: scalar}
        own, companions = images.chunk(2)
        logits = self(own)
        with torch.no_grad():
            theirs = self(companions)
        return logits, {
            "ce": cross_entropy(logits, labels[: len(logits)]),
            "cs": self.weight * distillation(logits, theirs, self.temperature),
        }
