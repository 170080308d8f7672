"""The optimizer, its learning-rate schedule and gradient clipping."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from trainables.bounds import NonNegative, Positive, Share


class Optimizer:
    """SGD whose learning rate is a pure function of the progress through training.

    The schedule carries no state, so a resumed run needs only torch's own optimizer state.
    """

    def __init__(self, sgd: torch.optim.SGD, rate, clip_norm: float | None):
        self.sgd = sgd
        self.rate = rate
        self.clip_norm = clip_norm
        self._has_all_momenta = not any(group["momentum"] for group in sgd.param_groups)

    def step(self, loss: Tensor, epoch: float) -> None:
        """One update at `epoch`, the epochs done so far with their fraction."""
        for group in self.sgd.param_groups:
            group["lr"] = self.rate(epoch)
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip_norm is not None:
            parameters = [p for group in self.sgd.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if not self._has_all_momenta:
            self._complete_momenta()
        self.sgd.step()

    def _complete_momenta(self) -> None:
        """torch's fused step takes the momenta of all parameters or of none: one whose first
        gradient comes with a later batch begins at zero, as it would without fusion."""
        parameters = [p for group in self.sgd.param_groups for p in group["params"]]
        momenta = [self.sgd.state.get(p, {}).get("momentum_buffer") for p in parameters]
        self._has_all_momenta = all(momentum is not None for momentum in momenta)
        if self._has_all_momenta or all(momentum is None for momentum in momenta):
            return
        for parameter, momentum in zip(parameters, momenta, strict=True):
            if momentum is None and parameter.grad is not None:
                zeros = torch.zeros_like(parameter.grad)
                self.sgd.state[parameter]["momentum_buffer"] = zeros


_MOMENTUM = 0.9


def check(*, momentum: float = _MOMENTUM, nesterov: bool = False, **_others) -> None:
    """Refuses settings of `build` that do not go together, without building: torch's first
    optimizer imports all of torch.compile, 2 s. Errors: ValueError for `nesterov` without
    momentum."""
    if nesterov and not momentum:
        raise ValueError("optim.nesterov: needs a momentum above 0")


def build(
    parameters: Iterable[Tensor],
    epochs: int,
    *,
    lr: Positive = 0.1,
    momentum: NonNegative = _MOMENTUM,
    nesterov: bool = False,
    weight_decay: NonNegative = 5e-4,
    schedule: Literal["multistep", "cosine", "constant"] = "multistep",
    milestones: list[Share] = (0.3, 0.6, 0.8),
    gamma: Positive = 0.1,
    warmup_epochs: NonNegative = 0.0,
    clip_norm: Positive | None = None,
) -> Optimizer:
    """SGD with weight decay on everything, as the authors of LightSKD and Tf-KD train.

    lr: peak learning rate. milestones: fractions of `epochs` after which `multistep` multiplies
    the rate by `gamma` (0.3, 0.6, 0.8 of 200 are the authors' epochs 60, 120, 160). `cosine`
    falls to 0. warmup_epochs: linear rise from 0. clip_norm: largest 2-norm of the gradient of
    all parameters. Errors: those of `check`."""
    check(momentum=momentum, nesterov=nesterov)

    def rate(epoch: float) -> float:
        if epoch < warmup_epochs:
            return lr * epoch / warmup_epochs
        if schedule == "constant":
            return lr
        if schedule == "cosine":
            span = max(epochs - warmup_epochs, 1e-9)
            return lr * 0.5 * (1 + math.cos(math.pi * min((epoch - warmup_epochs) / span, 1.0)))
        drops = sum(int(epoch) >= round(share * epochs) for share in milestones)
        return lr * gamma**drops

    sgd = torch.optim.SGD(
        list(parameters),
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=True,
    )
    return Optimizer(sgd, rate, clip_norm)
