"""What a final training is measured against: what the export writes into the `compare` section of a
config, and the difference that it comes to."""

from skdtune import records
from skdtune.errors import ConfigError
from skdtune.estimate import Estimate, estimate
from skdtune.records import Record, Study
from skdtune.settings import LOWER_IS_BETTER

_LABELS = {
    records.BASELINE: "baseline",
    records.DEFAULT: "authors_default",
    records.FIRST: "first_trial",
}
_ALIKE = "baseline_alike"


def against(study: Study, winner: Record) -> dict[str, dict]:
    """The search's references by name, each as the sections in which it differs from the winner.

    Where more than the method was searched, such as the learning rate, the baseline comes a second
    time with what the winner has of it: the gain over that one is the method's alone."""
    found: dict[str, dict] = {}
    for record in study.records.values():
        label = _LABELS.get(record.role)
        differing = {
            section: value
            for section, value in record.config.items()
            if winner.config.get(section) != value
        }
        if label and differing and label not in found:
            found[label] = differing
    if set(found.get(_LABELS[records.BASELINE], {})) > {"method"}:
        found[_ALIKE] = {"method": found[_LABELS[records.BASELINE]]["method"]}
    return found


def refuse_changes(study: Study, wanted: dict[str, Record]) -> None:
    """Errors: ConfigError for records of the study that were trained with another config."""
    others = {
        name.rpartition("-")[0]
        for name, record in wanted.items()
        if record.role == records.COMPARED
        and name in study.records
        and study.records[name].config != record.config
    }
    if others:
        problem = (
            "was another config when it was trained; give it another name, or another --output"
        )
        raise ConfigError(f"study {study.name}", [f"compare.{name}: {problem}" for name in others])


def key(name: str, index: int) -> str:
    """Of the record that trains it with the seed of that number."""
    return f"{name}-{index}"


def gains(study: Study, metric: str) -> dict[str, tuple[Estimate, Estimate]]:
    """By name what each compared config has come to, and the config's gain over it, positive where
    the config is better: differences of runs of the same seed, which share the order of images and
    what weights they can. Both are of the seeds that have finished on both sides; one with no such
    pair is left out."""
    found = {}
    for name, runs in arms(study).items():
        pairs = [(own, run) for run in runs if (own := _partner(study, run))]
        values = [run.last[metric] for _, run in pairs]
        better = [ahead(metric, own.last[metric], run.last[metric]) for own, run in pairs]
        if pairs:
            found[name] = estimate(values), estimate(better)
    return found


def arms(study: Study) -> dict[str, list[Record]]:
    """The runs of each compared config by its name, whatever became of them."""
    found: dict[str, list[Record]] = {}
    for record in study.records.values():
        if record.role == records.COMPARED:
            found.setdefault(record.key.rpartition("-")[0], []).append(record)
    return found


def ahead(metric: str, score: float, other: float) -> float:
    """How much better the score is than the other, in the metric's own direction."""
    return other - score if metric in LOWER_IS_BETTER else score - other


def _partner(study: Study, run: Record) -> Record | None:
    """The config's own run of the same seed, when both have finished."""
    index = run.key.rpartition("-")[2]
    own = study.records.get(f"{records.SEED}-{index}")
    if own is None or {run.status, own.status} != {records.FINISHED} or run.seed != own.seed:
        return None
    return own
