"""The best settings of an earlier study as first trials of a new one: what a cheap search found, on
a small network or a short budget, is tried at once in the search that counts."""

from dataclasses import dataclass, field
from typing import Any

from skdtune import distributions
from skdtune.errors import ConfigError
from skdtune.leaderboard import rank
from skdtune.plan import is_beside
from skdtune.records import FINISHED, Record, Study
from skdtune.space import SearchSpace

_PLACE = "search.warm_start"


@dataclass(frozen=True)
class WarmStart:
    """study: the earlier one's name, empty where none is asked for. trials: its keys, best first.
    values: what each of them is in the new space. line: all that in words."""

    study: str = ""
    trials: list[str] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)

    @property
    def line(self) -> str:
        if not self.study:
            return ""
        if not self.trials:
            return f"study {self.study} has no setting that is not a first trial here already"
        return f"from study {self.study}, tried first: trials {', '.join(self.trials)}"


def choose(space: SearchSpace, study: Study) -> WarmStart:
    """The best trials of an earlier search that fit into a space, as many as it asks for, those
    left out that come to the same values as one before.

    A value is taken from where it was searched or fixed then; what is not searched now is as the
    space has it. Errors: ConfigError when the study is no search, none of its trials came to the
    full budget, or none of those fits, with why not."""
    if study.kind != "search":
        raise ConfigError(_PLACE, [f"{study.name} is a final training, not a search"])
    rows = [row.record for row in rank(study).rows if row.record.status == FINISHED]
    ended = [record for record in rows if not is_beside(record)]
    if not ended:
        raise ConfigError(_PLACE, [f"no trial of {study.name} has come to its full budget"])
    known = [space.first_values(entry) for entry in space.first_trials()]
    chosen: list[tuple[str, dict[str, Any]]] = []
    misfits: dict[str, None] = {}
    for record in ended:
        try:
            values = _values(space, record)
        except ValueError as error:
            misfits[f"trial {record.key} of {study.name}: {error}"] = None
            continue
        if values not in known and len(chosen) < space.search.warm_start.trials:
            known.append(values)
            chosen.append((record.key, values))
    if misfits and len(misfits) == len(ended):
        raise ConfigError(_PLACE, list(misfits))
    return WarmStart(study.name, [key for key, _ in chosen], [values for _, values in chosen])


def _values(space: SearchSpace, record: Record) -> dict[str, Any]:
    """The trial as one of the space. Errors: ValueError when it cannot be one."""
    own, then = space.fixed["method"].get("name"), record.config["method"].get("name")
    if own not in (None, then):
        raise ValueError(f"its method is {then}, not {own}")
    given = {}
    for path in space.parameters:
        section, key = path.split("/")
        if key in record.config.get(section, {}):
            given[path] = record.config[section][key]
    values = space.first_values(given)
    for path in values.keys() & given.keys():
        kind = space.parameters[path].distribution
        if not distributions.holds(kind, values[path]):
            raise ValueError(f"{path}: {values[path]!r} is not in {distributions.describe(kind)}")
    return values
