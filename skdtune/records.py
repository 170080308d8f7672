"""A study on disk, the truth about it: what was asked for, and one atomically written record a
trial."""

import dataclasses
import hashlib
import json
import math
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from skdtune.errors import ConfigError
from trainables import metrics
from trainables.storage import Folder

FORMAT = 1
STUDY_FILE = "study.json"
TRIALS = "trials"
OWNER = "owner.json"  # who holds the study
MODELS = "models"  # of a final training, one a seed

# Roles
# (`default` is the authors' own setting, `first` another that the space puts in its place, `repeat`
# a finalist with another seed; the others are of a final training: `compared` is what the config is
# measured against)
SEARCH, DEFAULT, FIRST, BASELINE, REPEAT = "search", "default", "first", "baseline", "repeat"
SEED, TEACHER, COMPARED = "seed", "teacher", "compared"
# Statuses; a trial that is neither of the last four is to be gone on with
PENDING, RUNNING, INTERRUPTED = "pending", "running", "interrupted"
FINISHED, STOPPED, DIVERGED, FAILED = "finished", "stopped", "diverged", "failed"
ENDED = (FINISHED, STOPPED, DIVERGED, FAILED)
# Their checkpoints are of no more use. What failed is tried again by a resume, from where it was.
# Of one that has finished the last one stays: it may be the winner's.
NEVER_AGAIN = (STOPPED, DIVERGED)
STATUSES = (PENDING, RUNNING, INTERRUPTED, *ENDED)


@dataclass
class Record:
    """One trial. params: searched values by `section/key`. config: all it was trained with.
    epochs: the metrics of each epoch, oldest first. checkpoint: the newest, below the study's
    folder; empty once it is deleted. host, device: where it ran last. teacher: the key of the run
    that teaches it, in a final training alone. origin: the trial of another study that its values
    are from, with a warm start. repeats: the key of the trial that it is again, with another seed.
    role, status: of those above. attempts: how often it was started. error: in a line. details: a
    traceback. Times are Unix seconds."""

    key: str
    role: str
    params: dict[str, Any]
    config: dict
    status: str = PENDING
    attempts: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    error: str = ""
    details: str = ""
    warnings: list[str] = field(default_factory=list)
    checkpoint: str = ""
    host: str = ""
    device: str = ""
    started: float | None = None
    ended: float | None = None
    seed: int | None = None
    teacher: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    repeats: str = ""

    def __post_init__(self):
        if self.seed is None:
            self.seed = self.config.get("seed", 0)

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the newest epoch; empty before the first."""
        return self.epochs[-1] if self.epochs else {}

    @property
    def epoch(self) -> int:
        """How many epochs are on record."""
        return self.last.get(metrics.EPOCH, 0)

    @property
    def last_seed(self) -> int:
        """The highest seed that has had a say in it, in its study or in the one that its values are
        from."""
        return max(self.seed, self.origin.get("last_seed", self.seed))

    @property
    def identity(self) -> str:
        """Its key and what it is trained with: whose a checkpoint is. A key alone could come to
        another trial when a record is lost."""
        config = json.dumps(self.config, sort_keys=True).encode()
        return f"{self.key} {hashlib.sha256(config).hexdigest()[:16]}"

    @property
    def names_teacher(self) -> bool:
        """Whether its config names a teacher, which then is the same for every seed."""
        return self.config["method"].get("teacher") is not None

    @property
    def is_beside(self) -> bool:
        """Whether the trial runs beside the search and is no point of its space: a repeat, and the
        baseline, which comes behind the first trial unless it is the first trial itself."""
        is_first = not self.key.strip("0")
        return self.role == REPEAT or (self.role == BASELINE and not is_first)

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def begin(self) -> None:
        """It is started, or started again."""
        self.started = self.started or time.time()  # first: the uploader reads it meanwhile
        self.attempts += 1
        self.status = RUNNING

    def hear(self, event: dict[str, Any]) -> bool:
        """Takes what its process tells: of `report`, `checkpoint`, `host`, `device` and `warnings`
        what is there. Whether a report or a warning is new."""
        new = "report" in event and self.add(dict(event["report"]))
        self.host = event.get("host") or self.host
        self.device = event.get("device") or self.device
        self.checkpoint = event.get("checkpoint", self.checkpoint)
        warnings = [line for line in event.get("warnings", []) if line not in self.warnings]
        self.warnings += warnings
        return new or bool(warnings)

    def add(self, report: dict[str, float]) -> bool:
        """Takes the next epoch's report; one that is on record already changes nothing."""
        new = report[metrics.EPOCH] > self.epoch
        if new:
            self.epochs.append(dict(report))
        return new

    def end(self, status: str, error: str = "", details: str = "") -> None:
        """It has come to its end, in one of the last four ways. error: in a line. details: where
        it stood."""
        self.error, self.details = error, details
        self.ended = time.time()  # first: the uploader reads it meanwhile
        self.status = status
        if status in NEVER_AGAIN:
            self.checkpoint = ""

    def retry(self) -> None:
        """Puts it back on the books when it has failed: what it failed of may be mended now."""
        if self.status == FAILED:
            self.status, self.error, self.ended = PENDING, "", None


@dataclass
class Study:
    """kind: `search` or `training`. space: the document as run. data: sizes and fingerprint of
    the set. folder: None for a study that was read from MLflow. home: where it was saved last."""

    name: str
    kind: str
    space: dict
    space_name: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: float = field(default_factory=time.time)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str = ""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    folder: Folder | None = None
    home: str = ""

    def save(self) -> None:
        """Writes what the study is; its trials are written by a `Writer`."""
        self.home = self.folder.uri
        content = {"format": FORMAT}
        for item in dataclasses.fields(self):
            if item.name not in ("records", "folder"):
                content[item.name] = getattr(self, item.name)
        self.folder.write(STUDY_FILE, encode(content))

    def save_record(self, record: Record) -> None:
        self.folder.write(f"{TRIALS}/{record.key}.json", encode(vars(record)))

    def has_lost_teacher(self, record: Record) -> bool:
        """Whether the run that is to teach this one was lost, so that it cannot be trained."""
        teacher = self.records.get(record.teacher)
        return teacher is not None and teacher.status in (DIVERGED, FAILED)

    @property
    def unfinished(self) -> list[Record]:
        return [record for record in self.records.values() if not record.has_ended]


def is_study(folder: Folder) -> bool:
    return folder.exists(STUDY_FILE)


def load(folder: Folder, trials: bool = True) -> Study:
    """The study in a folder. trials: whether with its records. Errors: ConfigError for one that is
    missing, damaged or of another format."""
    name = STUDY_FILE
    try:
        content = _decode(folder.read(name))
        if content.pop("format", None) != FORMAT:
            raise ConfigError(folder.uri, [f"{STUDY_FILE} is of another format than {FORMAT}"])
        study = Study(**content, folder=folder)
        if not isinstance(study.space, dict) or not isinstance(study.name, str):
            raise TypeError("its space or its name is missing")
        files = folder.names(TRIALS) if trials else []
        for stem in [found[:-5] for found in files if found.endswith(".json")]:
            name = f"{TRIALS}/{stem}.json"
            study.records[stem] = _record(stem, _decode(folder.read(name)))
    except FileNotFoundError:
        raise ConfigError(
            folder.uri, [f"there is no study here ({STUDY_FILE} is missing)"]
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(folder.uri, [f"{name} cannot be read: {error}"]) from None
    return study


def encode(content: dict) -> bytes:
    """As JSON, a line a key and an epoch; what is no text, such as half a surrogate pair in a
    file's name, by its number."""
    lines = (f"{_json(key)}: {_lined(value)}" for key, value in content.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode(errors="backslashreplace")


def _lined(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(map(_json, value)) + "\n]"
    return _json(value)


# Python's encoder is many times slower when it indents: that was a tenth of the driver's time
_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _record(key: str, content: dict) -> Record:
    """A trial's record. Errors: TypeError, ValueError for what no study has written."""
    record = Record(**content)
    wanted = {"params": dict, "config": dict, "epochs": list, "attempts": int, "role": str}
    wanted |= {"repeats": str, "seed": int}
    wrong = [name for name, kind in wanted.items() if not isinstance(getattr(record, name), kind)]
    if wrong:
        raise ValueError(f"its {wrong[0]} is not what it must be")
    if record.key != key or record.status not in STATUSES:
        raise ValueError(f"it is of trial {record.key}, {record.status}")
    if type(record.config.get("epochs")) is not int:
        raise ValueError("its config has no number of epochs")
    for report in record.epochs:
        numbers = report.values() if isinstance(report, dict) else [None]
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise ValueError("a report of its epochs holds what is no number")
    return record


def _decode(data: bytes) -> dict:
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content
