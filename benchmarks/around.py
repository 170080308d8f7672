"""What surrounds the training steps: Tune, the sampler, records and MLflow, by trials that train
nothing.

    python -m benchmarks.around [--only 50 200 1000 warm] [--rounds 3] [--output FILE]

50, 200: that many trials of two reports, two at a time, in one process and one Ray, the variants in
turn, in another order every round. A ratio compares two times of the same round.
  bare        Ray Tune with its own OptunaSearch and reused actors, its result files as they come
  bare quiet  the same without Tune's result files
  skdtune     plan, sampler, scheduler, records flushed to disk: all of a search but the training
  mirrored    the same until all of it is in an MLflow server (sqlite) on this machine
1000: one such search: time per trial of its last hundred against the hundred after the first
hundred, and what the driver's memory grew by over the same trials.
warm: real trials on digits, one at a time: from a trial's end to the next one's first step.
"""

if __name__ == "__main__":  # before Ray and MLflow are imported
    import os

    from skdtune import environment

    environment.prepare()
    # Ray's workers are nice to all others by default: beside other programs that is what would be
    # measured
    os.environ.setdefault("RAY_worker_niceness", "0")

import argparse
import contextlib
import io
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import optuna
import ray
from optuna.distributions import BaseDistribution
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from benchmarks.noop import REPORTS, BareTrial, NoOpTrial
from skdtune import flags, space, tuning
from skdtune.capacity import Slots
from skdtune.interrupt import Interrupt
from skdtune.plan import Plan, add_references
from skdtune.provenance import versions
from skdtune.records import Study
from skdtune.settings import Resources
from skdtune.space import SearchSpace
from skdtune.uploader import Uploader
from skdtune.writer import Writer
from tests.skdtune.proxy import Server
from trainables import metrics
from trainables.classifier import ClassifierTrial
from trainables.storage import Folder

_AT_ONCE = 2
_WARM_TRIALS = 12
_PATIENCE_S = 120.0
_BARS = {"skdtune": 1.10, "mirrored": 1.25}
_LONG = 1000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parts = ["50", "200", "1000", "warm"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began = time.monotonic()
    ray.init(
        address="local",
        num_cpus=_AT_ONCE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 * 2**20,
    )
    lines = [
        "# Around the training steps",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.around {' '.join(arguments)}`, "
        f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}, "
        + ", ".join(f"{name} {version}" for name, version in versions().items()),
    ]
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(_server()) if {"50", "200"} & set(options.only) else ""
        for part in options.only:
            if part == "warm":
                lines += _warm()
            elif int(part) == _LONG:
                lines += _long()
            else:
                lines += _side_by_side(int(part), options.rounds, uri)
    lines += ["", f"{time.monotonic() - began:.0f} s in all."]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


def _side_by_side(trials: int, rounds: int, uri: str) -> list[str]:
    """A table of the variants. uri: of the MLflow server."""
    variants: dict[str, Callable[[], float]] = {
        "bare": lambda: bare(trials, quiet=False),
        "bare quiet": lambda: bare(trials, quiet=True),
        "skdtune": lambda: search(trials)[0],
        "mirrored": lambda: search(trials, uri)[0],
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds):
        names = list(variants)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            found[name].append(variants[name]())
            print(f"{trials} trials, {name}: {found[name][-1]:.2f} s", file=sys.stderr)
    lines = ["", f"## {trials} trials of {REPORTS} reports, {_AT_ONCE} at a time", ""]
    lines += ["| variant | n | median s (spread) | ratio to bare (spread) | bar |"]
    lines += ["|---|---|---|---|---|"]
    for name, seconds in found.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, found["bare"], strict=True)]
        lines.append(
            f"| {name} | {rounds} | {_spread(seconds)} | {_spread(ratios)} "
            f"| {_verdict(statistics.median(ratios), name)} |"
        )
    return lines


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _verdict(ratio: float, name: str) -> str:
    if name not in _BARS:
        return ""
    return f"{_BARS[name]:.2f}: {'met' if ratio <= _BARS[name] else 'missed'}"


def bare(trials: int, quiet: bool) -> float:
    """Seconds of Ray Tune on its own."""
    distributions: dict[str, BaseDistribution] = {
        path: parameter.distribution for path, parameter in _space(trials).parameters.items()
    }
    with tempfile.TemporaryDirectory() as folder, _environment(quiet):
        tuner = tune.Tuner(
            tune.with_resources(BareTrial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(distributions, metric="val/accuracy", mode="max"),
                num_samples=trials,
                max_concurrent_trials=_AT_ONCE,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="bare",
                storage_path=folder,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        began = time.perf_counter()
        done = tuner.fit()
        seconds = time.perf_counter() - began
    if len(done) != trials or done.errors:
        raise RuntimeError(f"bare Ray Tune ended {len(done)} of {trials} trials")
    return seconds


def search(
    trials: int,
    uri: str = "",
    trainable: type[ClassifierTrial] = NoOpTrial,
    at_once: int = _AT_ONCE,
    watch: Callable[[Study], None] = lambda study: None,
) -> tuple[float, Study]:
    """Seconds of all that a session does from its plan to its last record, and with a server's
    `uri` until that has everything; the study."""
    searched = _space(trials)
    with tempfile.TemporaryDirectory() as folder:
        study = Study("noop", "search", searched.document, "noop", folder=Folder(folder))
        study.save()
        watch(study)
        began = time.perf_counter()
        add_references(study, searched)
        resources, slots = Resources(cpu=1), Slots(Resources(cpu=1), [{"cpu": at_once, "gpu": 0}])
        plan, writer, interrupt = Plan(study, searched, resources), Writer(study), Interrupt()
        uploader = Uploader(study, uri, print) if uri else None
        quiet = Console(file=io.StringIO())
        tuning.run(plan, resources, slots, writer, interrupt, quiet, trainable)
        writer.close()
        if uploader and not uploader.close(_PATIENCE_S):
            raise RuntimeError("MLflow lacks some of it")
        seconds = time.perf_counter() - began
    ended = sum(len(record.epochs) == REPORTS for record in study.records.values())
    if ended != trials:
        raise RuntimeError(f"{ended} of {trials} trials ended: {interrupt.reason}")
    return seconds, study


def _long() -> list[str]:
    marks: dict[int, tuple[int, float]] = {}
    _, study = search(_LONG, watch=lambda study: _note(study, marks))
    ended = sorted(record.ended for record in study.records.values())
    first, last = (ended[199] - ended[99]) / 100, (ended[-1] - ended[-101]) / 100
    grown = marks[max(marks)][0] - marks[100][0]
    early, late = ((marks[b][1] - marks[a][1]) * 10 for a, b in ((100, 200), (_LONG - 100, _LONG)))
    pace, room = last / first <= 1.2, grown <= 100
    return [
        "",
        f"## {_LONG} trials of {REPORTS} reports, {_AT_ONCE} at a time",
        "",
        "| figure | value | bar |",
        "|---|---|---|",
        f"| s per trial, trials 101 to 200 | {first:.4f} | |",
        f"| s per trial, last hundred | {last:.4f} | |",
        f"| ratio | {last / first:.2f} | 1.20: {'met' if pace else 'missed'} |",
        f"| driver's CPU ms per trial, trials 101 to 200 | {early:.1f} | |",
        f"| driver's CPU ms per trial, last hundred | {late:.1f} | |",
        f"| driver's memory after 100 trials, MB | {marks[100][0]} | |",
        f"| growth until trial {max(marks)}, MB | {grown} | 100: {'met' if room else 'missed'} |",
        f"| s in all | {ended[-1] - min(r.started for r in study.records.values()):.1f} | |",
    ]


def _note(study: Study, marks: dict[int, tuple[int, float]]) -> None:
    """Has the driver's resident memory, in MB, and its CPU seconds written down by the number of
    trials so far, from a thread of its own while the study runs."""

    def watch() -> None:
        while len(study.records) < _LONG:
            mark = len(study.records) // 100 * 100
            if mark not in marks:
                marks[mark] = _resident_mb(), time.process_time()
            time.sleep(0.05)
        marks[_LONG] = _resident_mb(), time.process_time()

    threading.Thread(target=watch, daemon=True).start()


def _resident_mb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1000


def _warm() -> list[str]:
    _, study = search(_WARM_TRIALS, trainable=ClassifierTrial, at_once=1)
    ran = sorted(study.records.values(), key=lambda record: record.started)
    gaps = []
    for before, after in pairwise(ran):
        first = after.epochs[0]
        gaps.append(first[metrics.TIMESTAMP] - first[metrics.EPOCH_SECONDS] - before.ended)
    met = "met" if max(gaps) <= 1 else "missed"
    return [
        "",
        "## From a trial's end to the next one's first step, same worker, digits",
        "",
        "| n | median s | min s | max s | bar |",
        "|---|---|---|---|---|",
        f"| {len(gaps)} | {statistics.median(gaps):.3f} | {min(gaps):.3f} | {max(gaps):.3f} "
        f"| 1 s for the longest: {met} |",
    ]


def _space(trials: int) -> SearchSpace:
    """The quickstart's, of two epochs, with nothing stopped before the second and the baseline
    among the trials."""
    edits = [
        f"search.trials={trials - 1}",
        f"trial.epochs={REPORTS}",
        f"search.scheduler.grace_period={REPORTS}",
    ]
    changes, _ = flags.overrides(edits)
    return space.load(space.locate("quickstart"), lambda data: flags.apply(data, changes))


@contextmanager
def _environment(quiet: bool) -> Iterator[None]:
    """Tune as it comes, without the settings that skdtune makes; quiet: without result files."""
    names = [name for name in os.environ if name.startswith("TUNE_")]
    kept = {name: os.environ.pop(name) for name in names}
    if quiet:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _server() -> Iterator[str]:
    import mlflow  # noqa: F401 - once a search, while its first trials run; it is no trial's cost

    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            server.start()
            yield server.uri
        finally:
            server.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
