"""A search-space YAML to a `SearchSpace`: fixed values, Optuna distributions and settings, all
checked."""

import copy
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from skdtune import credentials, distributions, records, settings, space_checks
from skdtune.errors import ConfigError, Refusals
from skdtune.settings import Resources, Search
from skdtune.strict_yaml import Document, read
from trainables import methods, sections
from trainables.arguments import Problem, nearest

BASELINE_METHOD = "cross_entropy"
_TOP = ("trial", "search", "resources", "compare", "provenance")
_COMPARED_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Parameter:
    """A searched value. when: searched or fixed parameters and the values of theirs that switch
    it on."""

    path: str
    distribution: BaseDistribution
    when: dict[str, list]

    def is_on(self, values: dict[str, Any], fixed: dict) -> bool:
        """Whether it counts beside these searched values and the fixed ones."""
        for parent, wanted in self.when.items():
            section, _, key = parent.partition("/")
            inside = fixed.get(section)
            value = values.get(parent, inside.get(key) if isinstance(inside, dict) else None)
            if value not in wanted:
                return False
        return True


@dataclass(frozen=True)
class SearchSpace:
    """name: for people. document: the file as run, overrides included; it is what is stored and
    compared. fixed: a trial's config without its searched values. parameters: by path, parents
    before children. compare: the configs that a final training is measured against, by name."""

    name: str
    document: dict
    fixed: dict
    parameters: dict[str, Parameter]
    search: Search
    resources: Resources
    compare: dict[str, dict]

    def suggest(self, value: Callable[[Parameter], Any]) -> dict[str, Any]:
        """The values of every parameter that is switched on, asked for one by one."""
        values: dict[str, Any] = {}
        for path, parameter in self.parameters.items():
            if parameter.is_on(values, self.fixed):
                values[path] = value(parameter)
        return values

    def config(self, values: dict[str, Any]) -> dict:
        """The trial's config with these searched values in their places."""
        config = copy.deepcopy(self.fixed)
        for path, value in values.items():
            section, key = path.split("/")
            config[section][key] = value
        return config

    def first_values(self, given: dict[str, Any]) -> dict[str, Any]:
        """A first trial in full: what is not given is the authors' default, which the signatures
        hold."""
        return self.suggest(lambda p: given[p.path] if p.path in given else self._default(p, given))

    def baseline_config(self) -> dict:
        """Plain cross entropy with whatever else the first trial has: what distillation must
        beat."""
        config = self.first_config()
        config["method"] = {"name": BASELINE_METHOD}
        return config

    def first_config(self) -> dict:
        """The first trial's."""
        return self.config(self.first_values(self.first_trials()[0]))

    def first_trials(self) -> list[dict[str, Any]]:
        return self.search.first_trials or [{}]

    def is_authors_own(self, values: dict[str, Any]) -> bool:
        """Whether every searched value, and every fixed one of the method but its teacher, is the
        default that its signature has from the authors. The schedule is the space's, for whatever
        is compared in it."""
        name = values.get("method/name", self.fixed["method"].get("name"))
        if not methods.classes()[name].has_authors_defaults:
            return False
        fixed = {f"method/{key}": value for key, value in self.fixed["method"].items()}
        for path in ("method/name", "method/teacher"):
            fixed.pop(path, None)
        return all(
            value == self._signature_default(path, values)
            for path, value in {**fixed, **values}.items()
        )

    def moved(self) -> list[str]:
        """A line for each default that its range leaves out: what the first trial has instead, and
        with it the baseline where it is not of the method."""
        given, lines = self.first_trials()[0], []
        for path, value in self.first_values(given).items():
            default = self._signature_default(path, given)
            if path in given or default in (None, value):
                continue
            whose = "first trial" if path.startswith("method/") else "first trial and baseline"
            lines.append(f"{path}: its range leaves out the default, {default}; {whose}: {value}")
        return lines

    def _default(self, parameter: Parameter, given: dict[str, Any]) -> Any:
        default = self._signature_default(parameter.path, given)
        if distributions.holds(parameter.distribution, default):
            return default
        return distributions.middle(parameter.distribution)

    def _signature_default(self, path: str, given: dict[str, Any]) -> Any:
        """What the builder of its section has for it; None when it has none."""
        section, key = path.split("/")
        if key == "name":
            return None
        name = self.fixed.get(section, {}).get("name")
        searched = self.parameters.get(f"{section}/name")
        if searched is not None:
            name = given.get(searched.path, distributions.middle(searched.distribution))
        known = sections.parameters(section, name).get(key)
        return known.default if known else None


def locate(space: str) -> Path:
    """The file of a space: a path, or a name in search_spaces/. Errors: ConfigError naming the
    nearest."""
    is_there = os.path.exists(space) and not os.path.isdir(space)
    if is_there or "/" in space or space.endswith((".yaml", ".yml")):
        return Path(space)
    folder = resources.files("search_spaces")
    known = sorted(
        Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
    if space not in known:
        problem = f"no such file, and no such name in search_spaces (it has {', '.join(known)})"
        raise ConfigError(space, [problem + nearest(space, known)])
    return Path(str(folder / f"{space}.yaml"))


def load(path: Path, override: Callable[[Any], None] = lambda data: None) -> SearchSpace:
    """The space in a file. override: changes the document before it is checked, as `--set` does.
    Errors: ConfigError with every problem of the file."""
    document = read(path)
    before = copy.deepcopy(document.data)
    refusals = Refusals()
    with refusals.taken():
        override(document.data)
    for place in list(document.lines):  # what was edited is not what stands in that line
        if _at(before, place) != _at(document.data, place):
            del document.lines[place]
    with refusals.taken():
        space = build(document, path.stem, str(path))
    refusals.tell()
    return space


def build(document: Document, name: str, source: str) -> SearchSpace:
    """The space of a document that was read. Errors: ConfigError with every problem."""
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError(source, ["it must hold sections: trial, search, resources"])
    if found := credentials.problems(data):  # alone: what else is wrong might repeat them
        raise ConfigError(source, _located(document, found))
    problems = [
        (str(key), f"no such section (there are {', '.join(_TOP)}){nearest(key, _TOP)}")
        for key in data
        if key not in _TOP
    ]
    trial = data.get("trial", {})
    if not isinstance(trial, dict):
        problems.append(
            ("trial", "must hold the config of a trial: data, model, method, optim, epochs")
        )
        trial = {}
    fixed, parameters, found = _parameters(trial)
    problems += found
    search, found = settings.search(data.get("search", {}))
    problems += found
    origin = data.get("provenance") or {}
    if not isinstance(origin, dict):
        problems.append(("provenance", "must be a section: where the config came from"))
    problems += space_checks.number_problems("provenance", origin)
    asked = data.get("search", {})
    if not parameters and isinstance(asked, dict) and "trials" not in asked:
        search = replace(search, trials=1)
    requested, found = settings.section("resources", Resources, data.get("resources", {}))
    problems += found
    compare, found = _compared(data.get("compare"), fixed)
    problems += found
    requested = requested or Resources()
    space = SearchSpace(name, data, fixed, parameters, search, requested, compare)
    problems += space_checks.problems(space, already=problems)
    if problems:
        raise ConfigError(source, _located(document, problems))
    return space


def _compared(data: Any, fixed: dict) -> tuple[dict[str, dict], list[Problem]]:
    """The configs to compare with by name, each the trial's own with some sections replaced, and
    what is wrong with them."""
    if data is None:
        return {}, []
    if not isinstance(data, dict):
        return {}, [("compare", "must hold a name for each config to compare with")]
    found, problems = {}, []
    known = sections.problems(fixed)  # of these the trial is told
    for name, replaced in data.items():
        place = f"compare.{name}"
        if not _COMPARED_NAME.fullmatch(str(name)) or name in (records.SEED, records.TEACHER):
            problems.append(
                (place, "a name is of small letters, digits and _, not seed or teacher")
            )
        if not isinstance(replaced, dict):
            problems.append((place, "must hold the sections in which it differs from trial"))
            continue
        found[name] = {**fixed, **replaced}
        problems += [
            (f"{place}.{path}", what)
            for path, what in sections.problems(found[name])
            if (path, what) not in known
        ]
    return found, problems


def _at(data: Any, place: tuple) -> Any:
    """What lies at a path of keys and indices; None when nothing does."""
    try:
        for part in place:
            data = data[part]
    except (KeyError, IndexError, TypeError):
        return None
    return data


def _parameters(trial: dict) -> tuple[dict, dict[str, Parameter], list[Problem]]:
    """The fixed values, the parameters that are sound, and what is wrong with the others."""
    fixed: dict[str, Any] = {}
    found: dict[str, Parameter] = {}
    problems: list[Problem] = []
    for section, settings_ in trial.items():
        if distributions.is_leaf(settings_):
            problems.append(
                (f"trial.{section}", "cannot be searched: only what is in a section can")
            )
        if not isinstance(settings_, dict):
            fixed[section] = settings_
            continue
        fixed[section] = {}
        for key, value in settings_.items():
            if "/" in f"{section}{key}":  # as in a parameter's path
                problems.append((f"trial.{section}.{key}", "a name has no slash"))
                continue
            if not distributions.is_leaf(value):
                fixed[section][key] = value
                continue
            place = f"trial.{section}.{key}"
            distribution, wrong = distributions.build(place, value)
            when = value.get("when", {})
            wrong += space_checks.when_problems(place, when)
            problems += wrong
            if not wrong:
                found[f"{section}/{key}"] = Parameter(f"{section}/{key}", distribution, when)
    return fixed, space_checks.parents_first(found), problems


def _located(document: Document, problems: list[Problem]) -> list[str]:
    """Each problem with its line, where the file has one."""
    return [f"{_line(document, place)}{place}: {what}" for place, what in problems]


def _line(document: Document, place: str) -> str:
    path: list[Any] = []
    for part in place.replace("[", ".[").split("."):
        is_index = re.fullmatch(r"\[[0-9]{1,9}\]", part)
        path.append(int(part[1:-1]) if is_index else part)
    while path and tuple(path) not in document.lines:
        path.pop()
    return f"line {document.lines[tuple(path)]}: " if path else ""
