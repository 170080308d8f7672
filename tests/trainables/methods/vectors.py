"""What the tests of all methods share: the numbers of the papers, and how a method meets them."""

import math

import torch
from torch import Tensor, nn

from tests.trainables.tiny import VECTORS, fixed_classifier
from trainables import methods, models

DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-6)]
Z, A, P = (VECTORS[name] for name in "ZAP")
LABELS = torch.tensor(VECTORS["y"])
IMAGES = torch.zeros(3, 1, 8, 8)
Z_100 = [[3 * math.sin(0.7 * (k + 1) * (i + 1)) for k in range(100)] for i in range(4)]
LABELS_100 = torch.tensor(VECTORS["inputs100"]["y"])


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def after_a_batch_of(previous, method):
    """The same method, its last batch having had the logits `previous`."""
    parameter = method.model.head.logits
    now = parameter.data
    parameter.data = tensor(previous, now.dtype)
    method.losses(IMAGES, LABELS)
    parameter.data = now
    return method


def gradient(loss, parameter):
    (found,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    return found


def assert_close(value, expected, error):
    expected = torch.as_tensor(expected, dtype=value.dtype)
    torch.testing.assert_close(value.detach(), expected, atol=error, rtol=0)


class Rows(nn.Module):
    """A head that gives those rows of its parameter that the images name."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, features: Tensor) -> Tensor:
        return self.logits[features[:, 0, 0, 0].long()]


class Looks(nn.Module):
    """A stage that gives these features, whatever the images.  # [B, C] -> [B, C, 1, 1]"""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        return self.features[:, :, None, None]


def rows_classifier(logits: Tensor) -> models.Classifier:
    """Two stages that change nothing, then the rows that the images name."""
    stages = [nn.Identity(), nn.Identity()]
    return models.Classifier(stages, Rows(logits), (1, 1), classes=logits.shape[1])


def naming(*rows: int) -> Tensor:
    """Images that name these rows.  # [len(rows), 1, 8, 8]"""
    return torch.tensor(rows)[:, None, None, None].expand(-1, 1, 8, 8).float()


def total(method, images=IMAGES, labels=LABELS):
    return sum(method.losses(images, labels)[1].values())


def slopes(loss, rows) -> Tensor:
    """The gradient of a loss that a plain loop computes from rows of numbers, by differences."""
    step, found = 1e-6, [[0.0] * len(row) for row in rows]
    for i, row in enumerate(rows):
        for k in range(len(row)):
            up, down = ([list(r) for r in rows] for _ in range(2))
            up[i][k] += step
            down[i][k] -= step
            found[i][k] = (loss(up) - loss(down)) / (2 * step)
    return tensor(found)


def assert_is_cross_entropy(method):
    """Its loss is the cross entropy of Z to the bit, and so is the gradient."""
    plain = methods.build("cross_entropy", fixed_classifier(tensor(Z)))
    ours, theirs = total(method), total(plain)
    assert ours.item() == theirs.item()
    assert torch.equal(
        gradient(ours, method.model.head.logits), gradient(theirs, plain.model.head.logits)
    )
