"""`--check`: what a search would do, as a table; no trial is run."""

import os

import torch
from rich.console import Console
from rich.table import Table

from skdtune import cluster, distributions, mps, nodes, preflight, teachers
from skdtune.differences import refuse_changes
from skdtune.plan import Plan, add_references
from skdtune.records import Study
from skdtune.request import Request
from skdtune.space import BASELINE_METHOD, SearchSpace
from trainables import calibration, models
from trainables.calibration import Load
from trainables.images import LARGEST_SMALL


def show(request: Request, address: str, console: Console) -> None:
    """Prints what a search would do, or go on with, and how many trials to give a GPU; no trial is
    run, nothing written. Errors: as the search would have."""
    space = request.space
    facts = preflight.data_facts(space, request.folder, request.tracking_uri)
    preflight.writable(request.folder)
    if request.old is not None:
        refuse_changes(request.old, space.document, facts)
    if address != cluster.LOCAL:
        cluster.connect(address)
    wanted = request.options["concurrency"]
    resources, slots, note = nodes.prepare(
        space, request.folder, facts["fingerprint"], address, wanted, console.print, wait=False
    )
    study = request.old or Study("", "search", space.document, space.name)
    if request.old is None:
        add_references(study, space, request.warm.settings)
    again = sum(bool(record.repeats) for record in study.records.values())
    beside = sum(record.is_beside for record in study.records.values()) - again
    study.space = space.document
    plan = Plan(study, space)
    config = next(iter(study.records.values())).config
    model = models.build(classes=facts["classes"], image_shape=facts["image"], **config["model"])
    weights = sum(parameter.numel() for parameter in model.parameters())

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    images = "x".join(map(str, facts["image"]))
    rows = {
        "space": space.name,
        "data": f"{facts['name']}: {facts['train']} to train on, {facts['validation']} for "
        f"validation, {facts['classes']} classes, {images}",
        "model": f"{config['model']['name']}, {weights:,} parameters",
        "method": config["method"]["name"],
        "trials": f"{plan.total - again} ({space.search.trials} searched, {beside} baseline)",
        "epochs": f"{config['epochs']} a trial, {_scheduler(space)}",
        "objective": f"{space.search.mode} {space.search.metric}, by {space.search.sampler.name}",
        "resources": f"{resources.cpu:g} CPU, {resources.gpu:g} GPU a trial, {slots.now()} at once",
    }
    asked = space.search.finalists
    if asked:
        more = "1 more seed" if asked.seeds == 1 else f"{asked.seeds} more seeds"
        rows["finalists"] = (
            f"the best {asked.trials}, the baseline and the first trial with {more} each: at most "
            f"{plan.repeats_to_come} trainings"
        )
    named = teachers.named(space)
    if named:
        own = "the baseline, trained first"
        rows["teacher"] = ", ".join(sorted(own if name is None else name for name in named))
    for label, value in rows.items():
        table.add_row(label, value)
    for path, parameter in space.parameters.items():
        only = "".join(
            f", when {p} is {' or '.join(map(str, v))}" for p, v in parameter.when.items()
        )
        table.add_row(path, distributions.describe(parameter.distribution) + only)
    console.print(table)
    said = preflight.notes(facts, request.folder, slots.now(), plan.to_come)
    for line in (note, *said, *request.warm.lines, *space.moved()):
        if line:
            console.print(line)
    if resources.gpu and address == cluster.LOCAL:
        done = sum(r.config["epochs"] if r.has_ended else r.epoch for r in study.records.values())
        epochs = (plan.total + plan.repeats_to_come) * config["epochs"] - done
        _measure(config, facts, epochs * facts["train"], _together(resources.cpu), console)


def _together(cpu: float) -> list[int]:
    """How many trials at once this machine has the CPUs for, of the numbers that are measured."""
    return [count for count in calibration.TOGETHER if count <= max(1, os.cpu_count() // cpu)]


def _measure(config: dict, facts: dict, images: int, together: list[int], console: Console) -> None:
    """Prints how many trials to give a GPU. images: see `advice`."""
    if max(facts["image"]) > LARGEST_SMALL:
        console.print("how many trials to give a GPU is not measured for images read from files")
        return
    if teachers.are_used(config):
        config = {**config, "method": {"name": BASELINE_METHOD}}
    console.print("several trials on one GPU, measured for 20 seconds ...")
    with mps.serving(True) as served:
        device = torch.device("cuda")
        loads = calibration.measure(config, facts["classes"], facts["image"], device, together)
        for line in (*advice(loads, images), mps.note(served)):
            console.print(line)


def advice(loads: list[Load], images: int) -> list[str]:
    """What was measured, a line a number of trials, what to set, and what the search comes to.
    images: that all trials together still train on when none is stopped early."""
    lines = []
    for load in loads:
        what = f"  {load.trials} at once: "
        if load.problem:
            lines.append(f"{what}{load.problem}")
        else:
            speed = f"{load.images_per_s:,.0f} images/s in sum, {load.memory_gib:.1f} GiB"
            lines.append(what + speed)
    if all(load.problem for load in loads):
        return lines
    best = calibration.best(loads)
    hours = images / best.images_per_s / 3600
    return [
        *lines,
        f"recommended: --set resources.gpu={1 / best.trials:g}",
        f"the steps of all trials, none stopped early, then take about {hours:,.1f} GPU-hours",
    ]


def _scheduler(space: SearchSpace) -> str:
    chosen = space.search.scheduler
    if chosen.name == "none":
        return "none stopped early"
    share = f"1 in {chosen.reduction_factor:g} goes on"
    return f"stopped early by ASHA from epoch {chosen.grace_period} on ({share})"
