"""Records learning curves of a search space once, so that searches can be replayed from them.

    python -m benchmarks.curves SPACE --output FILE [--settings 160] [--seed 0]
                                [--set PATH=VALUE ...] [--minutes 15]

Draws settings at random from the space as Optuna's random sampler draws them, trains each to the
full budget with the trainables as they are, one thread, and writes a CSV: one row a setting, its
searched values, the validation accuracy of every epoch, the validation loss of every epoch. All
trials share the space's seed, as those of a search do. It stops when so many minutes of one core
are used up, and goes on where it stopped when the file is there.
The tables in benchmarks/data/ name the commands that made them: digits on small_cnn, and 20 classes
of CIFAR-100 with 100 images each on resnet20.
"""

import argparse
import csv
import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import CategoricalDistribution

from skdtune import flags, space
from skdtune.errors import ConfigError
from skdtune.space import Parameter, SearchSpace
from trainables.training import Diverged, Training

_SCORES = ("val/accuracy", "val/loss")


@dataclass(frozen=True)
class Curve:
    """A recorded setting. scores: by metric, a value an epoch; short when it diverged."""

    params: dict[str, Any]
    scores: dict[str, list[float]]


class Table:
    """Recorded curves, and which one stands for a setting that was not recorded.

    The rule: of the curves with the same categorical values, and so with the same parameters
    switched on, the one nearest in Euclidean distance, each parameter scaled to [0, 1] over its
    range, logarithms where the space has them. The curve is taken as it is, unsmoothed."""

    def __init__(self, curves: list[Curve], space: SearchSpace):
        self.curves, self.space = curves, space

    def nearest(self, params: dict[str, Any]) -> Curve:
        """Errors: LookupError when no curve has these categorical values."""
        mine = self._categories(params)
        alike = [curve for curve in self.curves if self._categories(curve.params) == mine]
        if not alike:
            raise LookupError(f"no curve was recorded for {mine}")
        return min(alike, key=lambda curve: self._distance(params, curve.params))

    def _categories(self, params: dict[str, Any]) -> dict[str, Any]:
        known = self.space.parameters
        return {
            path: value
            for path, value in params.items()
            if isinstance(known[path].distribution, CategoricalDistribution)
        }

    def _distance(self, one: dict[str, Any], other: dict[str, Any]) -> float:
        return sum(
            (_scaled(self.space.parameters[path], one[path]) - _scaled(parameter, other[path])) ** 2
            for path, parameter in self.space.parameters.items()
            if path in one and not isinstance(parameter.distribution, CategoricalDistribution)
        )


def read(path: Path) -> Table:
    """The table in a file. Its first lines name the command and the space."""
    lines = path.read_text().splitlines()
    notes = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    loaded = load_space(notes["space"], shlex.split(notes["edits"]))
    curves = []
    for row in rows:
        params = {
            path: _typed(parameter, row[path])
            for path, parameter in loaded.parameters.items()
            if row[path]
        }
        scores = {
            metric: [float(value) for key, value in row.items() if _is_of(metric, key) and value]
            for metric in _SCORES
        }
        curves.append(Curve(params, scores))
    return Table(curves, loaded)


def load_space(name: str, edits: list[str]) -> SearchSpace:
    changes, problems = flags.overrides(edits)
    if problems:
        raise ConfigError("--set", problems)
    return space.load(space.locate(name), lambda document: flags.apply(document, changes))


def draw(space: SearchSpace, count: int, seed: int) -> list[dict[str, Any]]:
    """Random settings, each with the parameters that are switched on in it."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    every = {path: parameter.distribution for path, parameter in space.parameters.items()}
    drawn = (study.ask(every).params for _ in range(count))
    return [space.suggest(lambda parameter, of=values: of[parameter.path]) for values in drawn]


def record(space: SearchSpace, params: dict[str, Any]) -> Curve:
    """Trains one setting; its curve ends where it diverges."""
    scores: dict[str, list[float]] = {metric: [] for metric in _SCORES}
    try:
        for report in Training(**space.config(params)).epochs():
            for metric, values in scores.items():
                values.append(report[metric])
    except Diverged:
        pass
    return Curve(params, scores)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("space")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--minutes", type=float, default=15)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    searched = load_space(options.space, options.set)
    epochs = searched.fixed["epochs"]
    columns = [f"{metric}/{epoch}" for metric in _SCORES for epoch in range(1, epochs + 1)]
    done = len(read(options.output).curves) if options.output.exists() else 0
    with options.output.open("a", newline="") as file:
        edits = " ".join(f"--set {shlex.quote(edit)}" for edit in options.set)
        header = (
            f"# command: python -m benchmarks.curves {options.space} --settings {options.settings} "
            f"--seed {options.seed} {edits} --output FILE\n"
            f"# space: {options.space}\n# edits: {shlex.join(options.set)}\n"
            f"# made: {time.strftime('%Y-%m-%d')}, torch {torch.__version__}\n"
        )
        table = csv.DictWriter(file, [*searched.parameters, *columns])
        if not done:
            file.write(header)
            table.writeheader()
        for params in draw(searched, options.settings, options.seed)[done:]:
            if time.process_time() > 60 * options.minutes:
                break
            curve = record(searched, params)
            row = {
                path: f"{value:.6g}" if isinstance(value, float) else value
                for path, value in curve.params.items()
            }
            for metric, values in curve.scores.items():
                row |= {f"{metric}/{i}": f"{value:.4f}" for i, value in enumerate(values, 1)}
            table.writerow(row)
            file.flush()


def _is_of(metric: str, column: str) -> bool:
    return column.rpartition("/")[0] == metric


def _typed(parameter: Parameter, text: str) -> Any:
    if isinstance(parameter.distribution, CategoricalDistribution):
        return next(c for c in parameter.distribution.choices if str(c) == text)
    return float(text)


def _scaled(parameter: Parameter, value: float) -> float:
    """Its place in its range, from 0 to 1."""
    kind = parameter.distribution
    low, high = kind.low, kind.high
    if kind.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


if __name__ == "__main__":
    main()
