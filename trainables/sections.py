"""Checks a trial's config against the signatures of what it builds: all problems at once,
nothing trained."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from trainables import arguments, data, methods, models, optim, sources
from trainables.arguments import Problem, keywords, nearest, unknown, value_problems
from trainables.augment import Augment
from trainables.training import Training


def problems(config: dict) -> list[Problem]:
    """Everything that is wrong with the config of one trial; empty when it can be built."""
    top = keywords(Training.__init__, keep={"epochs"})
    found = unknown("", config, top, "a trial has no such section or setting")
    for name, parameter in top.items():
        if name in _builders():
            found += _section_problems(name, config.get(name, {}))
        elif name in config:
            found += value_problems(name, config[name], parameter.annotation)
        elif parameter.default is parameter.empty:
            found.append((name, "is missing"))
    return found or _build_problems(config)


def parameters(section: str, name: str | None) -> dict[str, inspect.Parameter]:
    """The keys that a section takes, as the parameters of its builder (`name` itself left out)."""
    return {
        key: value
        for builder in _builders()[section](name)
        for key, value in keywords(builder).items()
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
    return arguments.problems(section, settings, known, f"{owner} has no such {kind}")


def _build_problems(config: dict) -> list[Problem]:
    """What only building shows, such as a stage that the backbone has not; no memory is touched."""
    try:
        with torch.device("meta"):
            backbone = models.build(classes=10, image_shape=(3, 32, 32), **config["model"])
            methods.build(model=backbone, **config["method"])
        optim.build((), config["epochs"], **config.get("optim", {}))
        Augment(32, **config.get("augment", {}))
    except (ValueError, RuntimeError) as error:  # a method's own check, or a size torch cannot have
        place, _, what = str(error).partition(": ")
        known = place.split(".")[0] in config
        return [(place, what) if known else ("model", f"cannot be built: {error}".splitlines()[0])]
    return []
