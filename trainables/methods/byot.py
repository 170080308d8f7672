"""Be Your Own Teacher: the final classifier teaches a shallow one after each earlier stage."""

import torch
from torch import Tensor, nn

from trainables.auxiliary import AuxiliaryHead
from trainables.bounds import Fraction, NonNegative, Positive
from trainables.losses import cross_entropy
from trainables.methods import Method
from trainables.models import Classifier
from trainables.precision import full_precision


class Byot(Method):
    """arXiv:1905.08094, as its released code computes it (train.py, with the adaptation layers
    of the final version).

        L = CE(z, y) + sum_i [ (1 - alpha) * CE(a_i, y) + alpha * CE(a_i / T, softmax(z / T))
                               + feature_weight * ||A_i(f_i) - f||_2 ]

    z, f: final logits, and the last map averaged over its positions; a_i, f_i: logits of the head
    after stage i, and what its linear layer sees; A_i: a linear layer. z and f carry no gradient
    there, so the last stage and the head learn from CE(z, y) alone. The soft cross entropy has no
    factor T^2. The norm is one over all numbers of the batch, so it grows with the root of the
    batch size (the authors': 128). The auxiliary parts are dropped for inference.

    Deviations: the feature term is on every head, as in the paper; the released code leaves out the
    deepest of them (its comment says the shallowest). The heads are LightSKD's (`AuxiliaryHead`,
    arXiv:2305.09183), whose gate has one batch norm and ReLU more than the authors' attention. So a
    run with their values is not called the authors' own.

    alpha: weight of the final classifier's word against the label's (`loss_coefficient` in the
    code). Errors: ValueError for a backbone of a single stage."""

    has_authors_defaults = False

    def __init__(
        self,
        model: Classifier,
        *,
        alpha: Fraction = 0.3,
        temperature: Positive = 3.0,
        feature_weight: NonNegative = 0.03,
    ):
        super().__init__(model)
        taps = range(len(model.stages) - 1)
        if not taps:
            raise ValueError("method.name: byot needs a backbone of two stages or more")
        self.alpha, self.temperature, self.feature_weight = alpha, temperature, feature_weight
        self.heads = nn.ModuleList(AuxiliaryHead(model.widths[i:], model.classes) for i in taps)
        width = model.widths[-1]
        self.adapters = nn.ModuleList(nn.Linear(width, width) for _ in taps)

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        *maps, last_map = self.model.features(images)
        logits = self.model.classify(last_map)
        taught = (full_precision(logits.detach()) / self.temperature).softmax(dim=1)
        final = full_precision(last_map.detach()).mean(dim=(2, 3))
        hard, soft, distance = [], [], []
        for tapped, head, adapter in zip(maps, self.heads, self.adapters, strict=True):
            embedding = head.embed(tapped)
            shallow = full_precision(head.classify(embedding))
            hard.append(cross_entropy(shallow, labels))
            soft.append(cross_entropy(shallow / self.temperature, taught))
            distance.append(torch.dist(full_precision(adapter(embedding)), final))
        return logits, {
            "ce": cross_entropy(logits, labels),
            "aux_ce": (1 - self.alpha) * sum(hard),
            "aux_kd": self.alpha * sum(soft),
            "feature": self.feature_weight * sum(distance),
        }
