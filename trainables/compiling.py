"""torch.compile for what takes the time of a step: a backbone's stages and the auxiliary heads."""

import torch
from torch import nn

from trainables.auxiliary import AuxiliaryHead
from trainables.models import Classifier
from trainables.multibranch import MultiBranch

# Of one function: a stage in training and in scoring, for each size of batch, of every network
# that a process trains in turn. Beyond it PyTorch falls back to what is not compiled.
_MOST_GRAPHS = 256


def compile_parts(method: nn.Module, more: dict[str, bool] | None = None) -> None:
    """Compiles in place, at the first batch of each shape: parameters keep their names and a state
    fits with and without.

    Losses stay outside, and with them loss weights and temperatures, so that the trials of one
    process share what was compiled. Random numbers are those that PyTorch draws uncompiled. A stage
    of RSD's branches stays as it is: it would be compiled anew for every rate of dropping them.
    more: options of the compiler, for measurements.
    Errors, at the first batch: what torch.compile raises without a C++ compiler."""
    # a GPU's compiler starts a process a core otherwise, however many trials there are on a node
    torch._inductor.config.compile_threads = torch.get_num_threads()
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = _MOST_GRAPHS
    for part in parts(method):
        if not any(isinstance(inner, MultiBranch) for inner in part.modules()):
            part.compile(dynamic=False, options={"fallback_random": True, **(more or {})})


def parts(method: nn.Module) -> list[nn.Module]:
    """What takes the time of a step, in pieces that a method uses as a whole."""
    found: list[nn.Module] = []
    for module in method.modules():
        if isinstance(module, Classifier):
            found += module.stages
        elif isinstance(module, AuxiliaryHead):
            found += module.gate, module.trunk
    return found


def undo(model: nn.Module) -> None:
    """Leaves a model that is compiled nowhere."""
    for module in model.modules():
        module._compiled_call_impl = None
