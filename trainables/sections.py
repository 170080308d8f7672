"""Checks a trial's config against the signatures of what it builds: all problems at once,
nothing trained."""

import difflib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from trainables import data, methods, models, optim, sources
from trainables.augment import Augment
from trainables.bounds import Bounds
from trainables.folders import refuse
from trainables.training import Training

_NOT_IN_A_FILE = {"final", "device", "epochs"}  # arguments that the caller gives, not the config

Problem = tuple[str, str]  # where (`method.alpha`), what is wrong


def problems(config: dict) -> list[Problem]:
    """Everything that is wrong with the config of one trial; empty when it can be built."""
    top = _arguments(Training.__init__, keep={"epochs"})
    found = _unknown("", config, top, "a trial has no such section or setting")
    for name, parameter in top.items():
        if name in _builders():
            found += _section_problems(name, config.get(name, {}))
        elif name in config:
            found += value_problems(name, config[name], parameter.annotation)
        elif parameter.default is parameter.empty:
            found.append((name, "is missing"))
    return found or _build_problems(config)


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


def argument_problems(place: str, given: dict, function: Callable, what: str) -> list[Problem]:
    """What keeps `given` from being keyword arguments of the function; `what` is said of an
    unknown one."""
    return _given_problems(place, given, _arguments(function), what)


def nearest(value: Any, allowed: Iterable[Any]) -> str:
    """`; did you mean x?`, or nothing when none is near."""
    allowed = [str(option) for option in allowed]
    close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.55)
    return f"; did you mean {close[0]}?" if close else ""


def parameters(section: str, name: str | None) -> dict[str, inspect.Parameter]:
    """The keys that a section takes, as the parameters of its builder (`name` itself left out)."""
    return {
        key: value
        for builder in _builders()[section](name)
        for key, value in _arguments(builder).items()
    }


def names(section: str) -> list[str]:
    """The names that a section's `name` may have; none for a section without one."""
    lists: dict[str, Callable[[], Iterable[str]]] = {
        "data": sources.readers,
        "model": models.builders,
        "method": methods.classes,
    }
    return sorted(lists[section]()) if section in lists else []


def _builders() -> dict[str, Callable[[str | None], list[Callable]]]:
    """Section -> what its keys are the keyword arguments of, given its `name`."""
    return {
        "data": lambda name: [data.build, sources.readers()[name]],
        "model": lambda name: [models.builders()[name]],
        "method": lambda name: [methods.classes()[name].__init__],
        "optim": lambda name: [optim.build],
        "augment": lambda name: [Augment.__init__],
    }


def _section_problems(section: str, value: Any) -> list[Problem]:
    if not isinstance(value, dict):
        return [(section, f"must be a section of settings, not {value!r}")]
    allowed = names(section)
    name = value.get("name")
    if allowed and name is None:
        return [(f"{section}.name", f"is missing; one of {', '.join(allowed)}")]
    if allowed and name not in allowed:
        return [
            (
                f"{section}.name",
                f"{name!r} is not one of {', '.join(allowed)}{nearest(name, allowed)}",
            )
        ]
    known = parameters(section, name)
    settings = {key: item for key, item in value.items() if not (allowed and key == "name")}
    kind = "hyperparameter" if section == "method" else "setting"
    owner = name if allowed else section
    return _given_problems(section, settings, known, f"{owner} has no such {kind}")


def _given_problems(
    place: str, given: dict, known: dict[str, inspect.Parameter], what: str
) -> list[Problem]:
    found = _unknown(f"{place}.", given, known, what)
    for key, parameter in known.items():
        if key in given:
            found += value_problems(f"{place}.{key}", given[key], parameter.annotation)
        elif parameter.default is parameter.empty:
            found.append((f"{place}.{key}", f"is missing; {_types(parameter.annotation)}"))
    return found


def _build_problems(config: dict) -> list[Problem]:
    """What only building shows, such as a stage that the backbone has not; no memory is touched."""
    try:
        with torch.device("meta"):
            backbone = models.build(classes=10, image_shape=(3, 32, 32), **config["model"])
            methods.build(model=backbone, **config["method"])
        optim.check(**config.get("optim", {}))
        Augment(32, **config.get("augment", {}))
    except (ValueError, RuntimeError) as error:  # a method's own check, or a size torch cannot have
        place, _, what = str(error).partition(": ")
        known = place.split(".")[0] in config
        return [(place, what) if known else ("model", f"cannot be built: {error}".splitlines()[0])]
    return []


def _unknown(prefix: str, given: dict, known: Iterable[str], what: str) -> list[Problem]:
    known = list(known)
    listed = f"it has {', '.join(known)}" if known else "it has none"
    return [
        (f"{prefix}{key}", f"{what} ({listed}){nearest(key, known)}")
        for key in given
        if key not in known
    ]


def _arguments(function: Callable, keep: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
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
