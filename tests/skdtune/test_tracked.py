"""A study read back from MLflow: the one that was named, and equal to what is on the disk."""

import pytest

from skdtune import formats, leaderboard, records
from skdtune.export import text as best_yaml
from skdtune.tracked import exists, read_study
from tests.skdtune.builders import curve, end, mixed_study, new_study
from tests.skdtune.mirrors import push, read_study_of, without_times


@pytest.mark.parametrize("name", ["実験 é 🙂", 'it\'s "both"', "100 % a_b"])
def test_the_leaderboard_from_the_server_is_that_of_the_disk(tmp_path, uri, name):
    study = mixed_study(tmp_path, name)
    push(study, uri)
    found = read_study_of(study, uri)
    assert found.folder is None
    for part in ("name", "kind", "space", "space_name", "id", "created", "versions", "commit"):
        assert getattr(found, part) == getattr(study, part)
    assert found.data == study.data
    board, expected = leaderboard.rank(found), leaderboard.rank(study)
    assert formats.as_csv(board) == formats.as_csv(expected)
    assert without_times(board) == without_times(expected)
    assert formats.summary(board) == formats.summary(expected)
    for key, record in study.records.items():
        assert found.records[key].params == record.params
        assert found.records[key].config == record.config
        assert found.records[key].error == record.error


def test_the_same_best_config_is_exported_from_server_and_disk(tmp_path, uri):
    study = mixed_study(tmp_path)
    study.tracking_uri = uri
    push(study, uri)
    assert best_yaml(read_study_of(study, uri)) == best_yaml(study)


def test_names_are_not_patterns(tmp_path, uri):
    study = mixed_study(tmp_path, "pattern 1x")
    push(study, uri)
    for name in (
        "pattern 1_",
        "pattern%",
        "PATTERN 1X",
        "pattern 1",
        "%",
        "_",
        "",
        "'",
        '"',
        "a' OR",
    ):
        assert read_study(name, uri) is None
    assert read_study("pattern 1x", uri).id == study.id


def test_the_newest_study_of_a_name_is_read(tmp_path, uri):
    old, new = mixed_study(tmp_path / "a", "twice"), mixed_study(tmp_path / "b", "twice")
    old.created, new.created = 1000.0, 2000.0
    push(new, uri)
    push(old, uri)
    assert read_study("twice", uri).id == new.id


def test_a_training_of_the_same_name_does_not_hide_the_search(tmp_path, uri):
    study = mixed_study(tmp_path / "search", name="namesakes")
    push(study, uri)
    training = mixed_study(tmp_path / "training", name="namesakes")
    training.kind, training.created = "training", study.created + 1000
    push(training, uri)
    assert read_study("namesakes", uri).id == study.id


def test_a_study_that_runs_can_be_read(tmp_path, uri):
    study = new_study(tmp_path, name="live one")
    end(study.records["0000"], records.RUNNING, curve(0)[:2])
    push(study, uri, live=True)
    found = read_study("live one", uri)
    assert found.records["0000"].status == records.RUNNING
    assert found.records["0000"].epoch == 2


def test_what_is_not_there_is_not_made_by_looking(tmp_path, uri):
    assert not exists(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    assert exists(uri)
    assert read_study("no such study", uri) is None
