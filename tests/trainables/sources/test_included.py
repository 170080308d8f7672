"""Sets that need no files."""

from pathlib import Path

import torch

from trainables.sources.included import synthetic


def test_synthetic_images_are_the_same_each_time_and_unlike_in_train_and_test():
    one, two = synthetic(Path("/")), synthetic(Path("/"))
    assert torch.equal(one.train.pixels, two.train.pixels)
    assert len(one.test()) == 128
    assert not torch.equal(one.train.pixels[:128], one.test().pixels)
