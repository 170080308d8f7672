"""From the command to the first training step of a search: where every second goes.

    python -m benchmarks.start [--rounds 5] [--output FILE]

Each round is `python -m skdtune.search quickstart --trials 1 --epochs 1` in a process and a folder
of its own, one round before that warms the file cache and is not counted. The parts follow each
other without a gap: their sum is the whole. Between them the clock is read where the program enters
or leaves one of its own functions; the trial's part comes from its record. Below: what the imports
alone take, in a process that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

PARTS = (
    "interpreter and imports",
    "flags and space",
    "data set, one batch rehearsed",
    "Ray starts",
    "nodes, study on disk, headline",
    "Tune, and the worker's process with its imports",
    "the trial's data, network and optimizer",
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(_child(float(options.child[0]), options.child[1])))
        return
    rounds = [_round() for _ in range(options.rounds + 1)][1:]
    from benchmarks.pages import head, spread  # not in the child, whose imports are measured

    note = f"n = {options.rounds}; median (least to most)."
    lines = [
        *head("From the command to the first step", "start", arguments, note),
        "| part | s |",
        "|---|---|",
    ]
    for name, seconds in zip((*PARTS, "in all"), zip(*rounds, strict=True), strict=True):
        lines.append(f"| {name} | {spread(seconds, 2)} |")
    lines += ["", "| imports alone, of | s |", "|---|---|"]
    for module in ("torch", "trainables.classifier", "skdtune.search"):
        seconds = [_import(module) for _ in range(options.rounds)]
        lines.append(f"| `{module}` | {spread(seconds, 2)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


def _round() -> list[float]:
    """Seconds of each part, and of all."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.start", "--child", str(time.time()), folder],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    marks = json.loads(done.stdout.splitlines()[-1])
    parts = [after - before for before, after in pairwise(marks)]
    return [*parts, marks[-1] - marks[0]]


def _import(module: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - began


def _child(began: float, folder: str) -> list[float]:
    """Runs the search as its command does; the moments between the parts."""
    from skdtune import environment

    environment.prepare()
    from skdtune import cluster, preflight, search, tuning

    marks = [began, time.time()]

    def marked(function: Callable, before: bool = False, after: bool = False) -> Callable:
        def call(*arguments, **named):
            if before:
                marks.append(time.time())
            found = function(*arguments, **named)
            if after:
                marks.append(time.time())
            return found

        return call

    preflight.data_facts = marked(preflight.data_facts, before=True, after=True)
    cluster.connect = marked(cluster.connect, after=True)
    tuning.run = marked(tuning.run, before=True)
    os.chdir(folder)
    wanted = ["--trials", "1", "--epochs", "1", "--storage", "study", "--address", "local"]
    search.main(["quickstart", *wanted])
    from skdtune import records
    from trainables import metrics
    from trainables.storage import Folder

    trials = records.load(Folder("study")).records.values()
    first = min(trials, key=lambda record: record.started)
    report = first.epochs[0]
    stepped = report[metrics.TIMESTAMP] - report[metrics.EPOCH_SECONDS]
    return [*marks, first.started, stepped]


if __name__ == "__main__":
    main(sys.argv[1:])
