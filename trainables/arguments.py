"""Checks values from a file against the annotations of the function that they are arguments of."""

import difflib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

from trainables.bounds import Bounds
from trainables.folders import refuse

_NOT_IN_A_FILE = {"final", "device", "epochs"}  # arguments that the caller gives, not the config

Problem = tuple[str, str]  # where (`method.alpha`), what is wrong


def value_problems(place: str, value: Any, annotation: Any) -> list[Problem]:
    """What keeps `value` from being an argument annotated so."""
    if isinstance(value, dict):
        return [(place, f"must be a value, not a section ({_types(annotation)})")]
    if typing.get_origin(annotation) is typing.Annotated:
        kind, bounds = typing.get_args(annotation)
        found = value_problems(place, value, kind)
        if not found and isinstance(bounds, Bounds) and not bounds.allow(value):
            return [(place, f"{value!r} is not {bounds}")]
        return found
    options = _options(annotation)
    if any(_is_a(value, option) for option in options):
        return []
    for option in options:
        if typing.get_origin(option) is list and isinstance(value, list):
            (kind,) = typing.get_args(option)
            return [
                p
                for i, item in enumerate(value)
                for p in value_problems(f"{place}[{i}]", item, kind)
            ]
        bounded = typing.get_origin(option) is typing.Annotated and option is not annotation
        if bounded and _is_a(value, typing.get_args(option)[0]):
            return value_problems(place, value, option)
    choices = [choice for option in options for choice in _literals(option)]
    guess = nearest(value, choices) if choices else ""
    return [(place, f"{value!r} is not {_types(annotation)}{guess}")]


def problems(
    place: str, given: dict, known: dict[str, inspect.Parameter], what: str
) -> list[Problem]:
    """What keeps `given` from being these keyword arguments; `what` is said of an unknown one."""
    found = unknown(f"{place}.", given, known, what)
    for key, parameter in known.items():
        if key in given:
            found += value_problems(f"{place}.{key}", given[key], parameter.annotation)
        elif parameter.default is parameter.empty:
            found.append((f"{place}.{key}", f"is missing; {_types(parameter.annotation)}"))
    return found


def argument_problems(place: str, given: dict, function: Callable, what: str) -> list[Problem]:
    """The same of a function's own keyword arguments."""
    return problems(place, given, keywords(function), what)


def unknown(prefix: str, given: dict, known: Iterable[str], what: str) -> list[Problem]:
    """The keys of `given` that are none of the known ones."""
    known = list(known)
    listed = f"it has {', '.join(known)}" if known else "it has none"
    return [
        (f"{prefix}{key}", f"{what} ({listed}){nearest(key, known)}")
        for key in given
        if key not in known
    ]


def nearest(value: Any, allowed: Iterable[Any]) -> str:
    """`; did you mean x?`, or nothing when none is near."""
    allowed = [str(option) for option in allowed]
    close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.55)
    return f"; did you mean {close[0]}?" if close else ""


def keywords(function: Callable, keep: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
    """A function's keyword-only parameters, with their annotations resolved: what a file may give.
    keep: those the caller gives elsewhere, which a file gives here. Errors: BrokenFile for
    annotations that cannot be resolved."""
    signature = inspect.signature(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise refuse(
            sys.modules[function.__module__], f"{function.__qualname__}: {error}"
        ) from error
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and (name in keep or name not in _NOT_IN_A_FILE)
    }


def _options(annotation: Any) -> tuple:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return (annotation,)


def _is_a(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if typing.get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in _literals(kind))
    return kind in (int, bool, str, types.NoneType) and type(value) is kind


def _literals(kind: Any) -> tuple:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _types(annotation: Any) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
    }
    parts = []
    for option in _options(annotation):
        if typing.get_origin(option) is typing.Annotated:
            kind, bounds = typing.get_args(option)
            parts.append(f"{words[kind]} {bounds}")
        elif typing.get_origin(option) is list:
            parts.append(f"a list, each {_types(typing.get_args(option)[0])}")
        elif _literals(option):
            parts.append(f"one of {', '.join(map(str, _literals(option)))}")
        else:
            parts.append(words.get(option, str(option)))
    return " or ".join(parts)
