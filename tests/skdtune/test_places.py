"""What lies where a study is to be: others' files are left alone, what an earlier start left is
cleared, and no trial takes what belongs to another."""

import json
import shutil
from pathlib import Path

import pytest

from skdtune import places, records
from skdtune.errors import ConfigError
from skdtune.records import Record
from tests.skdtune.builders import mixed_study
from trainables.checkpoint import Checkpoints
from trainables.storage import Folder


def test_a_folder_of_other_things_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "patients.csv").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds what is no study \(trials\)"):
        places.refuse_strangers(Folder(tmp_path), "--storage")
    assert (tmp_path / "trials" / "patients.csv").read_text() == "precious"


def test_a_file_in_its_place_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read as a folder"):
        places.refuse_strangers(Folder(tmp_path / "file"), "--storage")


def test_an_empty_folder_one_of_a_study_and_one_that_is_locked_are_not(tmp_path: Path) -> None:
    for name in ("missing", "empty", "study", "locked"):
        folder = Folder(tmp_path / name)
        if name != "missing":
            (tmp_path / name).mkdir()
        if name == "study":
            mixed_study(tmp_path / name)
        if name == "locked":
            (tmp_path / name / ".lock").touch()
            folder.write(records.OWNER, b"{}")
        places.refuse_strangers(folder, "--storage")


def test_what_a_start_that_was_killed_has_left_is_cleared(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    places.begin(folder)
    for name in ("trials/0000.json", "checkpoints/0000/epoch_000001/state.pt", "owner.json"):
        folder.write(name, b"of then")
    places.refuse_strangers(folder, "--storage")
    places.begin(folder)
    assert folder.names() == ["owner.json"]


def test_a_checkpoint_of_another_config_is_not_the_trials(tmp_path: Path) -> None:
    """As when a record was lost and its key has come to another trial."""
    lost = Record("0003", records.SEARCH, {}, {"optim": {"lr": 0.1}, "epochs": 2})
    Checkpoints(Folder(tmp_path), lost.identity).save(1, {"epoch": 1})
    new = Record("0003", records.SEARCH, {}, {"optim": {"lr": 0.2}, "epochs": 2})
    found = Checkpoints(Folder(tmp_path), new.identity)
    assert found.latest() is None
    assert "of trial 0003" in found.skipped[0]
    same = Record("0003", records.SEARCH, {}, {"epochs": 2, "optim": {"lr": 0.1}})
    assert Checkpoints(Folder(tmp_path), same.identity).latest() == {"epoch": 1}


@pytest.mark.parametrize(
    "damage",
    [
        {"epochs": [{"epoch": 1, "val/accuracy": float("nan")}]},
        {"epochs": [{"epoch": 1, "val/accuracy": "0.9"}]},
        {"epochs": {}},
        {"status": "winning"},
        {"config": {}},
        {"params": []},
        {"key": "0009"},
    ],
    ids=str,
)
def test_a_record_that_no_study_has_written_is_named(tmp_path: Path, damage: dict) -> None:
    mixed_study(tmp_path)
    path = tmp_path / "trials" / "0002.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ConfigError, match=r"trials/0002\.json cannot be read"):
        records.load(Folder(tmp_path))


def test_only_records_are_read_as_such(tmp_path: Path) -> None:
    whole = mixed_study(tmp_path)
    (tmp_path / "trials" / "0000.json~").write_text("an editor's")
    (tmp_path / "trials" / "notes").mkdir()
    assert set(records.load(Folder(tmp_path)).records) == set(whole.records)


def test_a_copy_becomes_a_study_of_its_own_and_one_that_was_moved_stays_what_it_is(tmp_path: Path):
    """With one id each would take the other's runs in MLflow for its own."""
    first, said = mixed_study(tmp_path / "night"), []
    shutil.copytree(tmp_path / "night", tmp_path / "wide")
    (tmp_path / "link").symlink_to(tmp_path / "night")
    for name in ("night", "link", "wide"):
        study = records.load(Folder(tmp_path / name))
        places.tell_apart(study, said.append)
        assert (study.id == first.id) == (name != "wide")
    (line,) = said
    assert line.startswith(f"a copy of the study in {tmp_path / 'night'}; ")
    study.save()
    again = records.load(Folder(tmp_path / "wide"))
    places.tell_apart(again, said.append)
    assert again.id == study.id != first.id, "it is told once"
    shutil.move(tmp_path / "night", tmp_path / "moved")
    moved = records.load(Folder(tmp_path / "moved"))
    places.tell_apart(moved, said.append)
    assert moved.id == first.id
    assert len(said) == 1
