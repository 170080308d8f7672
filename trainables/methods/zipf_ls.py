"""Zipf's label smoothing: the wrong classes follow Zipf's law, ranked by the network itself."""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.bounds import Fraction, NonNegative, Positive
from trainables.losses import cross_entropy
from trainables.methods import Method
from trainables.models import Classifier
from trainables.precision import exactly, full_precision


class ZipfLs(Method):
    """arXiv:2207.12980, as its released PyTorch code computes it (losses.py and train.py).

        L = (1 - smoothing) * CE(z, y) + weight * KL(q || softmax(z without z_y))
            - smoothing * sum_k q_k log softmax(z)_k
        q_k = r_k^-power / sum_j r_j^-power over the wrong classes, r_k: rank of class k

    z: logits; y: label. q has no gradient and no share for the label.

    Ranking `dense`, the authors': the map after the last stage, enlarged to twice its side
    (bilinear), is classified at each position by the head's own linear layer, and the classes are
    ranked by how many positions they win, the label among them; classes with equally many share the
    best of their ranks, so that those without any are alike. It needs a head that averages the map
    and has one linear layer; poolings before that are applied first, dropout is left out. Ranking
    `instance`: the wrong classes by their logits, which any backbone allows
    (`gen_zipf_law_distribution_instance_wise` in the code, which its training does not call:
    without `--dense` that ranks all classes, and the label's rank is then missing from the law).

    Deviations: the linear layer comes before the enlargement and not after it, which is the same
    and cheaper; the enlargement is for every data set (the code's commands have it on CIFAR-100 and
    TinyImageNet alone); on ImageNet the code's DenseNet and MobileNet vote with a linear layer of
    their own that learns nothing, here always with the head's. No auxiliary heads: the code's
    `alpha` weighs the cross entropy of heads on earlier stages, which also vote, and with its
    default depth of one there are none.

    weight: of the divergence (0.1 on CIFAR-100 and ImageNet, 1 on TinyImageNet and iNaturalist).
    power: of the law. smoothing: share of the label that goes to q, 0 in every published run
    (`--criterion label_smooth_zipf` in the code). Errors: ValueError for `dense` with another
    head."""

    def __init__(
        self,
        model: Classifier,
        *,
        weight: NonNegative = 0.1,
        power: Positive = 1.0,
        smoothing: Fraction = 0.0,
        ranking: Literal["dense", "instance"] = "dense",
    ):
        super().__init__(model)
        self.weight, self.power, self.smoothing = weight, power, smoothing
        # a tuple, for it is the model that owns these layers
        self.voting = _voting(model.head) if ranking == "dense" else None
        if ranking == "dense" and self.voting is None:
            raise ValueError(
                "method.ranking: dense needs a head that averages the last map and has one linear "
                "layer, which this backbone's is not; instance fits any backbone"
            )

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        last_map = self.model.features(images)[-1]
        logits = self.model.classify(last_map)
        wrong = _wrong_classes(labels, self.model.classes)
        with torch.no_grad():
            if self.voting:
                rank = ranks(votes(last_map, *self.voting)).gather(1, wrong)
            else:
                rank = ranks(logits.gather(1, wrong))
            law = rank.to(full_precision(logits).dtype) ** -self.power
            law = law / law.sum(dim=1, keepdim=True)
        scored = full_precision(logits)
        among_wrong = F.log_softmax(scored.gather(1, wrong), dim=1)
        among_all = F.log_softmax(scored, dim=1).gather(1, wrong)
        return logits, {
            "ce": (1 - self.smoothing) * cross_entropy(logits, labels),
            "zipf": self.weight * F.kl_div(among_wrong, law, reduction="batchmean"),
            "smoothing": -self.smoothing * (law * among_all).sum(dim=1).mean(),
        }


def ranks(scores: Tensor) -> Tensor:
    """The rank of each score in its row, 1 for the highest; equal scores share their best rank.
    # [B, K] -> [B, K]"""
    falling = -scores.contiguous()
    return torch.searchsorted(falling.sort(dim=1).values, falling) + 1


def votes(last_map: Tensor, poolings: list[nn.Module], linear: nn.Linear) -> Tensor:
    """How many positions of the map, enlarged twice, each class wins.  # [B, C, H, W] -> [B, K]"""
    for pooling in poolings:
        last_map = pooling(last_map)
    classify = partial(F.conv2d, weight=linear.weight[:, :, None, None], bias=linear.bias)
    local = exactly(classify, last_map)
    local = F.interpolate(local, scale_factor=2, mode="bilinear", align_corners=False)
    winners = local.flatten(2).argmax(dim=1)  # [B, positions]
    count = torch.zeros(local.shape[:2], device=local.device)
    return count.scatter_add_(1, winners, torch.ones_like(winners, dtype=count.dtype))


def _wrong_classes(labels: Tensor, classes: int) -> Tensor:
    """Every class but the label, in order.  # [B] -> [B, K - 1]"""
    others = torch.arange(classes - 1, device=labels.device)
    return others + (others >= labels[:, None])


def _voting(head: nn.Module) -> tuple[list[nn.Module], nn.Linear] | None:
    """What of a head classifies each position by itself: its poolings before the average, and its
    linear layer; None for a head of another kind."""
    layers = [layer for layer in head.modules() if not isinstance(layer, nn.Sequential)]
    layers = [layer for layer in layers if not isinstance(layer, nn.Dropout)]
    if [type(layer) for layer in layers[-3:]] != [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]:
        return None
    *poolings, average, _, linear = layers
    if average.output_size not in (1, (1, 1)):
        return None
    allowed = (nn.MaxPool2d, nn.AvgPool2d)
    return (poolings, linear) if all(isinstance(p, allowed) for p in poolings) else None
