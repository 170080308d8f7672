"""Sets that need no files: one that an installed library brings, one that is made on the spot."""

from pathlib import Path

import numpy as np
import torch

from trainables.bounds import Count
from trainables.images import Images, Source

__all__ = ["digits", "synthetic"]


def digits(root: Path) -> Source:
    """scikit-learn's 1,797 real handwritten digits, 8x8 grey, 10 classes; `root` is not used.
    Has no test part of its own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).long()
    return Source(tuple("0123456789"), Images(pixels, labels), test=None)


def synthetic(
    root: Path,
    *,
    classes: Count = 4,
    images: Count = 256,
    image_size: Count = 8,
    channels: Count = 3,
) -> Source:
    """Noise around a pattern a class, for tests: learnable in seconds, made on the spot; no
    `root`."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(
        0, 256, (classes, channels, image_size, image_size), generator=generator
    )

    def make(count: int) -> Images:
        labels = torch.arange(count) % classes
        noise = torch.randn((count, *patterns.shape[1:]), generator=generator) * 64
        return Images((patterns[labels] * 0.5 + 64 + noise).clamp(0, 255).to(torch.uint8), labels)

    train, test = make(images), make(images // 2)
    return Source(tuple(map(str, range(classes))), train, lambda: test)
