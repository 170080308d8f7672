"""Searched leaves: the distribution that each form makes, what it holds, and what is refused."""

import math
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from skdtune import distributions

FLOAT = {"type": "float", "low": 0.5, "high": 2.0}
INT = {"type": "int", "low": 1, "high": 9}


def made(**leaf: Any) -> optuna.distributions.BaseDistribution:
    distribution, problems = distributions.build("here", leaf)
    assert problems == []
    return distribution


def refused(leaf: dict) -> list[tuple[str, str]]:
    distribution, problems = distributions.build("here", leaf)
    assert distribution is None
    assert problems
    return problems


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (FLOAT, FloatDistribution(0.5, 2.0)),
        (FLOAT | {"log": True}, FloatDistribution(0.5, 2.0, log=True)),
        (FLOAT | {"step": 0.5}, FloatDistribution(0.5, 2.0, step=0.5)),
        (FLOAT | {"low": 0, "high": 1, "step": 0.1}, FloatDistribution(0, 1, step=0.1)),
        (FLOAT | {"step": None, "log": False, "when": {}}, FloatDistribution(0.5, 2.0)),
        (INT, IntDistribution(1, 9)),
        (INT | {"log": True}, IntDistribution(1, 9, log=True)),
        (INT | {"log": True, "step": 1}, IntDistribution(1, 9, log=True)),
        (INT | {"step": 4}, IntDistribution(1, 9, step=4)),
        ({"type": "categorical", "choices": ["a", 1, 1.5]}, CategoricalDistribution(["a", 1, 1.5])),
        (
            {"type": "categorical", "choices": [True, None]},
            CategoricalDistribution([True, None]),
        ),
    ],
)
def test_a_leaf_is_the_distribution_it_describes(leaf: dict, expected: object) -> None:
    assert made(**leaf) == expected


@pytest.mark.parametrize(
    ("leaf", "place", "what"),
    [
        ({"type": "loguniform"}, "here.type", "'loguniform' is not one of float, int, categorical"),
        ({"type": {}}, "here.type", "{} is not one of"),
        (FLOAT | {"hihg": 3}, "here.hihg", "did you mean high?"),
        (FLOAT | {"choices": [1]}, "here.choices", "no such key of a float"),
        ({"type": "categorical", "choices": [1], "log": True}, "here.log", "no such key"),
        ({"type": "float", "high": 1}, "here.low", "is missing"),
        (FLOAT | {"low": "0.1"}, "here.low", "'0.1' is not a number"),
        (FLOAT | {"low": True}, "here.low", "True is not a number"),
        (FLOAT | {"low": None}, "here.low", "None is not a number"),
        (FLOAT | {"low": math.nan}, "here.low", "nan is not a number"),
        (FLOAT | {"high": math.inf}, "here.high", "inf is not a number"),
        (FLOAT | {"low": 2.0}, "here", "low (2) must be below high (2)"),
        (FLOAT | {"low": 3.0}, "here", "low (3) must be below high (2)"),
        (FLOAT | {"low": 0, "log": True}, "here.low", "0: a log scale needs a low above 0"),
        (FLOAT | {"low": -1, "log": True}, "here.low", "-1: a log scale needs a low above 0"),
        (FLOAT | {"log": "true"}, "here.log", "'true' is not true or false"),
        (FLOAT | {"log": True, "step": 0.5}, "here.step", "a log scale has no step"),
        (FLOAT | {"step": 0.4}, "here.step", "0.4 does not divide the range 0.5 to 2"),
        (FLOAT | {"step": 5}, "here.step", "5 does not divide"),
        (FLOAT | {"step": 5e-324}, "here.step", "does not divide"),
        (FLOAT | {"step": 0}, "here.step", "0 is not above 0"),
        (FLOAT | {"low": -1.7e308, "high": 1.7e308, "step": 1.0}, "here.step", "does not divide"),
        (INT | {"low": 1.0}, "here.low", "1.0 is not a whole number"),
        (INT | {"step": 0.5}, "here.step", "0.5 is not a whole number"),
        (INT | {"log": True, "step": 2}, "here.step", "a log scale has no step"),
        ({"type": "categorical"}, "here.choices", "is missing or empty"),
        ({"type": "categorical", "choices": "ab"}, "here.choices", "is missing or empty"),
        ({"type": "categorical", "choices": [1, 1]}, "here.choices", "1 is given twice"),
        ({"type": "categorical", "choices": [1, [2]]}, "here.choices[1]", "[2]: a choice is text"),
        ({"type": "categorical", "choices": [math.inf]}, "here.choices[0]", "inf: a choice"),
    ],
)
def test_what_a_leaf_cannot_be_is_said(leaf: dict, place: str, what: str) -> None:
    found = refused(leaf)
    assert [where for where, said in found if what in said] == [place], found


def test_every_problem_of_a_leaf_is_named_at_once() -> None:
    places = [where for where, _ in refused({"type": "float", "lo": 1, "high": "x", "log": 2})]
    assert places == ["here.lo", "here.low", "here.high", "here.log"]


def test_choices_that_only_look_alike_are_different() -> None:
    kind = made(type="categorical", choices=["1", 1, True])
    assert [distributions.holds(kind, value) for value in ("1", 1, True)] == [True] * 3
    kind = made(type="categorical", choices=[1])
    assert not [value for value in ("1", 1.0, True, None, [1]) if distributions.holds(kind, value)]


def test_thousands_of_choices_are_checked_in_a_moment() -> None:
    assert refused({"type": "categorical", "choices": [*range(9000), 3]}) == [
        ("here.choices", "3 is given twice")
    ]


@pytest.mark.parametrize(
    ("leaf", "inside", "outside"),
    [
        (FLOAT, [0.5, 1, 2.0], [0.49, 2.01, "1", True, None, math.nan, math.inf, [1]]),
        (INT, [1, 5, 9], [0, 10, 5.0, True, "5", None]),
        (
            {"type": "float", "low": 1.0, "high": 4.0, "step": 0.1},
            [1.0 + 7 * 0.1, 1.7, 4],  # the first is what Optuna draws
            [1.75, 4.1, 10**400, math.nan, math.inf],
        ),
        ({"type": "categorical", "choices": ["a", None]}, ["a", None], ["b", 0, False, "None"]),
    ],
)
def test_what_a_distribution_holds(leaf: dict, inside: list, outside: list) -> None:
    kind = made(**leaf)
    assert [value for value in inside if not distributions.holds(kind, value)] == []
    assert [value for value in outside if distributions.holds(kind, value)] == []


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (FLOAT, 1.25),
        ({"type": "float", "low": 0.01, "high": 1.0, "log": True}, 0.1),
        ({"type": "float", "low": 0, "high": 1, "step": 0.4 / 4}, 0.5),
        (INT, 5),
        (INT | {"high": 100, "log": True}, 10),
        ({"type": "int", "low": 0, "high": 30, "step": 10}, 20),
        ({"type": "categorical", "choices": ["b", "a"]}, "b"),
    ],
)
def test_the_middle_is_the_centre_on_its_scale(leaf: dict, expected: object) -> None:
    assert distributions.middle(made(**leaf)) == pytest.approx(expected)


BOUND = st.floats(min_value=-1.7e308, max_value=1.7e308) | st.sampled_from([1e-300, 1e-308, 1e308])


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(BOUND, BOUND, st.booleans(), st.none() | st.floats(1e-3, 1e3), st.booleans())
def test_an_accepted_range_holds_its_middle_and_its_ends(
    low: float, high: float, log: bool, step: float | None, whole: bool
) -> None:
    leaf = {"type": "float", "low": low, "high": high, "log": log, "step": step}
    if whole:
        low, high = (max(-(2**62), min(2**62, int(bound))) for bound in (low, high))
        leaf = {"type": "int", "low": low, "high": high, "log": log, "step": int(step or 1)}
    kind, problems = distributions.build("here", leaf)

    assert (kind is None) == bool(problems)
    if kind is not None:
        for value in (distributions.middle(kind), *distributions.extremes(kind)):
            assert distributions.holds(kind, value)


def test_what_a_person_reads() -> None:
    assert distributions.describe(made(**FLOAT, log=True)) == "0.5 to 2 (log)"
    assert distributions.describe(made(**INT, step=4)) == "1 to 9 by 4"
    assert distributions.describe(made(type="categorical", choices=["a", None])) == "a | None"


def test_only_a_mapping_with_a_type_is_searched() -> None:
    assert distributions.is_leaf({"type": "float"})
    assert not [
        value for value in ({}, {"low": 1}, "type", ["type"], None) if distributions.is_leaf(value)
    ]
