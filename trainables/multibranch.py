"""The multi-branch block of restructured self-distillation: in place of a network's 3x3 and 5x5
convolutions while it trains, merged back into them when it ships."""

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainables.models import Classifier

_SIDES = (3, 5)
_SQUARES = 3
_BRANCHES = _SQUARES + 2
_START = _BRANCHES**-0.5  # of what each branch adds, so that the sum varies as one does
_PROBE = 32  # side of the image that shows what follows what
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Drop:
    """Which branches a pass goes without, drawn for each block and independently for its branches
    (DropPath, arXiv:1605.07648).

    rate: chance of a branch to be dropped; what is kept is divided by its chance to be kept, so
    the expectation stays. each: a draw for every image, or one for the batch. keep_one: where all
    branches of a block would go, the one with the largest draw stays."""

    rate: float
    each: Literal["sample", "batch"] = "sample"
    keep_one: bool = False

    def scales(self, maps: Tensor) -> Tensor:
        """What the maps of each branch are multiplied by, 0 for a dropped one.
        # [B, C, H, W] -> [5, B or 1, 1, 1, 1]"""
        count = len(maps) if self.each == "sample" else 1
        draws = torch.rand((_BRANCHES, count, 1, 1, 1), device=maps.device)
        kept, chance = draws >= self.rate, 1 - self.rate
        if self.keep_one:
            kept |= draws == draws.amax(dim=0)
            chance += self.rate**_BRANCHES / _BRANCHES
        return kept.to(maps.dtype) / chance


class MultiBranch(nn.Module):
    """Five convolutions in place of one of KxK, each with a batch norm of its own:

        y = sum_{i=1..3} BN_i(Conv_KxK,i(x)) + BN_v(Conv_Kx1(x)) + BN_h(Conv_1xK(x))

    Source: doi:10.1109/TIP.2024.3463421, AMBB of the released code; its form for DenseNet, which
    has no batch norm, is the bare sum of the five convolutions. As there, stride and groups are
    those of the plain convolution and all kernels are drawn as Kaiming's, fan-out. Deviations: any
    padding and dilation; a bare sum has biases only where the plain convolution has one; and each
    branch starts at 1/sqrt(5) of the plain one's scale, so that their sum varies as much as the
    plain output does: a batch norm with that part of the plain one's weight, a bare convolution
    with that part of Kaiming's deviation, either with a fifth of the bias. From torch's weight of 1
    in every branch the authors' learning rate left thin residual networks with constant logits.

    convolution, norm: the plain modules, kept aside for `merged`. drop: what the pass in training
    mode goes without; see `dropping`."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None):
        super().__init__()
        rows, columns = convolution.kernel_size
        sizes = [(rows, columns)] * _SQUARES + [(rows, 1), (1, columns)]
        self.branches = nn.ModuleList(_Branch(convolution, norm, size) for size in sizes)
        self.plain = (convolution, norm)  # a tuple, so no part of the state
        self.norm_paths: list[str] = []
        self.drop: Drop | None = None

    def forward(self, maps: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, C', H', W']
        first, *others = self.branches
        total = first(maps)
        if self.drop is None or not self.training:
            for branch in others:
                total += branch(maps)
            return total
        scales = self.drop.scales(total)
        total = total * scales[0]
        for branch, scale in zip(others, scales[1:], strict=True):
            total.addcmul_(branch(maps), scale)
        return total

    @torch.no_grad()
    def merged(self) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
        """The plain modules that answer as the block does in evaluation mode: with
        t_i = w_i / sqrt(var_i + eps) the kernel is sum t_i K_i, strips in the centre row or column,
        and the bias sum(b_i - mean_i t_i). The batch norm adds that bias and changes nothing else;
        without one the convolution has it."""
        weight = self.branches[0].convolution.weight
        convolution, norm = (
            part if part is None else part.to(weight.device, weight.dtype).train(self.training)
            for part in copy.deepcopy(self.plain)
        )
        folded = [branch.folded(convolution.kernel_size) for branch in self.branches]
        convolution.weight.copy_(sum(kernel for kernel, _ in folded))
        bias = sum(bias for _, bias in folded)
        if norm is None:
            if convolution.bias is not None:
                convolution.bias.copy_(bias)
            return convolution, None
        if convolution.bias is not None:
            convolution.bias.zero_()
        norm.weight.fill_(1)
        norm.bias.copy_(bias)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.num_batches_tracked.copy_(self.branches[0].norm.num_batches_tracked)
        return convolution, norm


class _Branch(nn.Module):
    """One convolution of a block and its batch norm.

    A strip is padded by so much less as it is smaller; where the plain convolution is padded by
    less than that, the strip sees so much less of the map."""

    def __init__(self, plain: nn.Conv2d, norm: nn.BatchNorm2d | None, size: tuple[int, int]):
        super().__init__()
        inside = [
            whole * (full // 2 - side // 2)
            for whole, full, side in zip(plain.dilation, plain.kernel_size, size, strict=True)
        ]
        margins = [padding - cut for padding, cut in zip(_padding(plain), inside, strict=True)]
        self.crop = [max(-margin, 0) for margin in margins]
        place = {"device": plain.weight.device, "dtype": plain.weight.dtype}
        self.convolution = nn.Conv2d(
            plain.in_channels,
            plain.out_channels,
            size,
            stride=plain.stride,
            padding=[max(margin, 0) for margin in margins],
            dilation=plain.dilation,
            groups=plain.groups,
            bias=norm is None and plain.bias is not None,
            padding_mode=plain.padding_mode,
            **place,
        )
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.norm = None
        with torch.no_grad():
            if norm is None:
                self.convolution.weight *= _START
                if plain.bias is not None:
                    self.convolution.bias.copy_(plain.bias / _BRANCHES)
            else:
                self.norm = nn.BatchNorm2d(plain.out_channels, norm.eps, norm.momentum, **place)
                self.norm.weight.copy_(norm.weight * _START)
                self.norm.bias.copy_(norm.bias / _BRANCHES)

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = self.crop
        if rows or columns:
            height, width = maps.shape[2:]
            maps = maps[:, :, rows : height - rows, columns : width - columns]
        maps = self.convolution(maps)
        return maps if self.norm is None else self.norm(maps)

    def folded(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Kernel of the size given and bias of the branch in evaluation mode, in float64.
        # [C', C / groups, K, K], [C']"""
        kernel = self.convolution.weight.double()
        bias = kernel.new_zeros(len(kernel))
        if self.norm is not None:
            scale = (
                self.norm.weight.double() / (self.norm.running_var.double() + self.norm.eps).sqrt()
            )
            kernel = kernel * scale[:, None, None, None]
            bias = self.norm.bias.double() - self.norm.running_mean.double() * scale
        elif self.convolution.bias is not None:
            bias = self.convolution.bias.double()
        rows, columns = (
            (full - side) // 2
            for full, side in zip(size, self.convolution.kernel_size, strict=True)
        )
        return F.pad(kernel, (columns, columns, rows, rows)), bias


def restructure(model: Classifier) -> None:
    """Puts a block in place of every 3x3 and 5x5 convolution of the model that a pass calls, and of
    the batch norm that follows it; all others stay. Errors: ValueError where there is none."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    found = {
        convolution: norm
        for convolution, norm in _followers(model).items()
        if convolution.kernel_size[0] in _SIDES and len(set(convolution.kernel_size)) == 1
    }
    if not found:
        raise ValueError("model: has no 3x3 or 5x5 convolution that could be restructured")
    for convolution, norm in found.items():
        block = MultiBranch(convolution, norm)
        for path in paths[convolution]:
            model.set_submodule(path, block)
        if norm is not None:
            block.norm_paths = paths[norm]
            for path in paths[norm]:
                model.set_submodule(path, nn.Identity())


def merged(model: Classifier) -> Classifier:
    """A copy of the restructured model as it was before: plain modules that answer as the blocks do
    in evaluation mode. The model itself stays as it is."""
    plain = copy.deepcopy(model)
    blocks = [
        (path, module)
        for path, module in plain.named_modules(remove_duplicate=False)
        if isinstance(module, MultiBranch)
    ]
    parts = {block: block.merged() for _, block in blocks}
    for path, block in blocks:
        convolution, norm = parts[block]
        plain.set_submodule(path, convolution)
        for norm_path in block.norm_paths:
            plain.set_submodule(norm_path, norm)
    return plain


@contextlib.contextmanager
def dropping(model: nn.Module, drop: Drop) -> Iterator[None]:
    """Within it the blocks of a model in training mode drop branches."""
    blocks = [module for module in model.modules() if isinstance(module, MultiBranch)]
    for block in blocks:
        block.drop = drop if drop.rate else None
    try:
        yield
    finally:
        for block in blocks:
            block.drop = None


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within it a pass in training mode normalises by its own batch, as ever, but leaves the
    running statistics of every batch norm as they are."""
    norms = [m for m in model.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _padding(convolution: nn.Conv2d) -> tuple[int, ...]:
    """Of each side, rows first; torch also takes words for it."""
    if convolution.padding == "valid":
        return (0, 0)
    if convolution.padding == "same":
        sides = zip(convolution.dilation, convolution.kernel_size, strict=True)
        return tuple(dilation * (side // 2) for dilation, side in sides)
    return tuple(convolution.padding)


def _followers(model: Classifier) -> dict[nn.Conv2d, nn.BatchNorm2d | None]:
    """The convolutions that a pass calls, each with the batch norm that folds into it: the one that
    takes in what it gives out, while nothing else does and neither is called twice.

    Seen by watching a pass, so it holds whatever the modules are called and wherever they are."""
    made: list[tuple[nn.Conv2d, Tensor]] = []
    taken: list[tuple[nn.BatchNorm2d, Tensor]] = []
    hooks = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(lambda m, _, out: made.append((m, out))))
        elif type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda m, got: taken.append((m, got[0]))))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _Uses() as uses:
            _probe(model)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    calls = Counter(module for module, _ in made + taken)
    found: dict[nn.Conv2d, nn.BatchNorm2d | None] = {}
    for convolution, output in made:
        norms = [norm for norm, taken_in in taken if taken_in is output]
        alone = len(norms) == 1 and uses.of(output) == calls[convolution] == calls[norms[0]] == 1
        found[convolution] = norms[0] if alone else None
    return found


def _probe(model: Classifier) -> None:
    """A pass on an empty image; a head without a convolution is left out, as its linear layer may
    be made for another size."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return
    image = first.weight.new_zeros((1, first.in_channels, _PROBE, _PROBE))
    maps = model.features(image)[-1]
    if any(isinstance(module, nn.Conv2d) for module in model.head.modules()):
        model.head(maps)


class _Uses(TorchFunctionMode):
    """Counts how often a tensor goes into a computation; asking for its shape is none."""

    _FACTS = (int, torch.Size, torch.dtype, torch.device)

    def __init__(self):
        super().__init__()
        self.tensors: list[Tensor] = []  # kept, so that no other takes their identity
        self.counts: Counter[int] = Counter()

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if not isinstance(result, self._FACTS):
            for value in (*arguments, *(options or {}).values()):
                for item in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(item, Tensor):
                        self.tensors.append(item)
                        self.counts[id(item)] += 1
        return result

    def of(self, tensor: Tensor) -> int:
        return self.counts[id(tensor)]
