"""A step with CUDA graphs and without a compiler, a prototype (`benchmarks.step --graphs`).

Each part of the network is recorded once, forward and backward, and replayed in every batch; losses
and the optimizer's step stay as they are. For methods that pass each part once a batch in training:
a second pass would write over what the first one left for its gradient.
"""

import copy

import torch
from torch import Tensor, nn

from trainables.compiling import parts
from trainables.training import Training

_NEAR = 0.02  # of bfloat16's sums in another order, relative


def record(training: Training, images: Tensor, labels: Tensor) -> None:
    """Records the parts of a training that has not begun. images: one whole batch as the loop
    passes it. Parameters and running statistics are then what they were.

    Errors: SystemExit when the loss or a gradient of the batch is not what it was without."""
    method = training.method.train()
    before = copy.deepcopy(method)
    expected = _passed(training, copy.deepcopy(before), images, labels)
    order, inputs = _used(training, copy.deepcopy(before), images, labels)
    recorded = [parts(method)[number] for number in order]
    # each casts its weights for itself: autocast's cache would not be filled when one is replayed
    with torch.autocast(training.device.type, dtype=torch.bfloat16, cache_enabled=False):
        torch.cuda.make_graphed_callables(tuple(recorded), tuple((each,) for each in inputs))
    method.load_state_dict(before.state_dict())
    found = _passed(training, method, images, labels)
    method.load_state_dict(before.state_dict())
    for parameter in method.parameters():
        parameter.grad = None
    for name, value in expected.items():
        if abs(found[name] - value) > _NEAR * max(abs(value), 1e-3):
            raise SystemExit(f"CUDA graphs change {name}: {found[name]}, {value} without")


def _used(
    training: Training, method: nn.Module, images: Tensor, labels: Tensor
) -> tuple[list[int], list[Tensor]]:
    """The parts by number in the order of their use, and for each what a recording takes in."""
    numbers = {part: number for number, part in enumerate(parts(method))}
    seen: list[tuple[int, Tensor]] = []
    for part in numbers:
        part.register_forward_pre_hook(
            lambda module, given: seen.append((numbers[module], given[0]))
        )
    with training._autocast():
        method.losses(images, labels)
    order = [number for number, _ in seen]
    if len(set(order)) != len(order):
        raise SystemExit("CUDA graphs: the method passes a part more than once a batch")
    return order, [torch.zeros_like(given).requires_grad_(given.requires_grad) for _, given in seen]


def _passed(
    training: Training, method: nn.Module, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """The loss of a batch and the length of every parameter's gradient."""
    with training._autocast():
        _, terms = method.losses(images, labels)
    total = sum(terms.values())
    total.backward()
    lengths = {
        f"the gradient of {name}": parameter.grad.float().norm().item()
        for name, parameter in method.named_parameters()
        if parameter.grad is not None
    }
    return {"the loss": total.item(), **lengths}
