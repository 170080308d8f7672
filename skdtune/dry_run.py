"""`--check`: what a search would do, as a table; nothing is trained."""

from rich.console import Console
from rich.table import Table

from skdtune import cluster, distributions, nodes, preflight, teachers
from skdtune.plan import Plan, add_references, is_beside
from skdtune.records import Study
from skdtune.request import Request
from skdtune.space import SearchSpace
from trainables import models


def show(request: Request, address: str, console: Console) -> None:
    """Prints what a search would do, or go on with; nothing is trained or written. Errors: as the
    search would have."""
    space = request.space
    facts = preflight.data_facts(space, request.folder)
    if address != cluster.LOCAL:
        cluster.connect(address)
    wanted = request.options["concurrency"]
    resources, slots, note = nodes.prepare(space, request.folder, facts, address, wanted)
    study = request.old or Study("", "search", space.document, space.name)
    if request.old is None:
        add_references(study, space)
    beside = sum(is_beside(record) for record in study.records.values())
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
        "trials": f"{Plan(study, space).total} ({space.search.trials} searched, {beside} baseline)",
        "epochs": f"{config['epochs']} a trial, {_scheduler(space)}",
        "objective": f"{space.search.mode} {space.search.metric}, by {space.search.sampler.name}",
        "resources": f"{resources.cpu:g} CPU, {resources.gpu:g} GPU a trial, {slots.now()} at once",
    }
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
    for line in (note, preflight.batch_note(facts["batch_size"], facts["train"])):
        if line:
            console.print(line)


def _scheduler(space: SearchSpace) -> str:
    chosen = space.search.scheduler
    if chosen.name == "none":
        return "none stopped early"
    share = f"1 in {chosen.reduction_factor:g} goes on"
    return f"stopped early by ASHA from epoch {chosen.grace_period} on ({share})"
