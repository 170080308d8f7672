"""How many epochs a search needs: samplers and schedulers on recorded learning curves.

    python -m benchmarks.searching [--seeds 10] [--at-once 4] [--trials 64] [--table FILE]
                                   [--only "SAMPLER; SCHEDULER" ...] [--output FILE]
                                   [--plot FILE.svg]
    python -m benchmarks.searching --check

The rival is random search at the full budget: --trials settings, each to its last epoch, and
nothing beside them. Every other strategy spends the same number of epochs, the authors' setting and
the baseline, which skdtune runs first, included. The target is the median over the seeds of the
rival's best last-epoch accuracy; the figure is the epochs that all trials of a search spent until
one of them, at its last epoch, reached it. Which recorded curve stands for a setting:
benchmarks/curves.py.
--check plays one search both ways, in this process and through Ray Tune, and compares all trials.
"""

if __name__ == "__main__":  # before Ray is imported
    from skdtune import environment

    environment.prepare()

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optuna
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from benchmarks import curves, replay
from benchmarks.curves import Table
from benchmarks.replay import Played
from skdtune import cluster, scheduler, space
from skdtune.provenance import versions
from skdtune.scheduler import StudyAsha
from skdtune.space import SearchSpace
from trainables import metrics

_BAR = 1 / 3
_NO_END = 10**6  # trials: the epochs end a search


class Median(MedianStoppingRule):
    """Tune's median stopping rule with what skdtune never stops or compares left out."""

    def on_trial_result(self, controller: object, trial: object, result: dict) -> str:
        if trial.config["run"]["beside"]:
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(controller, trial, result)
        return decision if trial.config["run"]["role"] == "search" else TrialScheduler.CONTINUE

    def on_trial_complete(self, controller: object, trial: object, result: dict) -> None:
        if not trial.config["run"]["beside"]:
            super().on_trial_complete(controller, trial, result)

    def _on_insufficient_samples(self, controller: object, trial: object, time: float) -> str:
        return TrialScheduler.CONTINUE  # it would pause a trial while another waits to start


class PerVariant(FIFOScheduler):
    """ASHA with rungs of their own for each value of method/variant."""

    def __init__(self, build: Callable[[], StudyAsha]):
        super().__init__()
        self.build, self.schedulers = build, {}

    def on_trial_add(self, controller: object, trial: object) -> None:
        self._of(trial).on_trial_add(controller, trial)

    def on_trial_result(self, controller: object, trial: object, result: dict) -> str:
        return self._of(trial).on_trial_result(controller, trial, result)

    def on_trial_complete(self, controller: object, trial: object, result: dict) -> None:
        self._of(trial).on_trial_complete(controller, trial, result)

    def _of(self, trial: object) -> StudyAsha:
        variant = trial.config["trial"]["method"].get("variant")
        if variant not in self.schedulers:
            self.schedulers[variant] = self.build()
        return self.schedulers[variant]


def _asha(searched: SearchSpace, grace: int, factor: float = 3, brackets: int = 1) -> StudyAsha:
    return StudyAsha(
        time_attr=metrics.EPOCH,
        metric=searched.search.metric,
        mode=searched.search.mode,
        max_t=searched.fixed["epochs"],
        grace_period=grace,
        reduction_factor=factor,
        brackets=brackets,
    )


def _median(searched: SearchSpace, grace: int) -> Median:
    return Median(
        time_attr=metrics.EPOCH,
        metric=searched.search.metric,
        mode=searched.search.mode,
        grace_period=grace,
    )


SCHEDULERS: dict[str, Callable[[SearchSpace], TrialScheduler]] = {
    "none": lambda searched: FIFOScheduler(),
    "asha as shipped (9, 3)": lambda searched: scheduler.build(searched, []),
    "asha (9, 2)": lambda searched: _asha(searched, 9, 2),
    "asha (9, 4)": lambda searched: _asha(searched, 9, 4),
    "asha (12, 3)": lambda searched: _asha(searched, 12),
    "asha (6, 3)": lambda searched: _asha(searched, 6),
    "asha (3, 3)": lambda searched: _asha(searched, 3),
    "asha (1, 3)": lambda searched: _asha(searched, 1),
    "asha (9, 3) per variant": lambda searched: PerVariant(lambda: _asha(searched, 9)),
    "asha (3, 3) per variant": lambda searched: PerVariant(lambda: _asha(searched, 3)),
    "hyperband (1, 3, brackets 3)": lambda searched: _asha(searched, 1, 3, 3),
    "median (9)": lambda searched: _median(searched, 9),
    "median (3)": lambda searched: _median(searched, 3),
}
SAMPLERS: dict[str, dict] = {
    "random": {"name": "random"},
    "tpe, startup 6": {"name": "tpe", "startup_trials": 6},
    "tpe, startup 10": {"name": "tpe", "startup_trials": 10},
    "tpe, startup 20": {"name": "tpe", "startup_trials": 20},
    "gp, startup 6": {"name": "gp", "startup_trials": 6},
    "gp, startup 10": {"name": "gp", "startup_trials": 10},
}
_RIVAL = "random search, full budget"
_DEFAULT = "tpe, startup 10; asha as shipped (9, 3)"
_PLOTTED = (
    _RIVAL,
    "tpe, startup 6; none",
    "random; asha as shipped (9, 3)",
    "tpe, startup 6; asha as shipped (9, 3)",
    "tpe, startup 6; asha (3, 3)",
    "tpe, startup 6; median (9)",
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--table", type=Path, default=replay.TABLE)
    parser.add_argument("--only", nargs="+", default=list(_strategies()))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    table = curves.read(options.table)
    if options.check:
        print(_check(table))
        return
    began = time.monotonic()
    budget = options.trials * table.space.fixed["epochs"]
    found = {_RIVAL: _searches(options, table, budget, {"name": "random"}, "none", rival=True)}
    for name in options.only:
        sampler, scheduled = name.split("; ")
        found[name] = _searches(options, table, budget, SAMPLERS[sampler], scheduled)
    text = _report(options, arguments, table, budget, found)
    print(f"{text}\n{time.monotonic() - began:.0f} s in all.")
    if options.output:
        options.output.write_text(text)
    if options.plot:
        _plot(
            options.plot, table, budget, {name: found[name] for name in _PLOTTED if name in found}
        )


def _strategies() -> Iterator[str]:
    for sampler in SAMPLERS:
        for name in SCHEDULERS:
            is_variation = sampler.endswith((" 10", " 20"))
            if not is_variation or name.startswith(("none", "asha as")):
                yield f"{sampler}; {name}"


def _searches(
    options: argparse.Namespace,
    table: Table,
    budget: int,
    sampler: dict,
    name: str,
    rival: bool = False,
) -> list[Played]:
    """The same search with every seed."""
    played = []
    for seed in range(options.seeds):
        searched = _with(table.space, trials=_NO_END, sampler={**sampler, "seed": seed})
        one, _ = replay.play(
            table, searched, SCHEDULERS[name](searched), budget, options.at_once, not rival
        )
        played.append(one)
    return played


def _with(searched: SearchSpace, **search: object) -> SearchSpace:
    """The space with other settings of its `search` section."""
    document = {**searched.document, "search": {**searched.document["search"], **search}}
    return space.build(space.Document(document), searched.name, "table")


def _report(
    options: argparse.Namespace,
    arguments: list[str],
    table: Table,
    budget: int,
    found: dict[str, list[Played]],
) -> str:
    finals = sorted(curve.scores["val/accuracy"][-1] for curve in table.curves)
    target = statistics.median_low(played.score_at(budget) for played in found[_RIVAL])
    as_good = sum(score >= target for score in finals)
    rival = statistics.median(played.reached(target) for played in found[_RIVAL])
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Epochs that a search needs",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python -m benchmarks.searching {shlex.join(arguments)}`, "
        f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}, {known}.",
        "",
        f"{len(table.curves)} recorded settings of `{table.space.name}`, last-epoch validation "
        f"accuracy {finals[0]:.4f} to {finals[-1]:.4f}, median {statistics.median(finals):.4f}. "
        f"{options.seeds} seeds, {options.at_once} trials at once, {budget} epochs a search. "
        f"Target: {target:.4f}, which {as_good} of the recorded settings reach.",
        "",
        "| sampler; scheduler | epochs to the target: median (quartiles) | reached | ratio to the "
        "rival | trials (of them to the end) | best at a third of the epochs | at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, played in found.items():
        spent = [one.reached(target) for one in played]
        middle = statistics.median(spent)
        low, high = np.quantile(spent, [0.25, 0.75], method="inverted_cdf")
        trials, ended = (statistics.median(getattr(p, n) for p in played) for n in _COUNTS)
        early, late = (
            statistics.median(p.score_at(e) for p in played) for e in (budget // 3, budget)
        )
        lines.append(
            f"| {name} | {_epochs(middle)} ({_epochs(low)} to {_epochs(high)}) "
            f"| {sum(np.isfinite(spent))}/{len(spent)} | {_ratio(middle / rival, name)} "
            f"| {trials:.0f} ({ended:.0f}) | {early:.4f} | {late:.4f} |"
        )
    return "\n".join(lines) + "\n"


_COUNTS = ("trials", "finished")


def _epochs(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else "not reached"


def _ratio(value: float, name: str) -> str:
    shown = f"{value:.2f}" if np.isfinite(value) else "-"
    if name != _DEFAULT:
        return shown
    return f"{shown} (bar {_BAR:.2f}: {'met' if value <= _BAR else 'missed'})"


def _plot(path: Path, table: Table, budget: int, found: dict[str, list[Played]]) -> None:
    """Median regret against the best recorded setting."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("matplotlib is not installed: no plot", file=sys.stderr)
        return
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "searching"  # the same curves make the same file
    from matplotlib import pyplot

    best = max(curve.scores["val/accuracy"][-1] for curve in table.curves)
    at = range(0, budget + 1, 9)
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, played in found.items():
        regret = [best - statistics.median(one.score_at(epochs) for one in played) for epochs in at]
        axes.step(at, regret, where="post", label=name)
    axes.set(xlabel="epochs of all trials", ylabel="regret: best recorded minus median best found")
    axes.set_ylim(
        0, 1.1 * (best - statistics.median(p.score_at(budget // 10) for p in found[_RIVAL]))
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _check(table: Table) -> str:
    import ray

    searched = _with(table.space, trials=24)
    _, played = replay.play(table, searched, scheduler.build(searched, []), 10**6, 1)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        real = replay.through_ray(searched)
    finally:
        cluster.disconnect()
    mine, theirs = (
        [(r.key, r.params, r.epoch, r.status) for r in study.records.values()]
        for study in (played, real)
    )
    if mine != theirs:
        both = zip(mine, theirs, strict=False)
        raise SystemExit(f"they differ: {next(pair for pair in both if pair[0] != pair[1])}")
    stopped = sum(status == "stopped" for *_, status in mine)
    return f"{len(mine)} trials, {stopped} of them stopped: the same both ways"


if __name__ == "__main__":
    main(sys.argv[1:])
