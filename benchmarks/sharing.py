"""Several trials on one device: images/s in sum and memory.

    python -m benchmarks.sharing [--models resnet20 resnet18] [--together 1 2 4] [--seconds 10]
                                 [--rounds 3] [--output FILE]

DRG+DSR on images of 32x32, batch 128, in processes of their own that train at the same time; the
same measurement that `--check` makes on a GPU (trainables/calibration.py). A ratio is to one trial
of the same round. On a CPU the processes share its threads.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.pages import head, spread
from skdtune import mps
from trainables import calibration
from trainables.calibration import Load


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet18"])
    parser.add_argument("--together", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    note = f"n = {options.rounds}; median (least to most)."
    lines = [
        *head("Several trials on one device", "sharing", arguments, note),
        "| network | trials | images/s in sum | ratio to one | memory of all, GiB |",
        "|---|---|---|---|---|",
    ]
    for model in options.models:
        with mps.serving(device.type == "cuda") as served:
            rounds = [_measure(model, options, device) for _ in range(options.rounds)]
        for loads in zip(*rounds, strict=True):
            problem = next((load.problem for load in loads if load.problem), "")
            cells = [problem, "", ""]
            if not problem:
                ones = [row[0].images_per_s for row in rounds]
                speeds = [load.images_per_s for load in loads]
                ratios = [mine / one for mine, one in zip(speeds, ones, strict=True)]
                memory = [load.memory_gib for load in loads]
                cells = [spread(speeds, 0), spread(ratios, 2), spread(memory, 1)]
            lines.append(f"| {model} | {loads[0].trials} | {' | '.join(cells)} |")
    if device.type == "cuda":
        lines += ["", mps.note(served)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


def _measure(model: str, options: argparse.Namespace, device: torch.device) -> list[Load]:
    config = {
        "data": {"batch_size": 128},
        "model": {"name": model},
        "method": {"name": "drg_dsr"},
        "optim": {"lr": 0.01},
        "augment": {"crop_area": 0.08},
    }
    wanted = (config, 100, (3, 32, 32), device)
    return calibration.measure(*wanted, together=options.together, seconds=options.seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
