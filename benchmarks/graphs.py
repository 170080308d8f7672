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

_LOSS, _ALIKE = 0.02, 0.9  # relative; the cosine of two gradients of bfloat16


def record(training: Training, images: Tensor, labels: Tensor) -> None:
    """Records the parts of a training that has not begun. images: one whole batch as the loop
    passes it. Parameters and running statistics are then what they were.

    Errors: SystemExit when a batch has another loss or gradient than without."""
    method = training.method.train()
    before = copy.deepcopy(method)
    order, inputs = _used(training, copy.deepcopy(before), images, labels)
    recorded = [parts(method)[number] for number in order]
    is_half = training.dtype is torch.bfloat16
    # each casts its weights for itself: autocast's cache would not be filled when one is replayed
    half = {"dtype": torch.bfloat16, "enabled": is_half, "cache_enabled": False}
    with torch.autocast(training.device.type, **half):
        torch.cuda.make_graphed_callables(tuple(recorded), tuple((each,) for each in inputs))
    state = copy.deepcopy(before.state_dict())
    with torch.no_grad():  # by other weights than were there when it was recorded
        for parameter in before.parameters():
            parameter.mul_(0.9)
    method.load_state_dict(before.state_dict())
    _must_agree(*(_passed(training, each, images, labels) for each in (method, before)))
    method.load_state_dict(state)
    for parameter in method.parameters():
        parameter.grad = None


def _must_agree(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    """Errors: SystemExit."""
    alike = torch.cosine_similarity(found[1], expected[1], dim=0).item()
    is_near = abs(found[0] - expected[0]) <= _LOSS * abs(expected[0])
    if not (is_near and alike >= _ALIKE):
        raise SystemExit(
            f"CUDA graphs change the loss to {found[0]} from {expected[0]}, or the gradient: "
            f"their cosine is {alike}"
        )


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
) -> tuple[float, Tensor]:
    """The loss of a batch, and the gradient of all parameters in one row; zeros where none is."""
    with training._autocast():
        _, terms = method.losses(images, labels)
    total = sum(terms.values())
    total.backward()
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in method.parameters()
    ]
    return total.item(), torch.cat([gradient.float().flatten() for gradient in gradients])
