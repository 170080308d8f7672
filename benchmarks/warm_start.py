"""How long a trial takes from its start to its first step, in a fresh worker and in a reused one.

    python benchmarks/warm_start.py [REPEATS]

Runs the quickstart's space one trial at a time, so that the first trial of a search meets a fresh
process and all others a reused one, and reads the study's records: the time from Tune's start of
the trial to the end of its first epoch, less that epoch's own time.
"""

import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from skdtune import records
from skdtune.provenance import versions
from trainables import metrics
from trainables.storage import Folder


def main(repeats: int) -> None:
    fresh, reused = [], []
    for _ in range(repeats):
        found = starts()
        fresh.append(found[0])
        reused += found[1:]
    print(f"{platform.processor() or platform.machine()}, {versions()}")
    print("| worker | n | median s | min s | max s | ratio to fresh |")
    print("|---|---|---|---|---|---|")
    for name, values in (("fresh", fresh), ("reused", reused)):
        middle = statistics.median(values)
        ratio = middle / statistics.median(fresh)
        spread = f"{min(values):.3f} | {max(values):.3f}"
        print(f"| {name} | {len(values)} | {middle:.3f} | {spread} | {ratio:.3f} |")


def starts() -> list[float]:
    """Seconds from start to first step of each trial of one search, in the order they ran."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "skdtune.search", "--concurrency=1", "--epochs=2"]
        subprocess.run(
            [*command, f"--storage={folder}/study"], cwd=folder, check=True, capture_output=True
        )
        study = records.load(Folder(Path(folder) / "study"))
    ran = sorted(study.records.values(), key=lambda record: record.started)
    firsts = [(record.started, record.epochs[0]) for record in ran if record.epochs]
    return [
        epoch[metrics.TIMESTAMP] - epoch[metrics.EPOCH_SECONDS] - started
        for started, epoch in firsts
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
