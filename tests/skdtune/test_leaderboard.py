"""The order of a study's trials, its winner, and what each output says."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from skdtune import conclusion, export, final, finding, formats, leaderboard, records
from skdtune.errors import ConfigError
from skdtune.leaderboard import Board, rank
from skdtune.plan import Plan
from skdtune.records import Study
from tests.skdtune import builders
from tests.skdtune.test_final import CONFIG
from trainables import metrics
from trainables.storage import Folder

EPOCHS = 4
GREATER, LESS = "val/accuracy", "val/loss"


def study_of(metric: str = GREATER, **trials: tuple) -> Study:
    """A study of trials `key=(role, status, [score of each epoch], {other last metrics})`; the
    epochs are as many as there are scores."""
    study = Study("tiny", "search", {"search": {"metric": metric}}, "tiny")
    for key, (role, status, scores, *more) in trials.items():
        epochs = [builders.report(epoch, 0.5) | {metric: s} for epoch, s in enumerate(scores, 1)]
        if epochs and more:
            epochs[-1] |= more[0]
        params = {} if role == records.BASELINE else {"method/alpha": len(key) / 10}
        config = {"epochs": EPOCHS, "method": {"name": "drg_dsr"}}
        study.records[key] = records.Record(key, role, params, config)
        builders.end(study.records[key], status, epochs)
    return study


def order(board: Board) -> list[str]:
    return [row.key for row in board.rows]


S, D, B = records.SEARCH, records.DEFAULT, records.BASELINE
DONE, STOPPED = records.FINISHED, records.STOPPED
DIVERGED, FAILED = records.DIVERGED, records.FAILED
RUNNING, PENDING, INTERRUPTED = records.RUNNING, records.PENDING, records.INTERRUPTED


def test_finished_trials_rank_by_their_last_epoch_and_never_by_their_best() -> None:
    study = study_of(
        early=(S, DONE, [0.99, 0.9, 0.5, 0.3]),
        late=(S, DONE, [0.1, 0.1, 0.1, 0.4]),
        middle=(S, DONE, [0.2, 0.35, 0.35, 0.35]),
    )
    board = rank(study)
    assert order(board) == ["late", "middle", "early"]
    assert [row.score for row in board.rows] == [0.4, 0.35, 0.3]
    assert [row.place for row in board.rows] == [1, 2, 3]
    assert board.winner.key == "late"


def test_stopped_trials_follow_by_how_far_they_came_and_the_lost_are_last() -> None:
    study = study_of(
        failed=(S, FAILED, [0.99, 0.99, 0.99]),
        diverged=(S, DIVERGED, [1.0]),
        waiting=(S, PENDING, []),
        short=(S, STOPPED, [0.98]),
        long_worse=(S, STOPPED, [0.1, 0.2]),
        long_better=(S, STOPPED, [0.1, 0.3]),
        running=(S, RUNNING, [0.1, 0.1, 0.1]),
        cut=(S, INTERRUPTED, [0.1, 0.25]),
        done=(S, DONE, [0.0, 0.0, 0.0, 0.05]),
    )
    board = rank(study)
    assert order(board) == [
        *("done", "running", "long_better", "cut", "long_worse", "short"),
        *("diverged", "failed", "waiting"),
    ]
    assert board.winner.key == "done"


def test_a_tie_goes_to_the_lower_validation_loss_and_then_to_the_older() -> None:
    study = study_of(
        c=(S, DONE, [0.5] * 4, {LESS: 0.3}),
        b=(S, DONE, [0.5] * 4, {LESS: 0.2}),
        a=(S, DONE, [0.5] * 4, {LESS: 0.3}),
    )
    assert order(rank(study)) == ["b", "a", "c"]


@pytest.mark.parametrize("metric", ["val/loss", "val/ece"])
def test_a_metric_that_is_better_when_lower(metric: str) -> None:
    study = study_of(
        metric,
        base=(B, DONE, [0.5] * 4),
        good=(S, DONE, [0.9, 0.9, 0.9, 0.2]),
        bad=(S, DONE, [0.1, 0.1, 0.1, 0.8]),
        stopped_bad=(S, STOPPED, [0.4]),
        stopped_good=(S, STOPPED, [0.3]),
    )
    board = rank(study)
    assert order(board) == ["good", "base", "bad", "stopped_good", "stopped_bad"]
    assert [row.gain for row in board.rows] == [
        pytest.approx(0.3),
        0.0,
        pytest.approx(-0.3),
        None,
        None,
    ]


def test_the_order_does_not_depend_on_when_trials_were_recorded() -> None:
    trials = {
        f"{number:04d}": (S, status, [score] * epochs, {LESS: loss})
        for number, (status, score, epochs, loss) in enumerate(
            (status, score, epochs, loss)
            for status in (DONE, STOPPED, FAILED)
            for score in (0.1, 0.2)
            for epochs in (2, 4)
            for loss in (0.5, 0.6)
        )
    }
    expected = order(rank(study_of(**trials)))
    for seed in range(5):
        shuffled = random.Random(seed).sample(sorted(trials), len(trials))
        assert order(rank(study_of(**{key: trials[key] for key in shuffled}))) == expected


def test_gain_is_against_the_baseline_and_only_at_the_full_budget() -> None:
    study = study_of(
        base=(B, DONE, [0.1, 0.1, 0.1, 0.6]),
        best=(S, DONE, [0.7] * 4),
        default=(D, DONE, [0.5] * 4),
        stopped=(S, STOPPED, [0.9]),
    )
    board = rank(study)
    gains = {row.key: row.gain for row in board.rows}
    assert gains == {
        "best": pytest.approx(0.1),
        "base": 0.0,
        "default": pytest.approx(-0.1),
        "stopped": None,
    }
    assert (board.winner.key, board.default.key, board.baseline.key) == ("best", "default", "base")


@pytest.mark.parametrize("status", [STOPPED, FAILED, DIVERGED, RUNNING, PENDING])
def test_without_a_finished_baseline_there_are_no_gains(status: str) -> None:
    scores = [] if status == PENDING else [0.5]
    board = rank(study_of(base=(B, status, scores), best=(S, DONE, [0.7] * 4)))
    assert board.baseline is None
    assert [row.gain for row in board.rows] == [None, None]
    assert board.winner.key == "best"


def test_the_winner_is_neither_stopped_nor_the_baseline_beside() -> None:
    board = rank(
        study_of(
            base=(B, DONE, [0.9] * 4),
            stopped=(S, STOPPED, [0.99] * 3),
            low=(S, DONE, [0.1] * 4),
        )
    )
    assert order(board) == ["base", "low", "stopped"]
    assert board.winner.key == "low"
    assert "no setting beat the baseline" in formats.summary(board)

    board = rank(study_of(base=(B, DONE, [0.9] * 4), stopped=(S, STOPPED, [0.99] * 3)))
    assert board.winner is None
    assert formats.summary(board) == ["no trial of the search has come to its full budget"]


def test_a_baseline_that_is_a_point_of_the_space_may_win(tmp_path: Path) -> None:
    space = builders.build_space(builders.CROSS_ENTROPY)
    study = builders.new_study(tmp_path / "own", space)
    for score, record in zip(
        (0.9, 0.1), [study.records["0000"], Plan(study, space).new({})], strict=True
    ):
        builders.end(record, DONE, [builders.report(4, score)])
    board = rank(study)
    assert board.winner.key == board.baseline.key == "0000"
    lines = formats.summary(board)
    assert "no setting beat the baseline" not in lines
    assert any(line.startswith("baseline:") and "is the winner" in line for line in lines)


def test_the_summary_names_the_difference_to_default_and_baseline() -> None:
    study = study_of(
        best=(S, DONE, [0.75] * 4), base=(B, DONE, [0.5] * 4), default=(D, DONE, [0.625] * 4)
    )
    lines = formats.summary(rank(study))
    assert lines[0].endswith("trial best  val/accuracy 0.7500")
    assert lines[1].endswith("trial default  val/accuracy 0.6250  (winner +0.1250)")
    assert lines[2].endswith("trial base  val/accuracy 0.5000  (winner +0.2500)")
    assert "the luckiest of 3 trials" in lines[3]

    study = study_of(LESS, best=(S, DONE, [0.25] * 4), default=(D, DONE, [0.5] * 4))
    assert formats.summary(rank(study))[1].endswith("(winner +0.2500)")


def test_a_final_training_has_no_winner_and_no_traceback() -> None:
    study = study_of(**{"seed-0": (records.SEED, DONE, [0.5] * 4)})
    for line in study.records["seed-0"].epochs:
        del line[GREATER]
        line["test/accuracy"] = 0.5
    board = rank(study)
    assert (board.winner, board.rows[0].score) == (None, None)
    assert shown(board)


def test_an_empty_study_can_be_shown() -> None:
    board = rank(study_of())
    assert (board.rows, board.winner) == ([], None)
    assert json.loads(formats.as_json(board))["trials"] == []
    assert formats.as_csv(board) == "rank"
    assert "no trial of the search" in shown(board)


@pytest.fixture
def mixed(tmp_path: Path) -> Study:
    return builders.mixed_study(tmp_path / "studies" / "tiny")


def test_json_has_every_trial_and_who_won(mixed: Study) -> None:
    board = rank(mixed)
    content = json.loads(formats.as_json(board), parse_constant=_refuse)

    assert (content["study"], content["metric"]) == ("tiny", GREATER)
    assert content["winner"] == board.winner.key
    assert content["default"] == "0000"
    assert content["baseline"] == "0001"
    assert "search scores" in content["note"]
    assert [trial["trial"] for trial in content["trials"]] == order(board)
    for trial, row in zip(content["trials"], board.rows, strict=True):
        assert trial["rank"] == row.place
        assert trial["params"] == row.record.params
        assert trial["metrics"] == row.record.last
        assert (trial["role"], trial["status"]) == (row.record.role, row.record.status)
        assert (trial["epoch"], trial["epochs"]) == (row.record.epoch, builders.EPOCHS)
        assert (trial["score"], trial["gain"]) == (row.score, row.gain)


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def test_csv_has_a_line_a_trial_and_a_column_a_parameter(mixed: Study) -> None:
    board = rank(mixed)
    lines = list(csv.DictReader(io.StringIO(formats.as_csv(board))))

    assert list(lines[0])[:8] == [
        *("rank", "trial", "role", "status", "epoch", "epochs", "score", "gain")
    ]
    assert set(list(lines[0])[8:]) == {
        *("method/variant", "method/alpha", "method/beta", "method/drg_temperature")
    }
    for line, row in zip(lines, board.rows, strict=True):
        assert (line["trial"], line["status"]) == (row.key, row.record.status)
        assert line["score"] == ("" if row.score is None else repr(row.score))
        for path in list(line)[8:]:
            assert line[path] == str(row.record.params.get(path, ""))


def shown(board: Board, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    formats.show(board, console)
    return console.file.getvalue()


def test_the_table_has_every_trial_in_order(mixed: Study) -> None:
    board = rank(mixed)
    text = shown(board)
    lines = text.splitlines()
    assert lines[0].strip() == "study tiny"
    assert "val/accuracy" in lines[1]
    assert "vs baseline" in lines[1]
    for row, line in zip(board.rows, lines[2:], strict=False):
        assert line.split()[:2] == [str(row.place), row.key]
    assert "authors' default" in text
    assert f"{board.winner.score:.4f}" in text


def test_brackets_in_names_and_values_are_shown_as_they_are(mixed: Study) -> None:
    mixed.name = "[red]night[/b]"
    mixed.records["0000"].params["data/root"] = "[/x]"
    text = shown(rank(mixed))
    assert "study [red]night[/b]" in text
    assert "data/root [/x]" in text


def test_a_narrow_terminal_loses_no_trial(mixed: Study) -> None:
    text = shown(rank(mixed), width=60)
    assert [key for key in mixed.records if key not in text] == []


def test_on_a_narrow_terminal_the_values_of_a_trial_are_one_line(mixed: Study) -> None:
    lines = shown(rank(mixed), width=80).splitlines()
    for record in mixed.records.values():
        values = [
            f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}"
            for path, value in record.params.items()
        ]
        assert not values or f"{record.key}  {', '.join(values)}" in lines


def test_why_trials_have_no_result_is_told_once_for_each_kind(mixed: Study) -> None:
    errors = ["loss 1.5 is too large", "loss 27 is too large", "no such file"]
    found = list(mixed.records.values())[-3:]
    for record, error in zip(found, errors, strict=True):
        record.status, record.error = FAILED, error
    for record in list(mixed.records.values())[:-3]:
        record.error = ""
        record.status = DONE if record.status in (FAILED, DIVERGED) else record.status
    text = shown(rank(mixed))
    assert f"trial {found[0].key} failed: loss 1.5 is too large" in text
    assert f"trial {found[2].key} failed: no such file" in text
    assert "loss 27" not in text
    assert "... and 1 more that diverged or failed" in text
    trials = json.loads(formats.as_json(rank(mixed)))["trials"]
    assert {trial["error"] for trial in trials} == {"", *errors}


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_the_program_prints_the_newest_study(
    form: str, mixed: Study, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    older = builders.new_study(tmp_path / "studies" / "older", name="older")
    older.created = mixed.created - 100
    builders.save(older)
    monkeypatch.chdir(tmp_path)

    assert leaderboard.main(["--format", form]) == 0

    out = capsys.readouterr().out
    if form == "json":
        assert json.loads(out)["study"] == "tiny"
    elif form == "csv":
        assert len(out.splitlines()) == 1 + len(mixed.records)
    else:
        assert "study tiny" in out
    assert {path.name for path in tmp_path.iterdir()} == {"studies"}


def test_without_a_name_the_newest_search_of_an_mlflow_is_meant(
    mixed: Study, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/theirs.db"
    older = builders.new_study(tmp_path / "a", name="older")
    older.created = mixed.created - 100
    trained = builders.new_study(tmp_path / "b", name="trained")
    trained.kind, trained.created = "training", mixed.created + 100
    from skdtune.tracking import Mirror

    Mirror(older, uri).push(live=True)
    no_search = f"sqlite:///{tmp_path}/no.db"
    Mirror(trained, no_search).push(live=True)
    with pytest.raises(ConfigError, match=f"STUDY: 1 problem\n  no search in {no_search}"):
        leaderboard.main(["--tracking-uri", no_search])
    for study in (trained, mixed):
        Mirror(study, uri).push(live=True)
    assert leaderboard.main(["--format", "json", "--tracking-uri", uri]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "tiny"


@pytest.mark.parametrize("how", ["tiny", "studies/tiny", "ABSOLUTE", "URI"])
def test_a_study_is_found_by_name_folder_and_uri(
    how: str, mixed: Study, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"{tmp_path}/studies/tiny"
    how = {"ABSOLUTE": place, "URI": f"file://{place}"}.get(how, how)
    assert leaderboard.main([how, "--format=json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == len(mixed.records)


def test_a_place_that_cannot_be_looked_at_is_told() -> None:
    with pytest.raises(
        ConfigError, match="nosuch://host/night: 1 problem\n  cannot be looked at: "
    ):
        finding.find("nosuch://host/night")


def test_a_final_training_shows_its_result_and_no_winner(tmp_path) -> None:
    study = Study("x", "training", {"trial": CONFIG}, "best", folder=Folder(tmp_path))
    final.add_seeds(study, CONFIG, 3, {"plain": CONFIG})
    for key, score in (("seed-0", 0.9), ("seed-1", 0.8), ("plain-0", 0.95)):
        record = study.records[key]
        scores = dict.fromkeys(metrics.score_names(metrics.TEST), score)
        record.status, record.epochs = records.FINISHED, [scores]
    board = rank(study)
    assert board.metric == "test/accuracy"
    assert board.winner is None
    lines = formats.summary(board)
    assert lines == conclusion.lines(study), "what the training itself has said"
    assert "test/accuracy  0.8500 ± 0.6353" in lines
    assert any("-0.0500 over plain (0.9500" in line for line in lines)
    with pytest.raises(ConfigError, match="it is a final training"):
        export.document(study)
