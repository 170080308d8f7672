"""Studies that a program cannot take up, read or export: each is refused, with the reason."""

from pathlib import Path

import pytest

from skdtune import errors, export, leaderboard, records, search, sync
from tests.skdtune import builders
from tests.skdtune.breakable import Main, Refuse


def test_a_name_with_a_study_is_refused_without_resume(refuse: Refuse, tmp_path: Path) -> None:
    builders.mixed_study(tmp_path / "studies" / "mine", name="mine")

    said = refuse(search.main, "quickstart", "--name", "mine")

    assert "study mine: 1 problem\n  it exists (6 trials ended, in " in said
    assert "add --resume, or give another --name" in said


def test_a_changed_space_does_not_resume_a_study(refuse: Refuse, tmp_path: Path) -> None:
    study = builders.mixed_study(tmp_path / "studies" / "mine", name="mine")
    flags = ["--resume", "--name", "mine", "--set=trial.optim.lr=0.5", "--set=trial.seed=3"]

    with pytest.raises(errors.ConfigError) as refused:
        search.main([*flags, "--set=search.trials=50", "--set=resources={cpu: 2}"])

    assert refused.value.problems[:2] == [
        "it cannot go on with another trial.optim.lr: 0.05 in the study, 0.5 asked",
        "it cannot go on with another trial.seed: nothing in the study, 3 asked",
    ]
    assert not [line for line in refused.value.problems if "trials" in line or "cpu" in line]
    assert records.load(study.folder) == study


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"format": 1}', b'{"format": 9}', b"\xff", b'{"format": 1, "x": 2}']
)
def test_a_damaged_study_is_named(damage: bytes, refuse: Refuse, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "mine"
    builders.mixed_study(folder, name="mine")
    (folder / "study.json").write_bytes(damage)

    assert str(folder) in refuse(search.main, "--resume", "--name", "mine")
    assert str(folder) in refuse(leaderboard.main, "mine")
    assert str(folder) in refuse(export.main, "mine")


@pytest.mark.parametrize("main", [leaderboard.main, export.main])
def test_a_study_that_is_nowhere_is_named_and_no_database_is_made(
    main: Main, refuse: Refuse, tmp_path: Path
) -> None:
    assert "STUDY: 1 problem\n  no study in ./studies; name one" in refuse(main)
    assert "mine: 1 problem\n  no such study in ./studies or in sqlite:///mlflow.db" in refuse(
        main, "mine"
    )
    there = f"sqlite:////{tmp_path}/nowhere/mlflow.db"
    assert "no such study" in refuse(main, "mine", "--tracking-uri", there)
    assert "--tracking-uri: './mlruns': a" in refuse(main, "mine", "--tracking-uri", "./mlruns")
    builders.mixed_study(tmp_path / "studies" / "tiny")
    assert "did you mean tiny?" in refuse(main, "tinny")


def test_an_mlflow_that_cannot_be_read_is_one_line(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"junk" * 100)
    for uri in (
        f"http://127.0.0.1:{builders.free_port()}",
        "sqlite:///junk.db",
        "postgresql://nowhere/mlflow",
    ):
        said = refuse(leaderboard.main, "mine", "--tracking-uri", uri)
        assert said.startswith(f"mine: 1 problem\n  MLflow at {uri} cannot be read: ")
        assert said.count("\n") == 2


def test_other_mistakes_with_a_study(refuse: Refuse, tmp_path: Path) -> None:
    builders.mixed_study(tmp_path / "studies" / "tiny")
    (tmp_path / "taken").mkdir()

    assert "--format: 'yml' is not one of table, json, csv" in refuse(
        leaderboard.main, "tiny", "--format", "yml"
    )
    assert "--output: 1 problem\n  taken cannot be written" in refuse(
        export.main, "tiny", "--output", "taken"
    )
    assert "best.yaml/x cannot be written" in refuse(
        export.main, "tiny", "--output", str(tmp_path / "studies/tiny/study.json/best.yaml/x")
    )
    assert "no such study in ./studies" in refuse(sync.main, "mine")


def test_a_study_without_a_winner_is_not_exported(refuse: Refuse, tmp_path: Path) -> None:
    study = builders.new_study(tmp_path / "studies" / "tiny")
    baseline = next(r for r in study.records.values() if r.role == records.BASELINE)
    builders.end(baseline, records.FINISHED, builders.curve(1))
    builders.save(study)

    said = refuse(export.main)

    assert said == (
        "study tiny: 1 problem\n  no trial of the search has come to its full budget yet\n"
    )


def test_a_final_training_is_not_resumed_as_a_search(refuse: Refuse, tmp_path: Path) -> None:
    study = builders.mixed_study(tmp_path / "trained", name="done")
    study.kind = "training"
    study.save()

    said = refuse(search.main, "--resume", "--storage", "trained")

    assert "study done: 1 problem\n  it is a final training" in said
