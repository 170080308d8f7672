"""What the tests of all methods share: the numbers of the papers, and how a method meets them."""

import torch

from tests.trainables.tiny import VECTORS

DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-6)]
Z, A, P = (VECTORS[name] for name in "ZAP")
LABELS = torch.tensor(VECTORS["y"])
IMAGES = torch.zeros(3, 1, 8, 8)


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
