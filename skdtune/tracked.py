"""Finds a study on an MLflow server and reads it back."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from skdtune import records
from skdtune.records import Record, Study
from skdtune.tracking_uri import database
from trainables import metrics

EXPERIMENT = "skdtune"
STUDY_ID = "skdtune.study_id"
STUDY, KIND, TRIAL = "skdtune.study", "skdtune.kind", "skdtune.trial"
CONFIG = "skdtune.config"


def exists(uri: str) -> bool:
    """Whether there is anything to read; looking into a database file that is not there makes
    it."""
    path = database(uri)
    return path is None or path.is_file()


def read_study(name: str | None, uri: str) -> Study | None:
    """The newest study of that name on a server, or of all, each trial with its last epoch alone;
    None without one. Errors: MlflowException when the server cannot be reached."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    parents = _parents(client, experiment.experiment_id, name)
    if not parents:
        return None
    # a final training bears the name of the search it came from: the search is what is meant
    searches = [run for run in parents if run.data.tags.get(KIND) == "search"]
    parent = max(searches or parents, key=lambda run: run.info.start_time)
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            run_id=parent.info.run_id, artifact_path="study.json", dst_path=folder, tracking_uri=uri
        )
        study = Study(**json.loads(Path(path).read_text()), tracking_uri=uri)
    runs = search(client, [experiment.experiment_id], f"tags.`{STUDY_ID}` = '{study.id}'")
    for run in runs:
        if TRIAL in run.data.tags:
            record = _record(run)
            study.records[record.key] = record
    study.records = dict(sorted(study.records.items()))
    return study


def _parents(client: MlflowClient, experiment: str, name: str | None) -> list[Run]:
    """The runs that are studies of that name, or searches of any."""
    if name is None:
        return list(search(client, [experiment], f"tags.`{KIND}` = 'search'"))
    # a filter cannot hold a quote: any one character in its place, then the whole name is compared
    like = name.replace("'", "_")
    found = search(client, [experiment], f"tags.`{STUDY}` LIKE '{like}'")
    return [run for run in found if TRIAL not in run.data.tags and run.data.tags[STUDY] == name]


def search(client: MlflowClient, experiments: list[str], query: str) -> Iterator[Run]:
    """Every run that the query finds, page by page."""
    token = None
    while True:
        page = client.search_runs(experiments, query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _record(run: Run) -> Record:
    tags, last = run.data.tags, dict(run.data.metrics)
    if last:
        last[metrics.EPOCH] = int(last[metrics.EPOCH])
    return Record(
        key=tags[TRIAL],
        role=tags["skdtune.role"],
        params=json.loads(tags["skdtune.params"]),
        config=json.loads(tags[CONFIG]),
        status=tags.get("skdtune.outcome", records.RUNNING),
        epochs=[last] if last else [],
        error=tags.get("skdtune.error", ""),
        host=tags.get("skdtune.node", ""),
        device=tags.get("skdtune.device", ""),
        teacher=tags.get("skdtune.teacher", ""),
        repeats=tags.get("skdtune.repeats", ""),
    )
