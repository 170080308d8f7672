"""The teachers that a final training trains itself: one a seed and network, before its pupils."""

import pytest
import torch

from skdtune import final, records, teachers
from skdtune.errors import ConfigError
from skdtune.records import Record, Study
from skdtune.writer import Writer
from tests.skdtune.builders import NOWHERE
from tests.skdtune.test_final import CONFIG
from trainables import shipping
from trainables.storage import Folder

TAUGHT = {**CONFIG, "method": {"name": "tf_kd_self"}}
OTHERWISE = {**TAUGHT, "optim": {"lr": 0.01}}
PLAIN = {"name": "cross_entropy"}


def study_in(folder) -> Study:
    return Study("tiny", "training", {"trial": TAUGHT}, "best", folder=Folder(folder))


def taught_by(study: Study) -> dict[str, str]:
    """The teacher's key by that of each run that has one."""
    return {key: record.teacher for key, record in study.records.items() if record.teacher}


def train(study: Study, chosen: list[Record]) -> list[str]:
    lines: list[str] = []
    study.save()
    writer = Writer(study)
    final.train(study, chosen, final.Desk(study, writer, lines.append), torch.device("cpu"))
    writer.close()
    return lines


def without_mlflow(study: Study, key: str) -> None:
    """Its MLflow model is taken for saved: that takes seconds."""
    (study.folder.local / "models" / key / "mlflow").mkdir(parents=True)
    (study.folder.local / "models" / key / "mlflow" / "MLmodel").write_text("")


def test_every_seed_has_a_teacher_of_its_own_randomness(tmp_path):
    study = study_in(tmp_path)
    chosen = final.add_seeds(study, TAUGHT, 2)
    assert [(record.key, record.seed) for record in chosen] == [
        *(("teacher-0", 7), ("seed-0", 7), ("teacher-1", 8), ("seed-1", 8)),
    ]
    assert taught_by(study) == {"seed-0": "teacher-0", "seed-1": "teacher-1"}
    assert study.records["teacher-1"].config == {**CONFIG, "method": PLAIN, "seed": 8}


def test_who_is_compared_learns_from_a_network_trained_as_it_is_itself(tmp_path):
    study = study_in(tmp_path)
    kd = {**TAUGHT, "method": {"name": "kd", "alpha": 0.5}}
    final.add_seeds(study, TAUGHT, 1, {"kd": kd, "authors_default": OTHERWISE})
    assert taught_by(study) == {
        "seed-0": "teacher-0",
        "kd-0": "teacher-0",
        "authors_default-0": "teacher-authors_default-0",
    }
    assert study.records["teacher-authors_default-0"].config["optim"] == {"lr": 0.01}


def test_a_run_that_is_the_plain_training_of_that_seed_teaches(tmp_path):
    study = study_in(tmp_path)
    baseline = {**TAUGHT, "method": PLAIN}
    chosen = final.add_seeds(study, TAUGHT, 2, {"baseline": baseline, "other": OTHERWISE})
    assert [record.key for record in chosen] == [
        *("baseline-0", "seed-0", "baseline-1", "seed-1"),
        *("teacher-other-0", "other-0", "teacher-other-1", "other-1"),
    ]
    assert taught_by(study)["seed-1"] == "baseline-1"
    plain = study_in(tmp_path)
    final.add_seeds(plain, baseline, 1, {"taught": TAUGHT})
    assert taught_by(plain) == {"taught-0": "seed-0"}


def test_a_named_teacher_is_that_of_every_seed(tmp_path):
    study = study_in(tmp_path)
    named = {**TAUGHT, "method": {"name": "tf_kd_self", "teacher": "/t"}}
    assert [record.key for record in final.add_seeds(study, named, 2)] == ["seed-0", "seed-1"]
    assert taught_by(study) == {}


def test_whoever_has_begun_to_teach_goes_on_whatever_is_compared_later(tmp_path):
    study = study_in(tmp_path)
    baseline = {"baseline": {**TAUGHT, "method": PLAIN}}
    study.save()
    for record in final.add_seeds(study, TAUGHT, 1, baseline):
        record.status = records.INTERRUPTED
        study.save_record(record)
    found = records.load(Folder(tmp_path))
    assert [r.key for r in final.add_seeds(found, TAUGHT, 1)] == ["baseline-0", "seed-0"]
    alone = study_in(tmp_path)
    final.add_seeds(alone, TAUGHT, 1)
    final.add_seeds(alone, TAUGHT, 1, baseline)
    assert taught_by(alone) == {"seed-0": "teacher-0"}


def test_one_that_ended_with_nobody_to_teach_has_kept_nothing_and_teaches_nobody(tmp_path):
    study = study_in(tmp_path)
    final.add_seeds(study, {**TAUGHT, "method": PLAIN}, 1)
    study.records["seed-0"].status = records.FINISHED
    final.add_seeds(study, {**TAUGHT, "method": PLAIN}, 1, {"taught": TAUGHT})
    assert taught_by(study) == {"taught-0": "teacher-taught-0"}


def test_a_training_of_before_with_one_teacher_for_all_is_refused(tmp_path):
    study = study_in(tmp_path)
    before = Record("teacher", records.TEACHER, {}, {**CONFIG, "method": PLAIN})
    study.records = {"teacher": before, "seed-0": Record("seed-0", records.SEED, {}, TAUGHT)}
    with pytest.raises(ConfigError, match="one teacher taught all seeds together; give another"):
        final.add_seeds(study, TAUGHT, 2)


def test_every_seed_learns_from_its_own_teacher_which_no_model_of_the_result_is(tmp_path):
    """The second seed, given the first one's teacher, would come to other weights."""
    study = study_in(tmp_path / "both")
    chosen = final.add_seeds(study, TAUGHT, 2, {"baseline": {**TAUGHT, "method": PLAIN}})
    for key in ("seed-0", "seed-1"):
        without_mlflow(study, key)
    train(study, chosen)
    assert [record.status for record in chosen] == ["finished"] * 4
    assert study.folder.names("models") == ["seed-0", "seed-1"]
    assert study.folder.names("teachers") == ["baseline-0", "baseline-1"]
    weights = [
        shipping.load(tmp_path / "both" / "teachers" / f"baseline-{index}").state_dict()
        for index in range(2)
    ]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    for teacher, is_same in (("baseline-1", True), ("baseline-0", False)):
        study = study_in(tmp_path / teacher)
        place = str(tmp_path / "both" / "teachers" / teacher)
        final.add_seeds(study, {**TAUGHT, "method": {"name": "tf_kd_self", "teacher": place}}, 2)
        teachers.bring({place}, study.folder, NOWHERE)
        record = study.records["seed-1"]
        without_mlflow(study, "seed-1")
        train(study, [record])
        assert (record.last["loss/kl"] == chosen[3].last["loss/kl"]) is is_same, teacher


def test_a_teacher_that_fails_takes_its_own_pupils_alone_with_it(tmp_path):
    study = study_in(tmp_path)
    chosen = final.add_seeds(study, TAUGHT, 2, {"kd": {**TAUGHT, "method": {"name": "kd"}}})
    study.records["teacher-0"].config["optim"] = {"lr": 1e30}
    without_mlflow(study, "seed-1")
    lines = train(study, chosen)
    assert {key: record.status for key, record in study.records.items()} == {
        **{"teacher-0": "diverged", "seed-0": "pending", "kd-0": "pending"},
        **{"teacher-1": "finished", "seed-1": "finished", "kd-1": "finished"},
    }
    assert "not trained without this teacher: seed-0, kd-0" in lines
