"""Which running statistics RSD should evaluate with: of the clean pass alone, or of every pass.

    python benchmarks/rsd_statistics.py IMAGES [EPOCHS] [SEEDS]

Trains resnet20 on a folder of images at 16x16 with the authors' hyperparameters and their schedule,
shortened, on one thread of the CPU. Every setting gets the same seeds, so that a difference is
between two runs that start and see the same. Reports the last epoch on the validation images, a
quarter of the training images; nothing reads the test images.
"""

import platform
import statistics
import sys

import torch

from skdtune.provenance import versions
from trainables import metrics
from trainables.training import Training

SCORES = (f"{metrics.VALIDATION}/accuracy", f"{metrics.VALIDATION}/loss")


def main(root: str, epochs: int, seeds: int) -> None:
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, {versions()}, {epochs} epochs")
    found = {}
    for setting in ("clean", "all"):
        found[setting] = [last_epoch(root, setting, epochs, seed) for seed in range(seeds)]
    print("| statistics | n | accuracy mean | sd | of each seed | loss mean | sd | epoch s |")
    print("|---|---|---|---|---|---|---|---|")
    for setting, reports in found.items():
        columns = [spread([report[score] for report in reports]) for score in SCORES]
        each = " ".join(f"{report[SCORES[0]]:.3f}" for report in reports)
        second = statistics.median(report[metrics.EPOCH_SECONDS] for report in reports)
        print(f"| {setting} | {seeds} | {columns[0]} | {each} | {columns[1]} | {second:.1f} |")
    for score in SCORES:
        gaps = [
            clean[score] - every[score]
            for clean, every in zip(found["clean"], found["all"], strict=True)
        ]
        print(f"clean minus all, {score}, by seed: {' '.join(f'{gap:+.3f}' for gap in gaps)}")


def last_epoch(root: str, setting: str, epochs: int, seed: int) -> dict[str, float]:
    """The metrics of the last epoch of one training."""
    training = Training(
        data={
            "name": "imagefolder",
            "root": root,
            "image_size": 16,
            "batch_size": 64,
            "validation_fraction": 0.25,
        },
        augment={"crop_padding": 2, "flip": True},
        model={"name": "resnet20"},
        method={"name": "rsd", "statistics": setting},
        optim={"lr": 0.05, "milestones": [0.625, 0.75, 0.875]},
        epochs=epochs,
        seed=seed,
    )
    for report in training.epochs():
        print(f"{setting}, seed {seed}: {report}", file=sys.stderr)
    return training.history[-1]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4f} | {deviation:.4f}"


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[2:]]
    main(sys.argv[1], *given, *(20, 3)[len(given) :])
