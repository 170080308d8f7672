"""What two spaces ask differently, and whether that keeps a study from going on."""

from typing import Any

from skdtune.errors import ConfigError
from skdtune.records import Study

# What only says how long or where a study runs; its trials stay comparable
_FREE = (
    "search.trials",
    "search.finalists",
    "search.max_failed_fraction",
    "resources.",
    "provenance.",
    "compare.",
)


def differences(before: dict, after: dict) -> list[str]:
    """A line for each key that differs and matters, `trial.optim.lr: 0.1 in the study, 0.2
    asked`."""
    old, new = _flat(before), _flat(after)
    return [
        f"{path}: {_shown(old, path)} in the study, {_shown(new, path)} asked"
        for path in dict.fromkeys([*old, *new])
        if (path not in old or path not in new or old[path] != new[path])
        and not path.startswith(_FREE)
    ]


def refuse_changes(study: Study, document: dict, facts: dict[str, Any]) -> None:
    """Errors: ConfigError with everything that would mix two searches. document: of the space that
    is asked for. facts: of the data set as it is now."""
    problems = [
        f"it cannot go on with another {line}" for line in differences(study.space, document)
    ]
    if study.data.get("fingerprint") != facts["fingerprint"]:
        problems.append(
            "it cannot go on with another data set: images or labels have changed since it began"
        )
    first = min(study.records, default=None)
    if first is None or int(first) > 0:
        problems.append("the record of its first trial is gone, with which all others are compared")
    if problems:
        raise ConfigError(f"study {study.name}", problems)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            path: leaf
            for key, inner in value.items()
            for path, leaf in _flat(inner, f"{place}.{key}").items()
        }
    return {place.removeprefix("."): value}


def _shown(values: dict[str, Any], path: str) -> str:
    return repr(values[path]) if path in values else "nothing"
