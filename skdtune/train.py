"""Trains a config at full length over several seeds and scores the test set: `python -m
skdtune.train CONFIG`."""

if __name__ == "__main__":  # before the imports, which take seconds and read the environment
    from skdtune import commands, errors

    errors.begin()
    commands.train(__doc__).help()

import contextlib
import copy
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from skdtune import (
    cluster,
    commands,
    conclusion,
    final,
    flags,
    lock,
    places,
    preflight,
    provenance,
    records,
    signals,
    space,
    spread,
    teachers,
)
from skdtune.differences import differences
from skdtune.errors import NOT_DONE, ConfigError, Refusals, first_line, run
from skdtune.records import MODELS, Record, Study
from skdtune.space import SearchSpace
from skdtune.terminal import Terminal
from skdtune.tracking_uri import absolute, default_uri
from skdtune.uploader import Uploader
from skdtune.writer import Writer
from trainables import data
from trainables.storage import Folder

_MLFLOW_PATIENCE_S = 120.0  # at the end, for the models it has not taken yet


def main(arguments: list[str]) -> int:
    options, wanted = _read(arguments)
    address = cluster.where(options["address"])
    console = Terminal()
    name, folder = _place(wanted, options)
    with lock.held(folder, name), contextlib.ExitStack() as stack:
        study = _study(wanted, options, name, folder, console.print)
        batch_size, images = _look(study, wanted, is_alone=address == cluster.LOCAL)
        chosen = final.add_seeds(study, wanted.fixed, options["seeds"], wanted.compare)
        left, room = [r for r in chosen if not (r.has_ended or study.has_lost_teacher(r))], None
        if left and spread.is_of_use(wanted, address, len(left)):
            connected = spread.connected(wanted, folder, address, len(left), console.print)
            room = stack.enter_context(connected)
        study.save()
        teachers.bring(_taught(wanted), folder, study.tracking_uri)
        what, where = _what(chosen, wanted, options["seeds"]), _where(left, wanted, room)
        console.print(f"{what}, {where}, in {folder.uri}")
        small = preflight.batch_note(batch_size, images)
        if small:
            console.print(small)
        outcome = _train(study, chosen, room, _device(wanted), console)
    if not outcome.run_id:
        console.print(f"MLflow lacks some of it: python -m skdtune.sync {shlex.quote(folder.uri)}")
    if outcome.lost:
        console.print(outcome.lost)
    if outcome.stopped or outcome.lost:
        console.print("stopped; the same command goes on from here")
        return signals.exit_code(outcome.stopped) if outcome.stopped else NOT_DONE
    return _conclude(study, outcome.run_id, console)


@dataclass(frozen=True)
class Outcome:
    """stopped: the signal that stopped it. lost: what it was lost for, empty when nothing was.
    run_id: of MLflow, when that has all of it."""

    stopped: KeyboardInterrupt | None
    lost: str
    run_id: str


def _train(
    study: Study,
    chosen: list[Record],
    room: spread.Room | None,
    device: torch.device,
    console: Console,
) -> Outcome:
    """Trains what is left, on Ray's nodes or on this device, and closes all that was opened for it,
    whatever happens."""
    writer, uploader = Writer(study), Uploader(study, study.tracking_uri, console.print)
    stopped, lost = None, ""
    try:
        desk = final.Desk(study, writer, console.print)
        if room:
            spread.train(study, chosen, desk, room)
        else:
            final.train(study, chosen, desk, device)
    except KeyboardInterrupt as error:
        stopped = error
    except (cluster.Lost, final.GpuLost) as error:
        lost = str(error)
    except OSError as error:
        lost = _unwritten(study, error)
    finally:
        with signals.held():  # whatever comes now, what was trained is kept and its result told
            try:
                writer.close()
            except OSError as error:
                lost = _unwritten(study, error)
            was_stopped = stopped is not None
            mirrored = uploader.close(
                _MLFLOW_PATIENCE_S,
                give_up=lambda: not was_stopped and signals.received() is not None,
            )
    return Outcome(stopped, lost, uploader.run_id if mirrored else "")


def _read(arguments: list[str]) -> tuple[dict, SearchSpace]:
    parser = commands.train(__doc__)
    refusals, wanted = Refusals(), None
    options = parser.read(arguments)
    refusals.add(parser.program, parser.problems)
    edits, problems = flags.overrides(options["set"])
    refusals.add("--set", problems)
    with refusals.taken():
        if options["config"] is not None:
            path = space.locate(options["config"])
            wanted = space.load(path, lambda data: flags.apply(data, edits))
    if wanted is not None and wanted.parameters:
        listed = [f"trial.{path.replace('/', '.')} is still searched" for path in wanted.parameters]
        listed[-1] += "; fix each with --set, or train what skdtune.export writes"
        refusals.add(options["config"], listed)
    refusals.tell()
    return options, wanted


def _place(wanted: SearchSpace, options: dict) -> tuple[str, Folder]:
    """Name and folder of the training. Errors: ConfigError for a folder of something else."""
    origin = wanted.document.get("provenance") or {}
    name = _name(origin.get("study")) or wanted.name
    folder = Folder(options["output"] or Path("trained") / name)
    places.refuse_strangers(folder, "--output")
    return name, folder


def _study(
    wanted: SearchSpace, options: dict, name: str, folder: Folder, say: Callable[[str], Any]
) -> Study:
    """The training in the folder, which is ours alone by now, or a new one. say: prints a line,
    where other code goes on with it. Errors: ConfigError when it holds another config."""
    origin = wanted.document.get("provenance") or {}
    if not records.is_study(folder):
        study = Study(
            name=name,
            kind="training",
            space=copy.deepcopy(wanted.document),
            space_name=wanted.name,
            **provenance.code(),
            folder=folder,
        )
    else:
        study = records.load(folder)
        changed = differences({"trial": study.space["trial"]}, {"trial": wanted.document["trial"]})
        if changed or study.kind != "training":
            problem = f"{folder.uri} holds another training; give another --output"
            raise ConfigError("--output", [problem, *changed])
        final.refuse_seeds_of_search(study, wanted.document)
        provenance.note_changes(study, say)
        places.tell_apart(study, say)
        study.space["provenance"] = origin or study.space.get("provenance")
    study.tracking_uri = options["tracking_uri"] or study.tracking_uri or default_uri()
    study.tracking_uri = absolute(study.tracking_uri)
    return study


def _taught(wanted: SearchSpace) -> set[str | None]:
    """What `method.teacher` is in the config and in those that it is compared with."""
    return teachers.named(wanted) | teachers.asked(wanted.compare.values())


def _look(study: Study, wanted: SearchSpace, is_alone: bool) -> tuple[int, int]:
    """Looks at the images and at the teachers; returns the size of a batch and how many images
    there are to train on. is_alone: whether this machine trains, else it keeps no images. Errors:
    ConfigError."""
    sets = preflight.load_data(wanted.fixed, final=True)
    _same_images(study, sets.fingerprint())
    teachers.check(_taught(wanted), sets, study.folder, study.tracking_uri)
    if not is_alone:
        data.forget()
    return sets.batch_size, len(sets.train)


def _same_images(study: Study, fingerprint: str) -> None:
    """Errors: ConfigError when the seeds that are there were trained on others."""
    if study.data.setdefault("fingerprint", fingerprint) != fingerprint:
        problem = f"images or labels have changed since {study.folder.uri} was begun"
        raise ConfigError("--output", [f"{problem}; give another --output"])


def _what(chosen: list[Record], wanted: SearchSpace, count: int) -> str:
    """What is trained, so that nobody wonders at the time that it takes."""
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    beside = [f"as many of {name}" for name in wanted.compare]
    taught = sum(record.role == records.TEACHER for record in chosen)
    if taught:
        beside.append("1 teacher" if taught == 1 else f"{taught} teachers")
    return ", ".join([f"{seeds} of {wanted.fixed['epochs']} epochs", *beside])


def _where(left: list[Record], wanted: SearchSpace, room: spread.Room | None) -> str:
    """Where it trains, so that a missing GPU is seen at once and not the next morning."""
    if not left:
        return "nothing left to train"
    if room:
        return room.line
    if _device(wanted).type == "cuda":
        return f"one after the other on {torch.cuda.get_device_name()}"
    why = ""
    if wanted.resources.gpu:
        why = " (resources.gpu asks for a GPU, there is none here)"
    elif torch.cuda.is_available():
        why = " (there is a GPU: --set resources.gpu=1)"
    return f"one after the other on the CPU{why}"


def _device(wanted: SearchSpace) -> torch.device:
    """Of what is trained in this process: the one that the search's trials had."""
    return torch.device("cuda" if wanted.resources.gpu and torch.cuda.is_available() else "cpu")


def _unwritten(study: Study, error: OSError) -> str:
    return f"{study.folder.uri} cannot be written: {first_line(error)}"


def _name(study: object) -> str | None:
    """The name of the study that the config came from, when it can be a folder's."""
    try:
        return flags.study_name(str(study)) if study else None
    except ValueError:
        return None


def _conclude(study: Study, run_id: str, console: Console) -> int:
    """Prints the result and how to use the models. run_id: of MLflow, when it has them."""
    for line in conclusion.lines(study):
        console.print(line)
    finished = conclusion.finished_seeds(study)
    if not finished:
        return NOT_DONE
    key = finished[0].key
    model = Path(study.folder.uri) / MODELS / key
    console.print(
        "use a model on float images [B, C, H, W] in [0, 1]:\n"
        f"  from trainables.shipping import load; model = load({str(model)!r})\n"
        f"  import mlflow; model = mlflow.pytorch.load_model({str(model / 'mlflow')!r})\n"
        "  # nothing is unpickled with MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false in the environment"
    )
    if run_id:
        console.print(f"in MLflow, {study.tracking_uri}: runs:/{run_id}/{MODELS}/{key}")
    return 0


if __name__ == "__main__":
    run(main)
