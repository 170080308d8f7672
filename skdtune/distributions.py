"""A searched leaf of a search space: its keys checked, then an Optuna distribution."""

import math
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from trainables.arguments import Problem, nearest, value_problems
from trainables.bounds import Positive

_KEYS = {
    "float": {"low", "high", "log", "step"},
    "int": {"low", "high", "log", "step"},
    "categorical": {"choices"},
}


def is_leaf(value: Any) -> bool:
    """Whether a value of a space is a searched leaf: a mapping with `type:`."""
    return isinstance(value, dict) and "type" in value


def build(place: str, leaf: dict) -> tuple[BaseDistribution | None, list[Problem]]:
    """The distribution of a leaf, or None and what is wrong. `when` is the space's to read."""
    kind = leaf["type"]
    if not isinstance(kind, str) or kind not in _KEYS:
        return None, [
            (f"{place}.type", f"{kind!r} is not one of {', '.join(_KEYS)}{nearest(kind, _KEYS)}")
        ]
    allowed = _KEYS[kind] | {"type", "when"}
    problems = [
        (
            f"{place}.{key}",
            f"no such key of a {kind} ({', '.join(sorted(allowed))}){nearest(key, allowed)}",
        )
        for key in leaf
        if key not in allowed
    ]
    problems += (
        _choice_problems(place, leaf)
        if kind == "categorical"
        else _range_problems(place, leaf, kind)
    )
    if problems:
        return None, problems
    if kind == "categorical":
        return CategoricalDistribution(leaf["choices"]), []
    log = leaf.get("log", False)
    if kind == "int":
        return IntDistribution(leaf["low"], leaf["high"], log=log, step=leaf.get("step", 1)), []
    return FloatDistribution(leaf["low"], leaf["high"], log=log, step=leaf.get("step")), []


def extremes(distribution: BaseDistribution) -> list[Any]:
    """The values that, when they are all valid, make every value of the distribution valid."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value, as a file gives it, lies in the distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return any(
            value == choice and type(value) is type(choice) for choice in distribution.choices
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(distribution, IntDistribution) and not isinstance(value, int):
        return False
    low, step = distribution.low, distribution.step
    on_grid = step is None or distribution.log or _is_on_grid(step, low, value)
    return low <= value <= distribution.high and on_grid


def middle(distribution: BaseDistribution) -> Any:
    """The centre of the range, geometric on a log scale; the first choice of a categorical."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    low, high = distribution.low, distribution.high
    centre = low**0.5 * high**0.5 if distribution.log else low / 2 + high / 2
    if distribution.step:
        centre = low + round((centre - low) / distribution.step) * distribution.step
    return round(centre) if isinstance(distribution, IntDistribution) else centre


def describe(distribution: BaseDistribution) -> str:
    """For a person: `0.02 to 2 (log)`, `drg | dsr`."""
    if isinstance(distribution, CategoricalDistribution):
        return " | ".join(map(str, distribution.choices))
    scale = " (log)" if distribution.log else ""
    step = f" by {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low:g} to {distribution.high:g}{scale}{step}"


def _range_problems(place: str, leaf: dict, kind: str) -> list[Problem]:
    number = int if kind == "int" else float
    problems = [(f"{place}.{key}", "is missing") for key in ("low", "high") if key not in leaf]
    for key in ("low", "high", "step"):
        if key in leaf and not (key == "step" and leaf[key] is None):
            problems += value_problems(f"{place}.{key}", leaf[key], number)
    problems += value_problems(f"{place}.log", leaf.get("log", False), bool)
    if problems:
        return problems
    low, high, step, log = leaf["low"], leaf["high"], leaf.get("step"), leaf.get("log", False)
    if low >= high:
        problems.append((place, f"low ({low:g}) must be below high ({high:g})"))
    if log and low <= 0:
        problems.append((f"{place}.low", f"{low:g}: a log scale needs a low above 0"))
    if step is not None:
        problems += value_problems(f"{place}.step", step, Positive)
        if log and not (kind == "int" and step == 1):
            problems.append((f"{place}.step", "a log scale has no step"))
        elif step > 0 and low < high and not _divides(step, low, high):
            problems.append(
                (f"{place}.step", f"{step:g} does not divide the range {low:g} to {high:g}")
            )
    return problems


def _divides(step: float, low: float, high: float) -> bool:
    """As Optuna computes it, which else would quietly lower `high`."""
    first, last, width = (Decimal(str(number)) for number in (low, high, step))
    try:
        return (last - first) % width == 0
    except InvalidOperation:  # more steps than a decimal has digits
        return False


def _is_on_grid(step: float, low: float, value: float) -> bool:
    """Within what Optuna allows, whose own values are sums of floats."""
    try:
        steps = (value - low) / step
        return abs(steps - round(steps)) < 1e-8
    except (OverflowError, ValueError):  # no number, or more steps than a float can count
        return False


def _choice_problems(place: str, leaf: dict) -> list[Problem]:
    place = f"{place}.choices"
    choices = leaf.get("choices")
    if not isinstance(choices, list) or not choices:
        return [(place, "is missing or empty: a list of values")]
    problems = [
        (f"{place}[{index}]", f"{choice!r}: a choice is text, a number, true, false or null")
        for index, choice in enumerate(choices)
        if isinstance(choice, dict | list)
        or (isinstance(choice, float) and not math.isfinite(choice))
    ]
    plain = Counter((type(c), c) for c in choices if not isinstance(c, dict | list))
    twice = sorted(str(choice) for (_, choice), count in plain.items() if count > 1)
    return problems + [(place, f"{choice} is given twice") for choice in twice]
