"""The gradients of wide convolutions' weights as matrix products, for CPUs with AMX."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The weights of one place of a kernel (channels in times channels out) to the pixels of the map
# that comes out, from which on matrix products won on every layer measured, by 1.07 to 12 times;
# below it they lost on most, by up to 4 times. And how few weights are not worth a look.
_WEIGHTS_PER_PIXEL, _FEW = 512, 128 * 128


def weight_gradients(module: nn.Module, device: torch.device) -> AbstractContextManager:
    """What to enter, under autocast, for a forward pass of this module on this device:
    `WeightGradients` on a CPU with AMX, where they are known to be faster, else nothing."""
    is_amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if is_amx and any(_width(layer.weight) >= _FEW for layer in layers):
        return WeightGradients()
    return nullcontext()


class WeightGradients(TorchFunctionMode):
    """While it is entered, and autocast to bfloat16 with it, wide convolutions get the gradient of
    their weights as one matrix product for each place of the kernel.

    oneDNN's own kernel for it (3.13, `brgconv_bwd_w` for AMX) takes up to 12 times as long where
    there are many channels and few pixels (docs/decisions.md). Both sum in float32, in other
    orders. Modules, parameters and what is drawn at random stay as they are."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function is torch.conv2d and not named and torch.is_autocast_enabled("cpu"):
            return _convolve(*arguments)
        return function(*arguments, **(named or {}))


def _convolve(images, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    # [B, C, H, W], [O, C, K, L] -> [B, O, H', W']
    is_plain = groups == 1 and tuple(dilation) == (1, 1) and not isinstance(padding, str)
    if is_plain and weight.requires_grad and torch.is_grad_enabled() and _width(weight) >= _FEW:
        sides = zip(images.shape[2:], weight.shape[2:], stride, padding, strict=True)
        height, width = [(side + 2 * pad - size) // step + 1 for side, size, step, pad in sides]
        if _width(weight) >= _WEIGHTS_PER_PIXEL * height * width:
            half = [
                value if value is None else value.bfloat16() for value in (images, weight, bias)
            ]
            return _Convolution.apply(*half, stride, padding)
    return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)


def _width(weight: Tensor) -> int:
    return weight.shape[0] * weight.shape[1]


class _Convolution(torch.autograd.Function):
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
            _for_weight(images, weight, gradient, *steps) if to_weight else None,
            gradient.sum((0, 2, 3)) if to_bias else None,
            None,
            None,
        )


def _for_weight(images: Tensor, weight: Tensor, gradient: Tensor, stride, padding) -> Tensor:
    # [B, C, H, W], [O, C, K, L], [B, O, H', W'] -> [O, C, K, L]
    outputs, channels, *kernel = weight.shape
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
