"""Mirrors of studies for tests: one is pushed to MLflow, looked at there, and read back."""

import json

from skdtune import formats, leaderboard
from skdtune.records import Study
from skdtune.tracked import read_study
from skdtune.tracking import Mirror
from tests.skdtune.builders import server_content


def push(study: Study, uri: str, live: bool = False) -> Mirror:
    mirror = Mirror(study, uri)
    mirror.push(live=live)
    return mirror


def parent_and_children(uri: str, study: Study) -> tuple[dict, dict[str, dict]]:
    content = server_content(uri, study).values()
    (parent,) = [run for run in content if "skdtune.trial" not in run["tags"]]
    children = {run["tags"]["skdtune.trial"]: run for run in content if run is not parent}
    assert len(children) == len(content) - 1
    return parent, children


def without_times(board: leaderboard.Board) -> dict:
    content = json.loads(formats.as_json(board))
    for trial in content["trials"]:
        trial["metrics"].pop("timestamp_s", None)
    return content


def read_study_of(study: Study, uri: str) -> Study:
    """The study by its name, which other tests of the same file use too: it is the newest."""
    found = read_study(study.name, uri)
    assert found is not None
    assert found.id == study.id
    return found
