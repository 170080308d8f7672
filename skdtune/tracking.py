"""Makes an MLflow server equal to a study's records, as often as wanted, from scratch or going
on."""

import dataclasses
import getpass
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from skdtune import pages, records
from skdtune.artifacts import study_files
from skdtune.leaderboard import LABELS, rank
from skdtune.records import Record, Study
from skdtune.strict_yaml import dump
from skdtune.tracked import CONFIG, EXPERIMENT, KIND, STUDY, STUDY_ID, TRIAL, search
from skdtune.tracking_uri import database
from trainables import metrics

_MIRRORED = "skdtune.mirrored"
_PARENT = "mlflow.parentRunId"
_DESCRIPTION = "mlflow.note.content"  # which the UI shows
_DESCRIBE_EVERY_S = 60.0
_STATUS = {
    records.FINISHED: "FINISHED",
    records.STOPPED: "FINISHED",
    records.DIVERGED: "FAILED",
    records.FAILED: "FAILED",
}
_REFUSED = 400  # by what it is, not by the state that the server is in
_MOST_ENTITIES, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000


class _Child:
    """What is known of a trial's run on the server. mark: up to where it is complete. config: of
    its trial, cut off where MLflow cuts a long tag off."""

    def __init__(self, run: Run):
        self.run_id, self.artifacts = run.info.run_id, run.info.artifact_uri
        self.mark, self.status = run.data.tags.get(_MIRRORED, ""), run.info.status
        self.config = run.data.tags.get(CONFIG, "")

    def is_of(self, record: Record) -> bool:
        """Whether it is of the trial that has its key now: the key of a record that never reached
        the disk is given anew."""
        return json.dumps(record.config).startswith(self.config)


class Mirror:
    """The runs of one study: a parent, and a child a trial, found by tags before any is made.

    Every write can be repeated without effect: metrics carry their own time, parameters never
    change. A child's `skdtune.mirrored` tag, the last that one `log_batch` writes, says up to
    where it is complete; its status follows.
    """

    def __init__(self, study: Study, uri: str):
        self.study = study
        self.client = MlflowClient(tracking_uri=uri)
        self.uri = uri
        self.experiment = self.parent = ""
        self.children: dict[str, _Child] = {}
        self._described = time.monotonic()

    def push(self, live: bool) -> None:
        """Brings the server up to date. live: the study is running; else nothing of it is left
        RUNNING. Errors: MlflowException and OSError when the server cannot be reached, push again
        later; MlflowException, behind all else, for what the server refuses."""
        if not self.parent:
            self._find_runs(live)
        refused = None
        for record in list(self.study.records.values()):
            try:
                if record.attempts:
                    self._push_trial(record, live)
            except MlflowException as error:
                if error.get_http_status_code() != _REFUSED:  # the next one would fare no better
                    raise
                refused = refused or error
        if not live:
            self._find_runs(live)  # an answer that was lost on the way has left a second run behind
            self._close()
        elif time.monotonic() > self._described + _DESCRIBE_EVERY_S:
            self._describe()
        if refused:
            raise refused

    def _find_runs(self, live: bool) -> None:
        experiment = _experiment(self.client, self.uri)
        runs = list(search(self.client, [experiment], f"tags.`{STUDY_ID}` = '{self.study.id}'"))
        in_use = {self.parent, *(child.run_id for child in self.children.values())}
        runs.sort(
            key=lambda run: (
                run.info.run_id not in in_use,
                _MIRRORED not in run.data.tags,
                run.info.start_time,
                run.info.run_id,
            )
        )
        kept: dict[str, Run] = {}
        for run in runs:
            key = run.data.tags.get(TRIAL, "")
            record = self.study.records.get(key)
            is_other = record is not None and not _Child(run).is_of(record)
            if key in kept or is_other:  # the former: an answer was lost, the run made again
                self.client.delete_run(run.info.run_id)
            else:
                kept[key] = run
        if "" not in kept:
            kept[""] = self._create(
                experiment, self.study.name, self.study.created, self._study_tags()
            )
        parent = kept.pop("").info.run_id
        if parent != self.parent:
            self.client.log_dict(parent, _about(self.study), "study.json")
            self.client.log_text(parent, dump(self.study.space), "space.yaml")
        for run in kept.values():
            if run.data.tags.get(_PARENT) != parent:  # it hung below a run made twice
                self.client.set_tag(run.info.run_id, _PARENT, parent)
        if live:
            self.client.update_run(parent, status="RUNNING")
        self.experiment, self.parent = experiment, parent
        self.children = {key: _Child(run) for key, run in kept.items()}

    def _push_trial(self, record: Record, live: bool) -> None:
        status = _STATUS.get(record.status, "RUNNING" if live else "KILLED")
        epochs = list(record.epochs)
        child = self.children.get(record.key)
        if child is not None and not child.is_of(record):
            self.client.delete_run(child.run_id)
            child = None
        if child is None:
            tags = self._trial_tags(record)
            run = self._create(self.experiment, self._name(record), record.started, tags)
            child = self.children[record.key] = _Child(run)
        known = int((child.mark or "0").split()[0])  # more than a disk that could not be written
        count = max(known, len(epochs))
        mark = f"{count} epochs, attempt {record.attempts}, {record.status}, {status}"
        if child.mark != mark:
            params = []
            if not child.mark:
                self._write(child, dump(record.config), "config.yaml")
                params = _params(record.config)
            points = [point for report in epochs[known:] for point in _points(report)]
            tags = {"skdtune.outcome": record.status, "skdtune.attempts": record.attempts}
            tags |= {"skdtune.node": record.host, "skdtune.device": record.device}
            tags["skdtune.error"] = record.error[:5000]
            self._log(child.run_id, points, params, {**tags, _MIRRORED: mark})
            child.mark = mark
        if child.status != status:
            if status == "RUNNING":
                self.client.update_run(child.run_id, status=status)
            else:
                ended = record.ended or record.last.get(metrics.TIMESTAMP) or record.started
                self.client.set_terminated(child.run_id, status, end_time=int(ended * 1000))
            child.status = status

    def _log(self, run_id: str, points: list[Metric], params: list[Param], tags: dict) -> None:
        """In one request, unless that is more than one may hold; the tags are written last."""
        *more, params = _slices(params, _MOST_PARAMS) or [[]]
        for part in more:
            self.client.log_batch(run_id, params=part)
        *early, points = _slices(points, _MOST_ENTITIES - _MOST_PARAMS - len(tags)) or [[]]
        for part in early:
            self.client.log_batch(run_id, metrics=part)
        written = [RunTag(key, _writable(value)) for key, value in tags.items()]
        self.client.log_batch(run_id, metrics=points, params=params, tags=written)

    def _write(self, child: _Child, text: str, name: str) -> None:
        """An artifact, where the run is known to keep them: MLflow's client would ask again."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_text(text, encoding="utf-8")
            get_artifact_repository(child.artifacts, self.uri).log_artifact(str(path))

    def _describe(self) -> None:
        """Unless a person has written something there."""
        self._described = time.monotonic()
        there = self.client.get_run(self.parent).data.tags.get(_DESCRIPTION, "")
        if there and not pages.is_ours(there):
            return
        runs = {key: child.run_id for key, child in self.children.items()}
        now = dataclasses.replace(self.study, records=dict(self.study.records))  # it goes on
        text = pages.description(now, self.experiment, self.parent, runs)
        self.client.set_tag(self.parent, _DESCRIPTION, _writable(text))

    def _close(self) -> None:
        """The study's own files, then its status."""
        for key in self.children.keys() - self.study.records.keys():  # whose record was lost
            self.client.set_terminated(self.children[key].run_id, "KILLED")
        self._describe()
        with tempfile.TemporaryDirectory() as folder:
            study_files(self.study, Path(folder))
            self.client.log_artifacts(self.parent, folder)
        for tag, value in _summary(self.study).items():
            self.client.set_tag(self.parent, tag, value)
        statuses = [record.status for record in self.study.records.values()]
        ended = max(
            (r.ended or r.last.get(metrics.TIMESTAMP, 0) for r in self.study.records.values()),
            default=0,
        )
        if self.study.unfinished:
            status = "KILLED"
        else:
            status = "FINISHED" if records.FINISHED in statuses else "FAILED"
        self.client.set_terminated(self.parent, status, end_time=int(ended * 1000))

    def _create(self, experiment: str, name: str, started: float, tags: dict[str, Any]) -> Run:
        common = {
            STUDY_ID: self.study.id,
            STUDY: self.study.name,
            "skdtune.space": self.study.space_name,
            "mlflow.user": _user(),
            "mlflow.source.name": f"skdtune.{'search' if self.study.kind == 'search' else 'train'}",
            "mlflow.source.type": "LOCAL",
        }
        if self.study.commit:
            common["mlflow.source.git.commit"] = self.study.commit
        return self.client.create_run(experiment, int(started * 1000), {**common, **tags}, name)

    def _name(self, record: Record) -> str:
        """Of its run, in tables and beside curves."""
        if self.study.kind != "search":
            return record.key
        if record.repeats:
            return f"trial {record.key} repeats {record.repeats}, seed {record.seed}"
        return f"trial {record.key} {LABELS.get(record.role, '')}".strip()

    def _study_tags(self) -> dict[str, str]:
        origin = self.study.space.get("provenance") or {}
        linked = {
            f"skdtune.from_{key}": str(origin[key])
            for key in ("study", "study_id", "trial")
            if key in origin
        }
        return {KIND: self.study.kind, **linked}

    def _trial_tags(self, record: Record) -> dict[str, str]:
        other = {"skdtune.teacher": record.teacher, "skdtune.repeats": record.repeats}
        return {
            **{tag: key for tag, key in other.items() if key},
            KIND: "trial" if self.study.kind == "search" else record.role,
            TRIAL: record.key,
            _PARENT: self.parent,
            "skdtune.role": record.role,
            "skdtune.method": record.config["method"]["name"],
            CONFIG: json.dumps(record.config),
            "skdtune.params": json.dumps(record.params),
        }


def _user() -> str:
    """Who runs this; a container's user often has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _experiment(client: MlflowClient, uri: str) -> str:
    """The id of our experiment, made when there is none; another process may make it at the same
    time."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        path, place = database(uri), None
        if path is not None:  # else MLflow keeps artifacts below the working folder
            place = (path.absolute().parent / "mlartifacts").as_uri()
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=place)
        except MlflowException:
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return found.experiment_id


def _about(study: Study) -> dict:
    return {
        name: getattr(study, name)
        for name in (
            "name",
            "kind",
            "space",
            "space_name",
            "id",
            "created",
            "versions",
            "commit",
            "data",
        )
    }


def _summary(study: Study) -> dict[str, str]:
    board = rank(study)
    if study.kind != "search" or board.winner is None:
        return {}
    score = f"{board.metric} {board.winner.value:.4f}"
    return {"skdtune.winner": board.winner.key, "skdtune.search_score": score}


def _points(report: dict[str, float]) -> list[Metric]:
    time_ms, step = int(report[metrics.TIMESTAMP] * 1000), int(report[metrics.EPOCH])
    return [
        Metric(name, value, time_ms, step)
        for name, value in report.items()
        if name != metrics.TIMESTAMP
    ]


def _params(config: dict) -> list[Param]:
    """A trial's config by `section/key`; the whole of it is in config.yaml."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        inside = value if isinstance(value, dict) else {"": value}
        flat |= {f"{section}/{key}" if key else section: item for key, item in inside.items()}
    return [Param(path, _writable(value)[:_LONGEST_PARAM]) for path, value in flat.items()]


def _writable(value: object) -> str:
    """As text that any database takes, which half a surrogate pair in a file's name is not, nor a
    NUL, which PostgreSQL refuses."""
    return str(value).encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _slices(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
