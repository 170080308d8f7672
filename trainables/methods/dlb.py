"""Self-distillation from the last mini-batch: each image comes twice, and the second time it learns
from the first."""

import torch
from torch import Tensor

from trainables.bounds import NonNegative, Positive
from trainables.losses import cross_entropy, distillation
from trainables.methods import Method
from trainables.models import Classifier


class Dlb(Method):
    """arXiv:2203.16172, as its released code computes it (dlb.py).

        L = CE([z(x''), z(u')], [y_x, y_u])
            + alpha * T^2 KL(softmax(k(x') / T) || softmax(z(x'') / T))

    u', u'': two views of this batch's images; x', x'': those of the batch before; z: logits; k:
    those that the batch before had, by the weights it had. The cross entropy is the mean over
    both halves. The first batch of an epoch has its own half alone.

    Deviations: both halves are one batch, as the paper says, so they share the statistics of
    batch normalization (the code: a forward pass each); the last batch of an epoch is not
    carried into the next (the code: it is).

    alpha: weight of the divergence. The code names no defaults; temperature 3 and weight 1 are
    what secondary sources give for the authors' runs (an example in the code is called `TP3_0.5`),
    so that a run with them is not called the authors' own."""

    companion = "view"
    has_authors_defaults = False

    def __init__(self, model: Classifier, *, alpha: NonNegative = 1.0, temperature: Positive = 3.0):
        super().__init__(model)
        self.alpha, self.temperature = alpha, temperature
        # of the batch before: images [B, C, H, W] in their second view, labels [B], logits [B, K]
        self.previous: dict[str, Tensor] | None = None

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [2 * B, C, H, W], [2 * B] -> [B, K], {name: scalar}
        first, second = images.chunk(2)
        labels = labels[: len(first)]
        if self.previous is None:
            logits = self(first)
            terms = {"ce": cross_entropy(logits, labels)}
        else:
            before = self.previous
            both = self(torch.cat([before["images"], first]))
            again, logits = both.tensor_split([len(before["images"])])
            divergence = distillation(again, before["logits"], self.temperature)
            terms = {
                "ce": cross_entropy(both, torch.cat([before["labels"], labels])),
                "dlb": self.alpha * divergence,
            }
        self.previous = {"images": second, "labels": labels, "logits": logits.detach()}
        return logits, terms

    def start_epoch(self) -> None:
        self.previous = None

    def get_extra_state(self) -> dict:
        kept = self.previous
        # copies: each is a part of a larger tensor, which would be saved whole
        return {"previous": kept and {name: value.clone() for name, value in kept.items()}}

    def set_extra_state(self, state: dict) -> None:
        kept, device = state["previous"], next(self.model.parameters()).device
        self.previous = kept and {name: value.to(device) for name, value in kept.items()}
