"""What each method gains and costs: same backbone, same budget, same seeds.

    python -m benchmarks.methods ROOT [--backbone resnet20] [--epochs 10] [--seeds 3] [--rounds 5]
                                 [--only NAME ...] [--accuracy-only | --cost-only] [--output FILE]

ROOT: an image folder with train/ (README, `imagefolder`). Every method has its authors' defaults
and the same optimizer. Accuracy is that of the last epoch on the validation split, one process a
run, two at a time, one thread each. The teacher of kd and tf_kd_self is one plain training with a
seed of its own; its time is not counted. Cost is measured apart: all methods live in one process,
one thread, and train one epoch each in turn, in a new random order every round; a ratio compares
the CPU time of two epochs of the same round (wall-clock time on a GPU). Memory is the peak of a
run's process above what it held before the network was built.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from skdtune.estimate import estimate
from trainables import data, shipping
from trainables.training import Training

PLAIN = "cross_entropy"
METHODS: dict[str, dict] = {
    PLAIN: {"name": PLAIN},
    "label_smoothing": {"name": "label_smoothing"},
    "tf_kd_reg (code)": {"name": "tf_kd_reg"},
    "tf_kd_reg (paper)": {"name": "tf_kd_reg", "form": "paper"},
    "tf_kd_self": {"name": "tf_kd_self"},
    "kd (twin)": {"name": "kd"},
    "drg": {"name": "drg_dsr", "variant": "drg"},
    "dsr": {"name": "drg_dsr", "variant": "dsr"},
    "drg_dsr": {"name": "drg_dsr"},
    "rsd": {"name": "rsd"},
    "ps_kd": {"name": "ps_kd"},
    "cs_kd": {"name": "cs_kd"},
    "dlb": {"name": "dlb"},
    "zipf_ls": {"name": "zipf_ls"},
    "byot": {"name": "byot"},
    "bake": {"name": "bake"},
    "uskd": {"name": "uskd"},
}
_TAUGHT = ("tf_kd_self", "kd")
_TEACHERS_SEED = 1000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--accuracy-only", action="store_true")
    part.add_argument("--cost-only", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    names = [PLAIN, *(name for name in options.only if name != PLAIN)]
    with tempfile.TemporaryDirectory() as teacher:
        settings = {name: dict(METHODS[name]) for name in names}
        if any(method["name"] in _TAUGHT for method in settings.values()):
            _train_teacher(options, teacher)
        for method in settings.values():
            if method["name"] in _TAUGHT:
                method["teacher"] = teacher
        runs = {} if options.cost_only else _accuracies(options, settings)
        costs = {} if options.accuracy_only else _costs(options, settings)
    text = _table(options, names, runs, costs, arguments)
    print(text)
    if options.output:
        options.output.write_text(text)


def _config(options: argparse.Namespace, method: dict, seed: int) -> dict:
    return {
        "data": {"name": "imagefolder", "root": options.root, "batch_size": 64},
        "model": {"name": options.backbone},
        "method": method,
        "optim": {"lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine"},
        "epochs": options.epochs,
        "seed": seed,
    }


def _train_teacher(options: argparse.Namespace, folder: str) -> None:
    training = Training(**_config(options, {"name": PLAIN}, _TEACHERS_SEED))
    for _ in training.epochs():
        pass
    shipped = shipping.ship(training.method, training.sets)
    shipping.save(folder, shipped, {"name": options.backbone}, training.sets.image_shape)


def _accuracies(options: argparse.Namespace, settings: dict[str, dict]) -> dict[str, list[dict]]:
    """The reports of every run, by method."""

    def run(job: tuple[str, int]) -> tuple[str, dict]:
        name, seed = job
        config = json.dumps(_config(options, settings[name], seed))
        command = [sys.executable, "-m", "benchmarks.methods", "one", config]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{name}, seed {seed}: {done.stdout.strip()}", file=sys.stderr)
        return name, json.loads(done.stdout)

    jobs = [(name, seed) for seed in range(options.seeds) for name in settings]
    found: dict[str, list[dict]] = {name: [] for name in settings}
    with ThreadPoolExecutor(2) as pool:
        for name, report in pool.map(run, jobs):
            found[name].append(report)
    return found


def _one(config: dict) -> None:
    """A run in a process of its own."""
    torch.set_num_threads(1)
    data.build(**config["data"])
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
    before = _process_kib("VmRSS")
    reports = list(Training(**config).epochs())
    peak = _process_kib("VmHWM") - before
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**10
    print(json.dumps({"accuracy": reports[-1]["val/accuracy"], "memory_mib": peak / 2**10}))


def _process_kib(field: str) -> int:
    """One size that the kernel keeps of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _costs(options: argparse.Namespace, settings: dict[str, dict]) -> dict[str, list[float]]:
    """Seconds of each round's epoch, by method; a first round warms up and is not counted."""
    torch.set_num_threads(1)
    clock: Callable[[], float] = (
        time.perf_counter if torch.cuda.is_available() else time.process_time
    )
    config = {**vars(options), "epochs": options.rounds + 1}
    running = {
        name: Training(**_config(argparse.Namespace(**config), method, 0)).epochs()
        for name, method in settings.items()
    }
    found: dict[str, list[float]] = {name: [] for name in settings}
    chance = random.Random(0)
    for _ in range(options.rounds + 1):
        for name in chance.sample(list(running), len(running)):
            began = clock()
            next(running[name])
            found[name].append(clock() - began)
    return {name: seconds[1:] for name, seconds in found.items()}


def _table(
    options: argparse.Namespace,
    names: list[str],
    runs: dict[str, list[dict]],
    costs: dict[str, list[float]],
    arguments: list[str],
) -> str:
    processor = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    shown = " ".join("ROOT" if argument == options.root else argument for argument in arguments)
    lines = [
        "# Methods side by side",
        "",
        f"`python -m benchmarks.methods {shown}` on {processor}, torch {torch.__version__}.",
        f"{options.backbone}, {options.epochs} epochs, {options.seeds} seeds; cost over "
        f"{options.rounds} rounds: median (least to most) of the ratio to {PLAIN} in the same "
        "round. Validation accuracy: mean ± half the 95 % t interval; how it is measured: the "
        "docstring of benchmarks/methods.py.",
        "",
        f"| method | validation accuracy | minus {PLAIN} | epoch time, ratio | memory, ratio |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        accuracy = gain = cost = memory = "-"
        if costs:
            ratios = [mine / plain for mine, plain in zip(costs[name], costs[PLAIN], strict=True)]
            cost = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        if runs:
            scores = [run["accuracy"] for run in runs[name]]
            plain = [run["accuracy"] for run in runs[PLAIN]]
            accuracy = str(estimate(scores))
            paired = [a - b for a, b in zip(scores, plain, strict=True)]
            gain = "" if name == PLAIN else str(estimate(paired))
            peaks = [statistics.median(r["memory_mib"] for r in runs[n]) for n in (name, PLAIN)]
            memory = f"{peaks[0] / peaks[1]:.2f}"
        lines.append(f"| {name} | {accuracy} | {gain} | {cost} | {memory} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        _one(json.loads(sys.argv[2]))
    else:
        main(sys.argv[1:])
