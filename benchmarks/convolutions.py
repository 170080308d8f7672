"""The gradient of a convolution's weights: torch's kernel against a matrix product for each place.

    python -m benchmarks.convolutions [--batch 128] [--threads 2] [--seconds 2]

In bfloat16 and channels_last, for layers of resnet18, VGG and wider networks, sorted by the weights
of one place to the pixels of the map that comes out: `trainables.convolutions` takes products from
`_WEIGHTS_PER_PIXEL` on. Both take turns for --seconds a layer. The last column shows that both
round alike: the distance to the gradient in float32, relative to its length.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step import machine
from trainables.convolutions import gradient_by_products

# channels in, out, side of the map, side of the kernel, stride
LAYERS = [
    *((64, 64, 32, 3, 1), (128, 128, 16, 3, 1), (256, 256, 8, 3, 1), (512, 512, 4, 3, 1)),
    *((64, 128, 32, 3, 2), (128, 256, 16, 3, 2), (256, 512, 8, 3, 2), (256, 512, 8, 1, 2)),
    *((512, 512, 2, 3, 1), (512, 512, 8, 3, 1), (256, 256, 16, 3, 1), (160, 160, 32, 3, 1)),
    *((640, 640, 8, 3, 1), (512, 256, 8, 1, 1), (256, 128, 32, 1, 1)),
]


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

    pairs = _in_turns(by_torch, by_products, options.seconds)
    first, second = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(one / other for one, other in pairs)
    distances = [
        ((way().float() - true).norm() / true.norm()).item() for way in (by_torch, by_products)
    ]
    return (
        f"| {channels}, {outputs} | {side}x{side} | {kernel}, {stride} "
        f"| {_weights_per_pixel(layer):.0f} | {first:.2f} | {second:.2f} "
        f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {len(pairs)} "
        f"| {distances[0]:.4f}, {distances[1]:.4f} |"
    )


def _in_turns(
    one: Callable[[], Tensor], other: Callable[[], Tensor], seconds: float
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
