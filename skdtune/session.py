"""Runs a study from its first trial to its last, or from wherever it was left."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from rich.console import Console

from skdtune import (
    cluster,
    export,
    lock,
    mps,
    nodes,
    places,
    preflight,
    provenance,
    records,
    signals,
    teachers,
    tuning,
)
from skdtune.capacity import Slots
from skdtune.differences import refuse_changes
from skdtune.errors import ConfigError, first_line
from skdtune.interrupt import Interrupt
from skdtune.leaderboard import rank
from skdtune.plan import Plan, add_references
from skdtune.records import Study
from skdtune.request import Request
from skdtune.settings import Resources
from skdtune.space import SearchSpace
from skdtune.uploader import Uploader
from skdtune.writer import Writer

BEST = "best.yaml"
_MLFLOW_PATIENCE_S = 30.0  # at the end, for what it has not taken yet


@dataclass(frozen=True)
class Ending:
    """study: as it stands now. stopped: why it did not come to its end, empty when it did. signal:
    that stopped it. mirrored: MLflow has all of it. for_good: it cannot be gone on with."""

    study: Study
    stopped: str
    signal: int | None
    mirrored: bool
    seconds: float
    for_good: bool = False


def run(request: Request, console: Console) -> Ending:
    """Runs what is left of the study and returns when it is done or stopped; all of it is on
    disk then.

    Errors: ConfigError before anything is trained or written (no such data, a study of that name
    that lives, a changed space, no room for a trial)."""
    started = time.monotonic()
    uri = request.tracking_uri
    address = cluster.where(request.options["address"])
    facts = preflight.data_facts(request.space, request.folder, uri)
    shares = address == cluster.LOCAL and 0 < request.space.resources.gpu < 1
    with signals.deferred(), lock.held(request.folder, request.name), mps.serving(shares) as served:
        if request.old is None:
            study = _new(request, facts)
        else:
            study = _resumed(request, facts, console.print)
        study.tracking_uri = uri
        cluster.connect(address)
        try:
            resources, slots, note = nodes.prepare(
                request.space,
                request.folder,
                facts["fingerprint"],
                address,
                request.options["concurrency"],
                console.print,
            )
            with contextlib.closing(slots):
                plan = Plan(study, request.space, resources)
                said = preflight.notes(facts, request.folder, slots.now(), plan.to_come)
                signals.check()  # from here on there is a study to go on with
                _write(study, request.space, new=request.old is None)
                sharing = mps.note(served) if shares and 0 < resources.gpu < 1 else ""
                said = [*_headline(plan, slots.now(), address), note, sharing, *said]
                for line in [*said, *request.warm.lines, *request.space.moved()]:
                    if line:
                        console.print(line)
                interrupt, mirrored = _search(plan, resources, slots, console)
        finally:
            cluster.disconnect()
    is_done = not study.unfinished and Plan(study, request.space, resources).is_done
    stopped = "" if is_done else interrupt.reason
    return Ending(
        study=study,
        stopped=stopped or interrupt.failure,
        signal=interrupt.signal,
        mirrored=mirrored,
        seconds=time.monotonic() - started,
        for_good=interrupt.for_good,
    )


def _search(
    plan: Plan, resources: Resources, slots: Slots, console: Console
) -> tuple[Interrupt, bool]:
    """Runs the plan, behind the teacher that it may need, and closes all that was opened for it,
    whatever happens."""
    study = plan.study
    interrupt = Interrupt()
    writer, uploader = Writer(study), Uploader(study, study.tracking_uri, console.print)
    try:
        if None in teachers.named(plan.space) and not teachers.has_own(study.folder):
            baseline = Plan(study, plan.space, resources, only=records.BASELINE)
            tuning.run(baseline, resources, slots, writer, interrupt, console)
            if not interrupt.reason:
                teachers.take_baseline(study)
                plan = Plan(study, plan.space, resources)
        if not interrupt.reason:
            tuning.run(plan, resources, slots, writer, interrupt, console)
    except teachers.NoTeacher as error:
        interrupt.fail(str(error), error.for_good)
    except OSError as error:
        interrupt.fail(f"the search cannot go on: {first_line(error)}")
    except (tune.TuneError, ray.exceptions.RayError) as error:
        interrupt.fail(f"Ray Tune gave up: {first_line(error)}")
    finally:
        slots.close()
        cluster.disconnect()
        try:
            _close(study, writer)
        except OSError as error:
            interrupt.fail(f"the study cannot be written: {error}")
        was_stopped = interrupt.signal is not None
        mirrored = uploader.close(
            _MLFLOW_PATIENCE_S, give_up=lambda: not was_stopped and interrupt.signal is not None
        )
    return interrupt, mirrored


def _new(request: Request, facts: dict[str, Any]) -> Study:
    if records.is_study(request.folder):  # made since the request was read
        raise ConfigError(
            f"study {request.name}", ["it exists; add --resume, or give another --name"]
        )
    study = Study(
        name=request.name,
        kind="search",
        space=request.space.document,
        space_name=request.space.name,
        **provenance.code(),
        data=facts,
        folder=request.folder,
    )
    add_references(study, request.space, request.warm.settings)
    return study


def _resumed(request: Request, facts: dict[str, Any], say: Callable[[str], Any]) -> Study:
    """The study as it is now. say: prints a line, where other code goes on with it. Errors:
    ConfigError with every difference that would mix two searches."""
    study = records.load(request.folder)
    refuse_changes(study, request.space.document, facts)
    study.space = request.space.document
    provenance.note_changes(study, say)
    places.tell_apart(study, say)
    for record in study.records.values():
        record.retry()
    return study


def _write(study: Study, space: SearchSpace, new: bool) -> None:
    """Teachers and records first: a study whose own file is there is complete."""
    try:
        if new:
            places.begin(study.folder)
        teachers.bring(teachers.named(space), study.folder, study.tracking_uri)
        for record in study.unfinished:
            study.save_record(record)
        study.save()
        places.complete(study.folder)  # a resume too: the start may have been killed here
    except OSError as error:
        raise ConfigError("--storage", [f"{study.folder.uri} cannot be written: {error}"]) from None


def _close(study: Study, writer: Writer) -> None:
    """Errors: OSError."""
    writer.close()
    if rank(study).winner is not None:
        study.folder.write(BEST, export.text(study).encode())


def _headline(plan: Plan, concurrent: int, address: str) -> list[str]:
    ended = plan.total + plan.repeats_to_come - plan.to_come
    left = f", {ended} of them ended" if ended else ""
    where = "this machine" if address == cluster.LOCAL else cluster.joined()
    return [
        f"study {plan.study.name}: {plan.total} trials{left}, {plan.space.fixed['epochs']} epochs, "
        f"{concurrent} at a time on {where}",
        f"records in {plan.study.folder.uri}, mirrored to MLflow at {plan.study.tracking_uri}",
    ]
