"""The best settings of an earlier study as first trials of a new one: what a cheap search found, on
a small network or a short budget, is tried at once in the search that counts."""

from dataclasses import dataclass, field
from typing import Any

from skdtune import distributions
from skdtune.errors import ConfigError
from skdtune.leaderboard import rank
from skdtune.records import FINISHED, Record, Study
from skdtune.space import SearchSpace
from trainables import sections

_PLACE = "search.warm_start"
_MOST_LINES = 3  # of those that do not fit


@dataclass(frozen=True)
class EarlierBest:
    """study, id: the earlier one, empty where none is asked for. trials: what each of its trials,
    best first, is in the new space. misfits: why others, better than the last of those, are none
    of it. last_seed: the highest with which the earlier one has trained."""

    study: str = ""
    id: str = ""
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    misfits: list[str] = field(default_factory=list)
    last_seed: int = 0

    @property
    def settings(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The values of each, and where they are from."""
        origin = {"study": self.study, "study_id": self.id, "last_seed": self.last_seed}
        return [(values, {**origin, "trial": key}) for key, values in self.trials.items()]

    @property
    def lines(self) -> list[str]:
        """For a person; empty where no study is asked for."""
        if not self.study:
            return []
        if not self.trials:
            return [f"study {self.study} has no setting that is not a first trial here already"]
        tried = f"from study {self.study}, tried first: trials {', '.join(self.trials)}"
        return [tried, *(f"not tried: {misfit}" for misfit in _shortened(self.misfits))]


def choose(space: SearchSpace, study: Study) -> EarlierBest:
    """The best trials of an earlier search, by its own metric, that fit into a space, as many as it
    asks for, those left out that come to the same values as one before.

    A value is what it was then, searched, fixed or by default; what is not searched now is as the
    space has it. Errors: ConfigError when the study is no search, none of its trials came to the
    full budget, or none fits that is not a first trial already, with why not."""
    if study.kind != "search":
        raise ConfigError(_PLACE, [f"{study.name} is a final training, not a search"])
    rows = [row.record for row in rank(study).rows if row.record.status == FINISHED]
    ended = [record for record in rows if not record.is_beside]
    if not ended:
        raise ConfigError(_PLACE, [f"no trial of {study.name} has come to its full budget"])
    known = [space.first_values(entry) for entry in space.first_trials()]
    trials: dict[str, dict[str, Any]] = {}
    misfits: list[str] = []
    for record in ended:
        if len(trials) == space.search.warm_start.trials:
            break
        try:
            values = _values(space, record)
        except ValueError as error:
            misfits.append(f"trial {record.key} of {study.name}: {error}")
            continue
        if values not in known:
            known.append(values)
            trials[record.key] = values
    if misfits and not trials:
        raise ConfigError(_PLACE, _shortened(misfits))
    last_seed = max(record.last_seed for record in study.records.values())
    return EarlierBest(study.name, study.id, trials, misfits, last_seed)


def _values(space: SearchSpace, record: Record) -> dict[str, Any]:
    """The trial as one of the space. Errors: ValueError when it cannot be one."""
    own, then = space.fixed["method"].get("name"), _section(record, "method").get("name")
    if own not in (None, then):
        raise ValueError(f"its method is {then}, not {own}")
    given = {}
    for path in space.parameters:
        section, key = path.split("/")
        found = _section(record, section)
        if key in found:
            given[path] = found[key]
        elif not sections.names(section) or found.get("name") in sections.names(section):
            parameter = sections.parameters(section, found.get("name")).get(key)
            if parameter is not None and parameter.default is not parameter.empty:
                given[path] = parameter.default
    values = space.first_values(given)
    for path in values.keys() & given.keys():
        kind = space.parameters[path].distribution
        if not distributions.holds(kind, values[path]):
            raise ValueError(f"{path}: {values[path]!r} is not in {distributions.describe(kind)}")
    return values


def _section(record: Record, name: str) -> dict[str, Any]:
    """Of its config; empty where that is damaged."""
    found = record.config.get(name)
    return found if isinstance(found, dict) else {}


def _shortened(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return lines[:_MOST_LINES] + more
