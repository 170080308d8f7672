"""What a search command asks for: its flags, the space they edit, and the study they resume."""

import copy
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from skdtune import distributions, flags, places, records, space, warm_start
from skdtune.commands import DEFAULT_SPACE
from skdtune.errors import ConfigError, Refusals
from skdtune.finding import STUDIES, find, newest, on_disk
from skdtune.records import Study
from skdtune.space import SearchSpace
from skdtune.strict_yaml import Document
from skdtune.tracking_uri import absolute, default_uri
from skdtune.warm_start import EarlierBest
from trainables import sections
from trainables.storage import Folder


@dataclass(frozen=True)
class Request:
    """space: with all edits. name, folder: of the study. old: the study to resume, as it was
    found. warm: what an earlier study gives a new one."""

    space: SearchSpace
    name: str
    folder: Folder
    old: Study | None
    warm: EarlierBest
    options: dict[str, Any]

    @property
    def tracking_uri(self) -> str:
        """Of the MLflow that the study is mirrored to. Errors: ConfigError."""
        before = self.old.tracking_uri if self.old else ""
        return absolute(self.options["tracking_uri"] or before or default_uri())


def read(parser: flags.Parser, arguments: list[str]) -> Request:
    """Errors: ConfigError with every problem of the flags, the space and the study at once."""
    refusals = Refusals()
    options = parser.read(arguments)
    refusals.add(parser.program, parser.problems)
    edits, problems = flags.overrides(options["set"])
    refusals.add("--set", problems)
    old, wanted, warm, place = None, None, EarlierBest(), None
    with refusals.taken():
        old = _existing(options) if options["resume"] else None
    with refusals.taken():
        if options["space"] is not None or old or not options["resume"]:
            wanted = _space(options, edits, old)
        if not options["resume"] and wanted.search.warm_start:
            warm = _warm(wanted, options["tracking_uri"])
    with refusals.taken():
        if old:
            place = old.name, old.folder
        elif not options["resume"]:
            place = _new_place(options, wanted)
    refusals.tell()
    return Request(wanted, *place, old, warm, options)


def _existing(options: dict[str, Any]) -> Study:
    """The study that `--resume` means. Errors: ConfigError when there is none, and when it has
    more trials than are asked for."""
    study = _must_be_search(records.load(_place(options)))
    there = sum(not record.is_beside for record in study.records.values())
    if options["trials"] is not None and options["trials"] < there:
        problem = f"--trials {options['trials']}: it has {there} already, the baseline not counted"
        raise ConfigError(f"study {study.name}", [problem])
    return study


def _place(options: dict[str, Any]) -> Folder:
    if options["storage"]:
        return _folder(options["storage"])
    name, asked = options["name"], options["space"]
    folder = on_disk(name) if name else newest(PurePosixPath(asked).stem if asked else None)
    if folder is None:
        if asked and not name and on_disk(asked):
            flag = "--storage" if "/" in asked else "--name"
            raise ConfigError("--resume", [f"{asked} is a study and no space: {flag} {asked}"])
        which = f" {name}" if name else f" of the space {asked}" if asked else ""
        raise ConfigError("--resume", [f"no study{which} in ./{STUDIES} to resume"])
    return folder


def _must_be_search(study: Study) -> Study:
    if study.kind != "search":
        problem = "it is a final training; the same skdtune.train command goes on with it"
        raise ConfigError(f"study {study.name}", [problem])
    return study


def _space(options: dict[str, Any], edits: list, old: Study | None) -> SearchSpace:
    """The space asked for: a file's, or when resuming without one what the study was started
    with."""

    def override(data: Any) -> None:
        flags.apply(data, edits)
        if isinstance(data, dict):
            _settle(data, edits)
            _shorten(data, options["epochs"], options["trials"], _is_grace_set(edits))

    asked = options["space"]
    if old is None or asked is not None:
        return space.load(space.locate(DEFAULT_SPACE if asked is None else asked), override)
    document = copy.deepcopy(old.space)
    override(document)
    return space.build(Document(document), old.space_name, f"study {old.name}")


def _warm(wanted: SearchSpace, tracking_uri: str | None) -> EarlierBest:
    """From the study on this disk, else from MLflow."""
    study = wanted.search.warm_start.study
    return warm_start.choose(wanted, find(study, None if on_disk(study) else tracking_uri))


def _settle(data: dict, edits: list) -> None:
    """A parameter that `--set` fixes, switches off, or leaves out of a section that it replaces is
    no longer one of the first trials'."""
    search, trial = data.get("search"), data.get("trial")
    first = search.get("first_trials") if isinstance(search, dict) else None
    touched = {"/".join(keys[1:]): value for keys, value in edits if keys[0] == "trial"}
    fixed = {path: value for path, value in touched.items() if not isinstance(value, dict)}
    gone = fixed.keys() | _switched_off(trial, fixed)
    for entry in first if isinstance(first, list) else []:
        for path in list(entry) if isinstance(entry, dict) else []:
            section, _, key = str(path).partition("/")
            inside = trial.get(section) if isinstance(trial, dict) else None
            leaf = inside.get(key) if isinstance(inside, dict) else None
            if path in gone or (section in touched and not distributions.is_leaf(leaf)):
                del entry[path]


def _switched_off(trial: Any, fixed: dict[str, Any]) -> set[str]:
    """Parameters whose `when` asks for another value than the fixed one."""
    found = set()
    for section, leaves in trial.items() if isinstance(trial, dict) else ():
        for key, leaf in leaves.items() if isinstance(leaves, dict) else ():
            when = leaf.get("when") if isinstance(leaf, dict) else None
            for path, allowed in when.items() if isinstance(when, dict) else ():
                if path in fixed and isinstance(allowed, list) and fixed[path] not in allowed:
                    found.add(f"{section}/{key}")
    return found


def _is_grace_set(edits: list) -> bool:
    """Whether `--set` says how long the grace period is, by itself or with all of its section."""
    path = ["search", "scheduler", "grace_period"]
    for keys, value in edits:
        inside = value
        if keys != path[: len(keys)]:
            continue
        for key in path[len(keys) :]:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if inside is not None:
            return True
    return False


def _shorten(data: dict, epochs: int | None, trials: int | None, is_grace_set: bool) -> None:
    """`--epochs` and `--trials`; the grace period keeps its share of the budget, and ends behind
    the first drop of the learning rate if it did before, unless `--set` says how long it is."""
    if trials is not None and isinstance(data.setdefault("search", {}), dict):
        data["search"]["trials"] = trials
    trial = data.get("trial")
    if epochs is None or not isinstance(trial, dict):
        return
    before, trial["epochs"] = trial.get("epochs"), epochs
    search = data.get("search")
    scheduler = search.get("scheduler") if isinstance(search, dict) else None
    grace = scheduler.get("grace_period") if isinstance(scheduler, dict) else None
    if is_grace_set or type(before) is not int or type(grace) is not int:
        return
    least = 1
    if grace > _first_drop(trial, before):
        least = min(_first_drop(trial, epochs) + 1, epochs)
    scheduler["grace_period"] = max(least, round(grace * epochs / max(before, 1)))


def _first_drop(trial: dict, epochs: int) -> int:
    """How many of so many epochs come before the learning rate first drops; 0 where it falls
    steadily, or where that is searched or wrong."""
    asked = trial.get("optim")
    known = sections.parameters("optim", None).items()
    optim = {key: parameter.default for key, parameter in known}
    optim |= asked if isinstance(asked, dict) else {}
    try:
        drops = optim["schedule"] == "multistep"
        return round(min(optim["milestones"]) * epochs) if drops else 0
    except (TypeError, ValueError):
        return 0


def _new_place(options: dict[str, Any], wanted: SearchSpace | None) -> tuple[str, Folder]:
    """Name and folder of a new study. Errors: ConfigError when there is one already."""
    name = options["name"]
    if options["storage"]:
        folder = _folder(options["storage"])
        name = name or folder.name
    else:
        name = name or f"{wanted.name if wanted else ''}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = Folder(STUDIES / name)
    places.refuse_strangers(folder, "--storage" if options["storage"] else f"study {name}")
    if records.is_study(folder):
        ended = sum(record.has_ended for record in records.load(folder).records.values())
        where = f"{ended} trials ended, in {folder.uri}"
        problem = f"it exists ({where}); add --resume, or give another --name"
        raise ConfigError(f"study {name}", [problem])
    return name, folder


def _folder(place: str) -> Folder:
    try:
        return Folder(place)
    except (OSError, ValueError) as error:
        raise ConfigError("--storage", [str(error)]) from None
