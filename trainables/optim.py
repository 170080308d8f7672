"""The optimizer, its learning-rate schedule and gradient clipping."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from trainables.bounds import NonNegative, Positive, Share

_BUFFER = "momentum_buffer"


class Optimizer:
    """SGD whose learning rate is a pure function of the progress through training.

    The schedule carries no state, so a resumed run needs only the momenta. The step is torch's own
    and fused, but not its class: making the first one of a process imports all of torch.compile,
    which takes seconds. lr: of the last step; the peak before the first."""

    def __init__(
        self,
        parameters: list[Tensor],
        rate: Callable[[float], float],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        clip_norm: float | None,
    ):
        self.parameters = parameters
        self.rate = rate
        self.lr = lr
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.clip_norm = clip_norm
        self._momenta: dict[int, Tensor] = {}

    def step(self, loss: Tensor, epoch: float) -> None:
        """One update at `epoch`, the epochs done so far with their fraction."""
        self.lr = self.rate(epoch)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self._update()

    @torch.no_grad()
    def _update(self) -> None:
        """A momentum begins at zero, with whichever batch brings its parameter's first gradient:
        torch's fused step takes those of all parameters or of none."""
        reached = {i: p for i, p in enumerate(self.parameters) if p.grad is not None}
        momenta: list[Tensor | None] = [None] * len(reached)
        if self.momentum:
            for i, parameter in reached.items():
                if i not in self._momenta:
                    self._momenta[i] = torch.zeros_like(parameter.grad)
            momenta = [self._momenta[i] for i in reached]
        sgd(
            list(reached.values()),
            [parameter.grad for parameter in reached.values()],
            momenta,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
            fused=True,
        )

    def state_dict(self) -> dict:
        """As torch's SGD has it, without the settings, which are the config's."""
        return {"state": {i: {_BUFFER: momentum} for i, momentum in self._momenta.items()}}

    def load_state_dict(self, state: dict) -> None:
        self._momenta = {
            i: kept[_BUFFER].to(self.parameters[i].device)
            for i, kept in state["state"].items()
            if kept.get(_BUFFER) is not None
        }


def build(
    parameters: Iterable[Tensor],
    epochs: int,
    *,
    lr: Positive = 0.1,
    momentum: NonNegative = 0.9,
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
    all parameters. Errors: ValueError for `nesterov` without momentum."""
    if nesterov and not momentum:
        raise ValueError("optim.nesterov: needs a momentum above 0")

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

    return Optimizer(
        list(parameters),
        rate,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
