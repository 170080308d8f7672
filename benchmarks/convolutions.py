"""What `trainables.convolutions` computes in another way on a CPU, layer by layer.

    python -m benchmarks.convolutions [--batch 128] [--threads 2] [--seconds 2]

In bfloat16 and channels_last, torch's way and ours in turns for --seconds a layer. First the
gradient of a convolution's weights, torch's kernel against a matrix product for each place of it,
for layers of resnet18, VGG and wider networks, sorted by the weights of one place to the pixels of
the map that comes out: from `_WEIGHTS_PER_PIXEL` on products are taken. Its last column shows that
both round alike: the distance to the gradient in float32, relative to its length. Then depthwise
convolutions with a stride, forward and backward, as torch has them under autocast and in float32.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import date

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step import machine
from trainables.convolutions import CpuConvolutions, gradient_by_products

# channels in, out, side of the map, side of the kernel, stride
LAYERS = [
    *((64, 64, 32, 3, 1), (128, 128, 16, 3, 1), (256, 256, 8, 3, 1), (512, 512, 4, 3, 1)),
    *((64, 128, 32, 3, 2), (128, 256, 16, 3, 2), (256, 512, 8, 3, 2), (256, 512, 8, 1, 2)),
    *((512, 512, 2, 3, 1), (512, 512, 8, 3, 1), (256, 256, 16, 3, 1), (160, 160, 32, 3, 1)),
    *((640, 640, 8, 3, 1), (512, 256, 8, 1, 1), (256, 128, 32, 1, 1)),
]
DEPTHWISE = [(128, 16), (256, 8), (96, 32), (144, 16), (576, 8), (58, 16)]  # channels, side


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(
        f"{date.today()}, {machine()}, torch {torch.__version__}, batch {options.batch}, "
        f"{options.threads} thread(s); ms, median.\n\n"
        "| channels | map | kernel, stride | weights to pixels | torch | products | ratio (spread) "
        "| n | distances |\n|---|---|---|---|---|---|---|---|---|"
    )
    for layer in sorted(LAYERS, key=_weights_per_pixel):
        print(_row(layer, options), flush=True)
    print(
        "\n| depthwise, 3x3, stride 2: channels | map | torch | float32 | ratio (spread) | n |\n"
        "|---|---|---|---|---|---|"
    )
    for channels, side in DEPTHWISE:
        print(_depthwise_row(channels, side, options), flush=True)


def _weights_per_pixel(layer: tuple[int, ...]) -> float:
    channels, outputs, side, _, stride = layer
    return channels * outputs / (side // stride) ** 2


def _row(layer: tuple[int, ...], options: argparse.Namespace) -> str:
    channels, outputs, side, kernel, stride = layer
    torch.manual_seed(0)
    images = torch.randn(options.batch, channels, side, side)
    weight = torch.randn(outputs, channels, kernel, kernel)
    steps = ((stride, stride), (kernel // 2, kernel // 2))
    gradient = torch.randn(F.conv2d(images, weight, None, *steps).shape)
    true = nn.grad.conv2d_weight(images, weight.shape, gradient, *steps)
    images, weight, gradient = (
        value.bfloat16().to(memory_format=torch.channels_last)
        for value in (images, weight, gradient)
    )

    def by_torch() -> Tensor:
        return nn.grad.conv2d_weight(images, weight.shape, gradient, *steps)

    def by_products() -> Tensor:
        return gradient_by_products(images, weight.shape, gradient, *steps)

    distances = ", ".join(
        f"{((way().float() - true).norm() / true.norm()).item():.4f}"
        for way in (by_torch, by_products)
    )
    return (
        f"| {channels}, {outputs} | {side}x{side} | {kernel}, {stride} "
        f"| {_weights_per_pixel(layer):.0f} "
        f"| {_compared(by_torch, by_products, options.seconds)} | {distances} |"
    )


def _depthwise_row(channels: int, side: int, options: argparse.Namespace) -> str:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, 2, padding=1, groups=channels, bias=False)
    shape = (options.batch, channels, side, side)
    images = torch.randn(shape, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    images.requires_grad_()

    def passed(entered: AbstractContextManager) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16), entered:
            layer(images).sum().backward()

    ours = CpuConvolutions(products=False)
    both = _compared(lambda: passed(nullcontext()), lambda: passed(ours), options.seconds)
    return f"| {channels} | {side}x{side} | {both} |"


def _compared(one: Callable[[], object], other: Callable[[], object], seconds: float) -> str:
    """The cells of both medians, of their ratio, and of n."""
    pairs = _in_turns(one, other, seconds)
    first, second = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(mine / others for mine, others in pairs)
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"{first:.2f} | {second:.2f} | {statistics.median(ratios):.2f} ({spread}) | {len(pairs)}"


def _in_turns(
    one: Callable[[], object], other: Callable[[], object], seconds: float
) -> list[tuple[float, float]]:
    """What each took, pair by pair; a first pair warms up and is not counted."""
    found = []
    deadline = time.perf_counter() + seconds
    while len(found) < 4 or time.perf_counter() < deadline:
        began = time.perf_counter()
        one()
        between = time.perf_counter()
        other()
        found.append((between - began, time.perf_counter() - between))
    return found[1:]


if __name__ == "__main__":
    main(sys.argv[1:])
