"""How a search runs, as signatures: the keys of a space's `search` and `resources` and their
defaults."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from trainables.arguments import Problem, argument_problems
from trainables.bounds import Bounds, Count, CountOrZero, Fraction, Positive

Metric = Literal["val/accuracy", "val/top5", "val/loss", "val/ece"]
LOWER_IS_BETTER = ("val/loss", "val/ece", "test/loss", "test/ece")


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """name: `tpe` (Optuna's multivariate, grouped TPE), `gp` (its Gaussian process, of the
    parameters that every trial has) or `random`. startup_trials: random ones before anything is
    modelled; Optuna's own default is 10."""

    name: Literal["tpe", "gp", "random"] = "tpe"
    seed: Annotated[int, Bounds(at_least=0, below=2**32)] = 0  # what numpy takes
    startup_trials: CountOrZero = 10


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """name: `asha` (asynchronous successive halving, arXiv:1810.05934, on the epoch) or `none`.
    grace_period: epochs before the first trial may be stopped. reduction_factor: one in so many
    goes on."""

    name: Literal["asha", "none"] = "asha"
    grace_period: Count = 1
    reduction_factor: Annotated[float, Bounds(above=1)] = 3


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """study: an earlier search, by its name, folder or URI. trials: how many of its best settings
    are tried behind the first trials."""

    study: str
    trials: Count = 3


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """trials: how many of the best are trained again when all trials have ended, and with them what
    they must beat. seeds: with how many other seeds each; the best mean over all its seeds wins."""

    trials: Count = 3
    seeds: Count = 2


@dataclass(frozen=True, kw_only=True)
class Search:
    """trials: how many settings are tried, the first trials and those of `warm_start` among them;
    the baseline and the repeats of `finalists` run beside them. max_failed_fraction: of the trials
    that have ended, five or more; when more have failed than that the search stops."""

    metric: Metric = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    trials: Count = 16
    max_failed_fraction: Fraction = 0.5
    sampler: Sampler = field(default_factory=Sampler)
    scheduler: Scheduler = field(default_factory=Scheduler)
    first_trials: list = field(default_factory=list)
    warm_start: WarmStart | None = None
    finalists: Finalists | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes. gpu: a fraction shares one; a machine of its own without a GPU uses
    its CPU."""

    cpu: Positive = 1
    gpu: Fraction = 0


_NESTED = {
    "sampler": Sampler,
    "scheduler": Scheduler,
    "warm_start": WarmStart,
    "finalists": Finalists,
}


def search(data: Any) -> tuple[Search, list[Problem]]:
    """The search settings of a space and what is wrong; each that is wrong has its default, so
    that the others are looked at too."""
    if not isinstance(data, dict):
        return Search(), [("search", "must be a section of settings")]
    data, nested, problems = dict(data), {}, []
    for key in ("warm_start", "finalists"):
        if data.get(key) is None:
            data.pop(key, None)
    for key, kind in _NESTED.items():
        if key in data:
            nested[key], found = section(f"search.{key}", kind, data.pop(key))
            problems += found
    first = data.pop("first_trials", [])
    if not isinstance(first, list) or not all(isinstance(entry, dict) for entry in first):
        what = "must be a list of mappings from a parameter to its value"
        problems.append(("search.first_trials", what))
        first = []
    if "mode" not in data and data.get("metric") in LOWER_IS_BETTER:
        data["mode"] = "min"
    _, found = section("search", Search, data)
    wrong = {path.removeprefix("search.") for path, _ in found}
    right = {key: value for key, value in data.items() if key not in wrong}
    right |= {key: value for key, value in nested.items() if value is not None}
    search = Search(**right, first_trials=first)
    better = "min" if search.metric in LOWER_IS_BETTER else "max"
    if not wrong & {"metric", "mode"} and search.mode != better:
        what = f"{search.mode!r}: of {search.metric} the {better} is the best"
        found.append(("search.mode", what))
    return search, problems + found


def section(place: str, kind: type, data: Any) -> tuple[Any, list[Problem]]:
    """The settings object of a section, or None and what is wrong."""
    if not isinstance(data, dict):
        return None, [(place, "must be a section of settings")]
    found = argument_problems(place, data, kind.__init__, f"{place} has no such setting")
    return (None, found) if found else (kind(**data), [])
