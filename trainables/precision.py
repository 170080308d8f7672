"""float32 where mixed precision would cost more than it saves."""

from collections.abc import Callable

import torch
from torch import Tensor


def full_precision(values: Tensor) -> Tensor:
    """In at least float32, so that a softmax under mixed precision loses nothing."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def exactly(layer: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """What a layer makes of the values in the precision of its weights, whatever autocast says.

    For what ends in logits: in bfloat16 they would keep three digits, so that classes tie, and a
    loss in float32 behind them would come too late."""
    device = values.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return layer(values)
    with torch.autocast(device, enabled=False):
        return layer(full_precision(values))
