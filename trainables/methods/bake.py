"""Batch knowledge ensembling: the images of a batch that look alike teach each other."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.bounds import Bounds, NonNegative, Positive
from trainables.losses import cross_entropy
from trainables.methods import Method
from trainables.models import Classifier
from trainables.precision import full_precision

BelowOne = Annotated[float, Bounds(at_least=0, below=1)]


class Bake(Method):
    """arXiv:2104.13298, as its released code computes it (small_scale/train.py).

        L = CE(z, y) + weight * T^2 KL(Q || softmax(z / T))
        Q = (1 - omega) * (I - omega * W)^-1 softmax(z / T)
        W = softmax over each row of the cosine similarities of f, an image's own left out

    z, f: logits of all images of the batch, and their last map averaged over its positions. Each
    row of Q is a distribution: what is left of an image's own answer after answers have travelled
    along W for ever. Q has no gradient.

    Deviation: beside each image one more of its class, for which the batch is twice as long; the
    authors put three beside each of a quarter as many images, so that their epoch has four times as
    many updates, of half as many images each: it matters for learning rate and epochs, so that a
    run with their values is not called the authors' own.

    omega: how far answers travel (0: not at all, and Q teaches nothing)."""

    companion = "class"
    has_authors_defaults = False

    def __init__(
        self,
        model: Classifier,
        *,
        weight: NonNegative = 1.0,
        temperature: Positive = 4.0,
        omega: BelowOne = 0.5,
    ):
        super().__init__(model)
        self.weight, self.temperature, self.omega = weight, temperature, omega

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [2 * B, C, H, W], [2 * B] -> [B, K], {name: scalar}
        last_map = self.model.features(images)[-1]
        logits = self.model.classify(last_map)
        features = last_map.detach().double().mean(dim=(2, 3))
        answers = logits.double() / self.temperature
        taught = ensembled(features, answers.detach().softmax(dim=1), self.omega)
        divergence = F.kl_div(answers.log_softmax(dim=1), taught, reduction="batchmean")
        divergence = (divergence * self.temperature**2).to(full_precision(logits).dtype)
        return logits[: len(images) // 2], {
            "ce": cross_entropy(logits, labels),
            "bake": self.weight * divergence,
        }


def ensembled(features: Tensor, answers: Tensor, omega: float) -> Tensor:
    """Each image's answer after all have travelled between images that look alike; in the
    precision given, of which the solution of the linear system wants float64.
    # [B, C], [B, K] -> [B, K]"""
    one = torch.eye(len(features), dtype=features.dtype, device=features.device)
    system = one - omega * affinity(features)
    # its diagonal outweighs the rest, so it is never singular; `solve` would wait for the device
    # to hear so
    return (1 - omega) * torch.linalg.solve_ex(system, answers).result


def affinity(features: Tensor) -> Tensor:
    """How alike two images are, as a distribution over the others.  # [B, C] -> [B, B]"""
    directions = F.normalize(features, dim=1)
    return (directions @ directions.T).fill_diagonal_(-torch.inf).softmax(dim=1)
