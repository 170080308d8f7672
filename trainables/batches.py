"""What the loop trains and scores on, batch by batch: order, companions, augmentation, scaling."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from trainables.augment import Augment, normalise
from trainables.data import Sets
from trainables.loading import BatchRequest
from trainables.methods import Companion

EVALUATION_BATCH = 1000

Batch = tuple[Tensor, Tensor, Tensor]  # normalised images [N, C, H, W], labels [N], indices [N]


def training(
    sets: Sets, augment: Augment, companion: Companion | None, generator: Generator
) -> Iterator[Batch]:
    """One epoch of the training images, augmented; indices say which ones they are."""
    if sets.loader is not None:
        yield from _training_from_files(sets, augment, companion, generator)
        return
    for indices in order(sets.train.labels, sets.batch_size, companion, generator):
        pixels = sets.train.pixels[indices]
        inputs = augment(pixels, sets.mean, sets.std, generator)
        yield inputs, sets.train.labels[indices], indices


def evaluation(sets: Sets) -> Iterator[tuple[Tensor, Tensor]]:
    """Every held-out image once, in order.  # [B, C, H, W], [B]"""
    held_out, size = sets.held_out, EVALUATION_BATCH
    if sets.loader is not None:
        size = min(size, sets.batch_size)  # large images: what fits while training fits here
        rows = len(sets.train) + torch.arange(len(held_out))  # they follow the training images
        parts = sets.loader.load(BatchRequest(part) for part in rows.split(size))
    else:
        # as many values as in that many images of 32x32, but never less than fits for training
        size = min(size, max(sets.batch_size, size * 32 * 32 // held_out.pixels[0, 0].numel()))
        parts = held_out.pixels.split(size)
    labels = held_out.labels.to(sets.mean.device).split(size)
    for pixels, answers in zip(parts, labels, strict=True):
        yield normalise(pixels, sets.mean, sets.std), answers


def _training_from_files(
    sets: Sets, augment: Augment, companion: Companion | None, generator: Generator
) -> Iterator[Batch]:
    """Order and crops are drawn here, ahead of the workers; the rest batch by batch on the
    device."""
    device = sets.mean.device
    seed = torch.randint(2**62, (), device=device, generator=generator).item()
    draws = Generator().manual_seed(seed)
    rows = list(order(sets.train.labels, sets.batch_size, companion, draws))
    seeds = [torch.randint(2**62, (len(batch),), generator=draws) for batch in rows]
    if augment.crop_area is None:
        requests = map(BatchRequest, rows)
    else:
        requests = map(partial(BatchRequest, area=augment.crop_area), rows, seeds)
    labels = sets.train.labels.to(device)
    for batch, pixels in zip(rows, sets.loader.load(requests), strict=True):
        indices = batch.to(device, non_blocking=True)
        inputs = augment(pixels, sets.mean, sets.std, generator, is_cropped=True)
        yield inputs, labels[indices], indices


def order(
    labels: Tensor, batch_size: int, companion: Companion | None, generator: Generator
) -> Iterator[Tensor]:
    """The indices of each batch of one epoch: whole batches in random order; an incomplete last
    one is dropped, unless it is the only one. With a companion a batch is twice as long, row
    `B + i` the companion of row `i`.

    Equal batches are what DSR's pairing of rows needs, and keep a batch norm from a batch of one.
    # [N] -> [B] or [2 * B]
    """
    count = len(labels)
    shuffled = torch.randperm(count, device=labels.device, generator=generator)
    whole = count - count % batch_size if count >= batch_size else count
    partners = _partners(labels, generator) if companion == "class" else None
    for start in range(0, whole, batch_size):
        indices = shuffled[start : min(start + batch_size, whole)]
        if companion == "view":  # the same image: each row is augmented for itself
            indices = torch.cat([indices, indices])
        elif partners is not None:
            indices = torch.cat([indices, partners[indices]])
        yield indices


def _partners(labels: Tensor, generator: Generator) -> Tensor:
    """For each image another one of its class, drawn evenly; itself where its class has no
    other.  # [N] -> [N]"""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts  # of each class, in `by_class`
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(labels), device=labels.device)
    size = counts[labels]
    chance = torch.rand(len(labels), device=labels.device, generator=generator)
    others = (size - 1).clamp(min=1)
    step = 1 + (chance * others).long().clamp(max=others - 1)  # 1 to size - 1 places further
    return by_class[first[labels] + (place - first[labels] + step) % size]
