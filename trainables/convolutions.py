"""Convolutions whose gradients a CPU computes slowly in bfloat16, computed in another way."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The weights of one place of a kernel (channels in times channels out) to the pixels of the map
# that comes out: from here on matrix products won on every layer of `benchmarks.convolutions`, by
# 1.4 to 10 times, and below they lost on every one. And how few weights are not worth a look.
_WEIGHTS_PER_PIXEL, _FEW = 512, 128 * 128


def fitting(
    module: nn.Module, device: torch.device, products: bool = True
) -> AbstractContextManager:
    """What to enter, under autocast to bfloat16, for a pass of this module that trains it on this
    device: `CpuConvolutions` on a CPU where it has a layer that they are for, else nothing.
    products: not with torch.compile, where they were not tried."""
    products = products and torch.cpu._is_amx_tile_supported()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    is_wide = products and any(_width(layer.weight) >= _FEW for layer in layers)
    is_strided = any(
        _is_strided_depthwise(layer.weight, layer.groups, layer.stride) for layer in layers
    )
    if device.type == "cpu" and (is_wide or is_strided):
        return CpuConvolutions(products)
    return nullcontext()


class CpuConvolutions(TorchFunctionMode):
    """While it is entered, and autocast to bfloat16 with it, two kinds of convolution that are to
    have gradients are computed in another way; modules, their parameters, what is drawn at random
    and the types of maps stay as they are. For passes whose gradients need no second pass:
    `torch.utils.checkpoint` would do that outside of it.

    Depthwise ones with a stride, in float32: oneDNN (3.13) has no fast kernel for their gradient in
    bfloat16, so that forward and backward together take 4 to 23 times as long. products: wide ones
    on CPUs with AMX get the gradient of their weights as one matrix product for each place of the
    kernel; where there are many channels and few pixels oneDNN's own kernel (`brgconv_bwd_w`) takes
    up to ten times as long. Both sum in float32, in other orders. Figures: docs/step.md."""

    def __init__(self, products: bool):
        super().__init__()
        self.products = products

    def __torch_function__(self, function, types, arguments=(), named=None):
        is_module = function is torch.conv2d and len(arguments) == 7  # as nn.Conv2d calls it
        if is_module and _is_trained(*arguments):
            return self._convolve(*arguments)
        return function(*arguments, **(named or {}))

    def _convolve(self, images, weight, bias, stride, padding, dilation, groups):
        # [B, C, H, W], [O, C / groups, K, L] -> [B, O, H', W']
        if _is_strided_depthwise(weight, groups, stride):
            with torch.autocast("cpu", enabled=False):
                full = images.float()
                maps = torch.conv2d(full, weight, bias, stride, padding, dilation, groups)
                return maps.bfloat16()
        is_plain = groups == 1 and tuple(dilation) == (1, 1) and not isinstance(padding, str)
        if self.products and is_plain and weight.requires_grad and _width(weight) >= _FEW:
            sides = zip(images.shape[2:], weight.shape[2:], stride, padding, strict=True)
            height, width = [(side + 2 * pad - size) // step + 1 for side, size, step, pad in sides]
            if _width(weight) >= _WEIGHTS_PER_PIXEL * height * width:
                half = [None if value is None else value.bfloat16() for value in (weight, bias)]
                return _ByProducts.apply(images.bfloat16(), *half, stride, padding)
        return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)


def _is_trained(images: Tensor, weight: Tensor, bias, stride, *others: object) -> bool:
    """Whether it is of a batch, in a pass that is to have gradients, under autocast."""
    return (
        torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and weight.dtype is torch.float32
        and images.dim() == 4
        and isinstance(stride, tuple)
    )


def _is_strided_depthwise(weight: Tensor, groups: int, stride: tuple[int, int]) -> bool:
    return groups == weight.shape[0] > 1 and max(stride) > 1


def _width(weight: Tensor) -> int:
    return weight.shape[0] * weight.shape[1]


class _ByProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, weight, bias, stride, padding):
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, gradient):
        images, weight = ctx.saved_tensors
        to_images, to_weight, to_bias = ctx.needs_input_grad[:3]
        shape, steps = images.shape, (ctx.stride, ctx.padding)
        return (
            nn.grad.conv2d_input(shape, weight, gradient, *steps) if to_images else None,
            gradient_by_products(images, weight.shape, gradient, *steps) if to_weight else None,
            gradient.sum((0, 2, 3)) if to_bias else None,
            None,
            None,
        )


def gradient_by_products(
    images: Tensor,
    shape: torch.Size,
    gradient: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Of a convolution's weights of this shape, as `torch.nn.grad.conv2d_weight` has it.
    # [B, C, H, W], (O, C, K, L), [B, O, H', W'] -> [O, C, K, L]"""
    outputs, channels, *kernel = shape
    (height, width), (down, across) = gradient.shape[2:], stride
    bordered = F.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    pixels = bordered.permute(0, 2, 3, 1)
    rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs).t()  # [O, B H' W']
    products = []
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            seen = pixels[:, y : y + down * height : down, x : x + across * width : across]
            products.append(rows @ seen.reshape(-1, channels))
    return torch.stack(products, dim=1).view(outputs, *kernel, channels).permute(0, 3, 1, 2)
