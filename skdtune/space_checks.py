"""What is wrong with a search space beyond its single values: how its parts fit together."""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from skdtune import distributions
from trainables import sections
from trainables.arguments import Problem, nearest

if TYPE_CHECKING:
    from skdtune.space import Parameter, SearchSpace

_MOST_PROBES = 256


def problems(space: "SearchSpace", already: list[Problem]) -> list[Problem]:
    """Everything that is wrong with a space whose leaves in `already` were found wrong before."""
    found = _parent_problems(space)
    found += _probe_problems(space)
    bad = {place for place, _ in already}
    found += _settled_problems(space)
    if "search.trials" not in bad:  # else it is a default that nobody has asked for
        found += _number_problems(space)
    found = [
        (place, what) for place, what in found if not any(_holds(place, other) for other in bad)
    ]
    return found + _first_trial_problems(space, sound=not (found or already))


def number_problems(place: str, value: Any) -> list[Problem]:
    """What is no finite number in a value that nothing else looks at, and no record can hold."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        wrong = isinstance(value, float) and not math.isfinite(value)
        return [(place, f"{value!r} is no finite number")] if wrong else []
    return [found for key, part in parts for found in number_problems(f"{place}.{key}", part)]


def when_problems(place: str, when: Any) -> list[Problem]:
    """What is wrong with the form of a leaf's `when`."""
    if not isinstance(when, dict):
        return [
            (
                f"{place}.when",
                "must be a mapping from a parameter (section/key) to a list of its values",
            )
        ]
    return [
        (f"{place}.when.{parent}", "must be a list of values")
        for parent, values in when.items()
        if not isinstance(values, list) or not values
    ]


def parents_first(parameters: "dict[str, Parameter]") -> "dict[str, Parameter]":
    """In an order in which one pass decides what is switched on; those that wait for each other
    go last."""
    ordered: dict[str, Parameter] = {}
    waiting = dict(parameters)
    while ready := [path for path, p in waiting.items() if not set(p.when) & set(waiting)]:
        ordered |= {path: waiting.pop(path) for path in ready}
    return ordered | waiting


def _parent_problems(space: "SearchSpace") -> list[Problem]:
    found: list[Problem] = []
    seen: set[str] = set()
    for path, parameter in space.parameters.items():
        place = f"trial.{path.replace('/', '.')}.when"
        for parent, values in parameter.when.items():
            section, _, key = parent.partition("/")
            inside = space.fixed.get(section)
            if parent in space.parameters:
                kind = space.parameters[parent].distribution
                never = [value for value in values if not distributions.holds(kind, value)]
                range_ = distributions.describe(kind)
                found += [(place, f"{parent} never is {value!r} ({range_})") for value in never]
                if parent not in seen:
                    found.append((place, f"{path} and {parent} wait for each other"))
            elif not (isinstance(inside, dict) and key in inside):
                guess = nearest(parent, space.parameters)
                found.append((place, f"{parent} is not a parameter of this space{guess}"))
        seen.add(path)
    return found


def _probe_problems(space: "SearchSpace") -> list[Problem]:
    """Builds configs at the extremes of every parameter, for each value of those that switch
    others on."""
    found: dict[Problem, None] = {}
    for values in itertools.islice(_probes(space), _MOST_PROBES):
        found |= {
            (f"trial.{place}", what): None
            for place, what in sections.problems(space.config(values))
        }
    return list(found)


def _probes(space: "SearchSpace") -> Iterator[dict[str, Any]]:
    parents = {parent for p in space.parameters.values() for parent in p.when}
    switches = [
        p for p in space.parameters.values() if p.path in parents or p.path.endswith("/name")
    ]
    switches = [p for p in switches if isinstance(p.distribution, CategoricalDistribution)]
    rounds = max(
        (len(distributions.extremes(p.distribution)) for p in space.parameters.values()), default=1
    )
    for chosen in itertools.product(*(p.distribution.choices for p in switches)):
        switched = dict(zip((p.path for p in switches), chosen, strict=True))
        for turn in range(rounds):

            def value(parameter: "Parameter", switched: dict = switched, turn: int = turn) -> Any:
                ends = distributions.extremes(parameter.distribution)
                return switched.get(parameter.path, ends[turn % len(ends)])

            yield space.suggest(value)


def _settled_problems(space: "SearchSpace") -> list[Problem]:
    """What spans sections."""
    found: list[Problem] = []
    search, epochs = space.search, space.fixed.get("epochs")
    grace = search.scheduler.grace_period
    if search.scheduler.name == "asha" and isinstance(epochs, int) and grace > epochs:
        place = "search.scheduler.grace_period"
        found.append((place, f"{grace} is more than trial.epochs ({epochs})"))
    if not space.parameters and search.trials > 1:
        found.append(
            ("search.trials", f"{search.trials}: nothing is searched, so there is one trial")
        )
    for kind, asked in (("cpu", space.resources.cpu), ("gpu", space.resources.gpu)):
        if asked != round(asked, 4):
            found.append((f"resources.{kind}", f"{asked}: Ray divides no finer than 0.0001"))
    return found


def _number_problems(space: "SearchSpace") -> list[Problem]:
    """What there are more of than trials."""
    found: list[Problem] = []
    search = space.search
    warm, first = search.warm_start, max(1, len(search.first_trials))
    if warm and first + warm.trials > search.trials:
        beside = f"beside {first} first trial{'s' if first > 1 else ''}"
        found.append(
            (
                "search.warm_start.trials",
                f"{warm.trials}: {beside} that is more than search.trials ({search.trials})",
            )
        )
    if len(search.first_trials) > search.trials:
        count = len(search.first_trials)
        found.append(
            ("search.first_trials", f"{count} entries, but search.trials is {search.trials}")
        )
    return found


def _first_trial_problems(space: "SearchSpace", sound: bool) -> list[Problem]:
    """sound: the rest of the space is, so that a first trial can be completed and looked at."""
    found: list[Problem] = []
    for index, entry in enumerate(space.search.first_trials):
        place = f"search.first_trials[{index}]"
        wrong = []
        for path, value in entry.items():
            if path in space.parameters:
                kind = space.parameters[path].distribution
                if not distributions.holds(kind, value):
                    wrong.append(
                        (place, f"{path}: {value!r} is not in {distributions.describe(kind)}")
                    )
            elif sound:
                listed = ", ".join(space.parameters) or "none"
                guess = nearest(path, space.parameters)
                wrong.append((place, f"{path} is not searched (searched: {listed}){guess}"))
        if sound and not wrong:
            values = space.first_values(entry)
            off = [path for path in entry if path not in values]
            wrong = [(place, f"{path} is switched off by its `when` here") for path in off]
        found += wrong
    return found


def _holds(place: str, other: str) -> bool:
    """Whether a problem at `other` explains one at `place`: it is there or further in."""
    return other == place or other.startswith((f"{place}.", f"{place}["))
