"""Does DRG or DSR beat plain training? The authors' schedule on real CIFAR-100, test accuracy.

    python -m benchmarks.cifar100 ROOT [--backbone resnet18] [--epochs 200] [--seeds 2]
                                  [--images 50000] [--parallel 1] [--folder runs/cifar100]
                                  [--minutes 600] [--output FILE]

ROOT: an image folder with train/ and test/. Trains on all of train/ with SGD, lr 0.1, momentum 0.9,
weight decay 5e-4, batches of 128, the rate divided by 10 after 30, 60 and 80 % of the epochs (the
authors' 60, 120 and 160 of 200), crop with padding 4 and flip; every method with the authors'
defaults; the test set is scored at the last epoch. Runs are checkpointed in --folder: stopped by
--minutes or a signal, the same command goes on. --images takes the first so many of a seeded
order, to try the command. --parallel runs share the GPU.
"""

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from skdtune import mps
from skdtune.estimate import estimate
from trainables.checkpoint import Checkpoints
from trainables.storage import Folder
from trainables.training import Training

PLAIN = "cross_entropy"
METHODS = {
    PLAIN: {"name": PLAIN},
    "DRG": {"name": "drg_dsr", "variant": "drg"},
    "DSR": {"name": "drg_dsr", "variant": "dsr"},
    "DRG+DSR": {"name": "drg_dsr"},
}
_CLAIM = "up to +2.87 points over the baseline (abstract of arXiv:2305.09183; data set not named)"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar100"))
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    deadline = time.time() + 60 * options.minutes

    def run(job: tuple[str, int]) -> tuple[str, list[dict]]:
        name, seed = job
        if time.time() > deadline:  # to import and to read the images would take a minute
            return name, []
        wanted = json.dumps(
            {
                "root": options.root,
                "backbone": options.backbone,
                "method": METHODS[name],
                "epochs": options.epochs,
                "seed": seed,
                "images": options.images,
                "folder": str(options.folder / f"{name}-{seed}".replace("+", "_")),
                "deadline": deadline,
            }
        )
        command = [sys.executable, "-m", "benchmarks.cifar100", "one", wanted]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        reports = json.loads(done.stdout)
        print(f"{name}, seed {seed}: {len(reports)} of {options.epochs} epochs", file=sys.stderr)
        return name, reports

    jobs = [(name, seed) for seed in range(options.seeds) for name in METHODS]
    runs: dict[str, list[list[dict]]] = {name: [] for name in METHODS}
    shares = options.parallel > 1 and torch.cuda.is_available()
    with mps.serving(shares), ThreadPoolExecutor(options.parallel) as pool:
        for name, reports in pool.map(run, jobs):
            runs[name].append(reports)
    left = sum(len(reports) < options.epochs for found in runs.values() for reports in found)
    if left:
        print(f"{left} runs are not done; the same command goes on")
        return
    text = _table(options, runs)
    print(text)
    if options.output:
        options.output.write_text(text)


def _one(wanted: dict) -> None:
    """A run in a process of its own, from where it was left to its end or the deadline."""
    training = Training(
        data={"name": "imagefolder", "root": wanted["root"], "batch_size": 128},
        model={"name": wanted["backbone"]},
        method=wanted["method"],
        optim={"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "multistep"},
        epochs=wanted["epochs"],
        seed=wanted["seed"],
        final=True,
    )
    if wanted["images"]:
        chosen = torch.randperm(
            len(training.sets.train), generator=torch.Generator().manual_seed(0)
        )[: wanted["images"]]
        few = training.sets.train.take(chosen.to(training.sets.train.labels.device))
        training.sets = dataclasses.replace(training.sets, train=few)
    checkpoints = Checkpoints(Folder(wanted["folder"]), Path(wanted["folder"]).name)
    reports = []
    for report in training.epochs(checkpoints):
        reports.append(report)
        if report["epoch"] == training.epoch and time.time() > wanted["deadline"]:
            break  # behind those that a checkpoint held already
    print(json.dumps(reports))


def _table(options: argparse.Namespace, runs: dict[str, list[list[dict]]]) -> str:
    last = {name: [reports[-1] for reports in found] for name, found in runs.items()}
    plain = [report["test/accuracy"] for report in last[PLAIN]]
    cuda = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if cuda else platform.machine()
    lines = [
        "# CIFAR-100: plain training, DRG, DSR and both",
        "",
        f"{options.backbone}, {options.epochs} epochs, {options.seeds} seeds, "
        f"{options.images or 'all'} training images, on {machine}, torch {torch.__version__}.",
        f"The paper claims {_CLAIM}. Mean ± half the 95 % t interval, of test accuracy and of its "
        "paired difference; one that includes 0 shows nothing.",
        "",
        "| method | test accuracy | seeds | minus plain | epoch s | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in last.items():
        scores = [report["test/accuracy"] for report in found]
        gain = estimate([a - b for a, b in zip(scores, plain, strict=True)])
        seconds = [report["time/epoch_s"] for report in found]
        lines.append(
            f"| {name} | {estimate(scores)} | {', '.join(f'{score:.4f}' for score in scores)} | "
            f"{'' if name == PLAIN else gain} | {sum(seconds) / len(seconds):.2f} | "
            f"{max(report['memory/peak_gib'] for report in found):.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        _one(json.loads(sys.argv[2]))
    else:
        main(sys.argv[1:])
