"""A stand-in for a GPU: tensors on PyTorch's meta device, which compute nothing, under a mode that
sees every operation on them."""

import contextlib
import traceback
from pathlib import Path

import torch
import torch._dynamo  # which operations on that device import, too late for what is replaced below
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables import optim, training

DEVICE = torch.device("meta")
_PACKAGE = str(Path(training.__file__).parent)
_CLASSES = 4  # what a count of labels has entries for
_WAITING = {  # the host needs the result, or its shape follows from the values
    "_local_scalar_dense": lambda value: 1.0 if value.is_floating_point() else 1,
    "bincount": lambda labels: torch.empty(_CLASSES, dtype=torch.long, device=DEVICE),
}


class Accelerator(TorchDispatchMode):
    """waits: where the code of the package made the host wait for the device, once a time.
    mixed: where an operation got tensors of the device and of the host, which a GPU refuses."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []
        self.mixed: list[str] = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        name = operation.overloadpacket.__name__
        tensors = [item for item in tree_leaves((arguments, options)) if isinstance(item, Tensor)]
        there = [tensor for tensor in tensors if tensor.device == DEVICE]
        # a number on the host goes with anything
        here = [tensor for tensor in tensors if tensor.device != DEVICE and tensor.dim()]
        if not there and torch.device(options.get("device") or "cpu") != DEVICE:
            return operation(*arguments, **options)
        if name in _WAITING:
            self.waits.append(_place())
            return _WAITING[name](*arguments, **options)
        if name == "_to_copy" and there and torch.device(options.get("device") or DEVICE) != DEVICE:
            self.waits.append(_place())
            return torch.ones(arguments[0].shape, dtype=options.get("dtype", arguments[0].dtype))
        if name in ("_to_copy", "copy_"):
            if here and not options.get("non_blocking"):
                self.waits.append(_place())
        elif there and here:
            self.mixed.append(f"{_place()} {name}")
        return operation(*arguments, **options)


def stand_in(monkeypatch) -> None:
    """Lets a `Training` run on the device: what PyTorch has for a GPU alone is left out of it."""
    generator, sgd = torch.Generator, optim.sgd

    def without_fusion(*tensors, fused: bool, **options) -> None:
        sgd(*tensors, **options)

    monkeypatch.setattr(training.torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(optim, "sgd", without_fusion)
    monkeypatch.setattr(
        training.Training, "_autocast", lambda self, enabled=True: contextlib.nullcontext()
    )


def _place() -> str:
    """The line of the package that an operation comes from: `metrics.py:50`."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(_PACKAGE):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "?"
