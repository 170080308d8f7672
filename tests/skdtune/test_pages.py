"""What a person sees of a study in the MLflow UI, in a real browser."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skdtune import pages, records
from skdtune.formats import cells, summary
from skdtune.leaderboard import rank
from skdtune.records import Study
from skdtune.tracking import Mirror
from tests.skdtune.builders import build_space, curve, end, mixed_study, new_study
from tests.skdtune.proxy import Server


def test_the_address_asks_for_the_trials_of_the_run_best_first(tmp_path):
    study = mixed_study(tmp_path)
    found = pages.trials(study, "7", "abc")
    assert found.startswith("#/experiments/7/runs?workflowType=machine_learning&")
    assert "searchFilter=tags.mlflow.parentRunId%20%3D%20%27abc%27" in found
    assert found.endswith("orderByKey=metrics.%60val%2Faccuracy%60&orderByAsc=false")
    study.space["search"]["metric"] = "val/loss"
    assert pages.trials(study, "7", "abc").endswith("val%2Floss%60&orderByAsc=true")


def test_the_description_is_the_summary_and_the_best_ten(tmp_path):
    study = mixed_study(tmp_path)
    text = pages.description(study, "7", "abc", {"0002": "of-2"})
    board = rank(study)
    for line in summary(board):
        assert f"- {' '.join(line.split())}\n" in text
    assert f"({pages.trials(study, '7', 'abc')})" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(board.rows)
    by_key = {row.key: table[place] for place, row in enumerate(board.rows, start=2)}
    link = "[0002](#/experiments/7/runs/of-2?workflowType=machine_learning)"
    assert f"| {link} |  | finished | 4/4 |" in by_key["0002"]
    assert "| 0001 | baseline | finished |" in by_key["0001"]
    assert len({line.count("|") for line in table}) == 1


def test_a_description_fits_into_a_tag_whatever_it_holds(tmp_path):
    study = new_study(tmp_path, build_space(), "n|ight")
    for record in list(study.records.values()):
        record.params = {f"method/{'x' * 200}{index}": "a|b" for index in range(5)}
        end(record, records.FINISHED, curve(1))
    for number in range(2, 30):
        study.records[f"{number:04d}"] = records.Record(
            f"{number:04d}", records.SEARCH, record.params, record.config
        )
        end(study.records[f"{number:04d}"], records.FINISHED, curve(number))
    text = pages.description(study, "7", "abc", dict.fromkeys(study.records, "f" * 32))
    assert len(text) < 8000
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert 2 < len(rows) <= 10
    assert "a\\|b" in rows[0]


def test_what_a_person_wrote_stays_and_nothing_in_a_value_is_markdown(tmp_path):
    study = mixed_study(tmp_path)
    for record in study.records.values():
        record.params = {"method/teacher": "a\nb | *c* <b>"}
    text = pages.description(study, "7", "abc", {})
    assert "method/teacher a b \\| \\*c\\* \\<b\\> |" in text
    assert pages.is_ours(text)
    assert not pages.is_ours("my own notes")


Shown = Callable[[str], str]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return mixed_study(tmp_path_factory.mktemp("study"), "night")


@pytest.fixture(scope="module")
def mirror(study: Study, tmp_path_factory) -> Iterator[Mirror]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        found = Mirror(study, server.uri)
        found.push(live=False)
        yield found
    finally:
        server.kill()


@pytest.fixture
def shown(mirror: Mirror, tmp_path: Path) -> Shown:
    """The page at a place of the UI once it has come to rest, as HTML."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed; .ci/run installs it")

    def show(place: str) -> str:
        return subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                "--disable-dev-shm-usage",  # a container's may be too small
                *(f"--user-data-dir={tmp_path}", "--window-size=2000,2500"),
                *("--virtual-time-budget=60000", f"{mirror.uri}/{place}"),
            ],
            capture_output=True,
            text=True,
            timeout=150,
            check=True,
        ).stdout

    return show


@pytest.mark.slow
def test_the_browser_shows_the_trials_ranked_and_their_curves(study, mirror, shown: Shown):
    page = shown(pages.trials(study, mirror.experiment, mirror.parent))
    names = re.findall(r">(trial \d{4}[^<]*)<", page)
    board = rank(study)
    named = [" ".join(["trial", row.key, cells(board, row)[2]]).strip() for row in board.rows]
    assert set(named) <= set(names)
    whole = [
        name for row, name in zip(rank(study).rows, named, strict=True) if row.gain is not None
    ]
    assert len(whole) == 3
    assert [name for name in dict.fromkeys(names) if name in whole] == whole
    assert "val/accuracy" in page
    assert "loss/ce" in page


@pytest.mark.slow
def test_the_studys_own_page_says_what_came_of_it(study, mirror, shown: Shown):
    page = shown(f"#/experiments/{mirror.experiment}/runs/{mirror.parent}")
    winner = rank(study).winner
    assert f"winner: trial {winner.key} val/accuracy {winner.score:.4f}" in page
    assert re.search(rf'<a[^>]*href="#/[^"]*{mirror.children[winner.key].run_id}', page)
    assert "all trials as curves" in page
