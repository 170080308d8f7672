"""best.yaml: the winner as a space of its own, the same config from end to end, and where it came
from."""

from pathlib import Path
from typing import Any

import pytest

from skdtune import export, records, space, strict_yaml
from skdtune.errors import ConfigError
from skdtune.leaderboard import rank
from skdtune.records import Study
from tests.skdtune import builders
from trainables import sections


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = builders.mixed_study(tmp_path / "studies" / "tiny")
    made.tracking_uri = "sqlite:///mlflow.db"
    made.save()
    return made


def loaded(study: Study, tmp_path: Path) -> space.SearchSpace:
    path = tmp_path / "best.yaml"
    path.write_text(export.text(study))
    return space.load(path)


def test_the_winner_s_config_is_read_back_with_nothing_left_to_search(
    study: Study, tmp_path: Path
) -> None:
    winner = rank(study).winner.record
    best = loaded(study, tmp_path)

    assert best.parameters == {}
    assert best.search.trials == 1
    assert best.config({}) == best.fixed == winner.config
    assert sections.problems(best.fixed) == []
    for path, value in winner.params.items():
        section, key = path.split("/")
        assert best.fixed[section][key] == value


def test_another_trial_than_the_winner_is_exported_by_its_key(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    board = rank(study)
    other = next(row for row in board.rows if row is not board.winner and row.gain is not None)
    assert export.main(["tiny", "--trial", other.key]) == 0
    found = space.load(tmp_path / "best.yaml")
    assert found.fixed == other.record.config
    origin = found.document["provenance"]
    assert (origin["trial"], origin["search_score"]["val/accuracy"]) == (other.key, other.score)


def test_a_trial_that_cannot_be_exported_is_refused(study: Study) -> None:
    stopped = next(r for r in study.records.values() if r.status == records.STOPPED)
    with pytest.raises(ConfigError, match=rf"trial {stopped.key} is stopped after 2 of 4 epochs"):
        export.document(study, stopped.key)
    with pytest.raises(ConfigError, match="'000': study tiny has no such trial; did you mean 000"):
        export.document(study, "000")


def test_every_bit_of_a_float_survives(study: Study, tmp_path: Path) -> None:
    winner = rank(study).winner.record
    winner.config["optim"] = {"lr": 0.1 + 0.2, "weight_decay": 1e-7, "clip_norm": 1e22}
    assert loaded(study, tmp_path).fixed["optim"] == winner.config["optim"]


def test_where_it_came_from_is_kept(study: Study, tmp_path: Path) -> None:
    board = rank(study)
    origin = loaded(study, tmp_path).document["provenance"]

    assert origin == {
        "study": "tiny",
        "study_id": study.id,
        "space": "tiny",
        "trial": board.winner.key,
        "role": board.winner.record.role,
        "searched": board.winner.record.params,
        "search_score": {
            "val/accuracy": board.winner.score,
            "gain_over_baseline": board.winner.gain,
        },
        "search_seeds": 1,
        "trials": len(study.records),
        "tracking_uri": "sqlite:///mlflow.db",
        "git_commit": "abc",
        "versions": {"python": "3.11"},
    }


def test_resources_go_with_it(study: Study, tmp_path: Path) -> None:
    assert "resources" not in export.document(study)
    study.space["resources"] = {"cpu": 2, "gpu": 0.25}
    best = loaded(study, tmp_path)
    assert (best.resources.cpu, best.resources.gpu) == (2, 0.25)


def test_it_may_be_searched_again(study: Study, tmp_path: Path) -> None:
    """One format from end to end: a leaf put back makes best.yaml a space."""
    path = tmp_path / "again.yaml"
    document = export.document(study)
    document["trial"]["optim"]["lr"] = {"type": "float", "low": 0.01, "high": 0.1, "log": True}
    path.write_text(strict_yaml.dump(document))
    assert list(space.load(path).parameters) == ["optim/lr"]


def test_the_default_may_win_and_is_named_so(study: Study) -> None:
    for record in study.records.values():
        if record.role != records.DEFAULT and record.status == records.FINISHED:
            record.epochs[-1]["val/accuracy"] = -1.0
    origin = export.document(study)["provenance"]
    assert (origin["trial"], origin["role"]) == ("0000", "default")


def test_a_baseline_that_did_not_finish_leaves_the_gain_open(study: Study, tmp_path: Path) -> None:
    study.records["0001"].status = records.FAILED
    score = loaded(study, tmp_path).document["provenance"]["search_score"]
    assert score["gain_over_baseline"] is None


def test_without_a_winner_there_is_nothing_to_export(study: Study) -> None:
    for record in study.records.values():
        if record.role != records.BASELINE and record.status == records.FINISHED:
            record.status = records.STOPPED
    assert study.records["0001"].status == records.FINISHED
    with pytest.raises(ConfigError, match="no trial of the search has come to its full budget"):
        export.document(study)


def test_the_program_writes_the_file_and_says_what_to_do(
    study: Study, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.yaml").write_text("old")
    (tmp_path / "best.1.yaml").write_text("older")
    what_next = "best.yaml: python -m skdtune.train best.yaml --seeds 3\n"

    assert export.main([]) == 0
    moved = "another best.yaml was there; it is best.2.yaml now\n"
    assert capsys.readouterr().out == moved + what_next
    assert (tmp_path / "best.2.yaml").read_text() == "old"
    assert export.main([]) == 0
    assert capsys.readouterr().out == what_next, "the same again is no other"
    assert export.main(["tiny", "--output", "new/mine.yaml"]) == 0

    assert (tmp_path / "best.yaml").read_text() == export.text(study)
    assert (tmp_path / "new" / "mine.yaml").read_text() == export.text(study)
    kept = {"best.1.yaml", "best.2.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"studies", "best.yaml", "new", *kept}


def test_the_file_says_how_to_train_it(study: Study) -> None:
    first = export.text(study).splitlines()[0]
    assert first.startswith("#")
    assert "python -m skdtune.train" in first
