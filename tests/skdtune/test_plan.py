"""Which trials a study runs and in which order."""

import pytest

from skdtune import records
from skdtune.plan import SILENCE_S, Plan, add_references
from skdtune.settings import Resources
from skdtune.space import SearchSpace
from tests.skdtune.builders import (
    CONDITIONAL,
    CROSS_ENTROPY,
    build_space,
    curve,
    end,
    mixed_study,
    new_study,
)

FIXED = CONDITIONAL.split("    variant:")[0] + (
    "  optim: {lr: 0.05}\n  epochs: 4\nsearch: {metric: val/accuracy}\n"
)
FIXED_BASELINE = FIXED.replace("drg_dsr", "cross_entropy")


def roles(study: records.Study) -> list[str]:
    return [record.role for record in study.records.values()]


def test_the_first_trial_comes_first_and_the_baseline_right_behind_it(tmp_path):
    first = [{"method/variant": "drg"}, {"method/variant": "dsr", "method/beta": 2.0}]
    study = new_study(tmp_path, build_space(first_trials=first))
    assert roles(study) == [records.FIRST, records.BASELINE, records.SEARCH]
    assert list(study.records) == ["0000", "0001", "0002"]
    default, baseline, other = study.records.values()
    assert default.config["method"]["variant"] == "drg"
    assert "beta" not in default.config["method"], "dsr's weight is off in drg"
    assert other.params["method/beta"] == 2.0
    assert baseline.config == default.config | {"method": {"name": "cross_entropy"}}
    assert baseline.params == {}
    assert [record.is_beside for record in study.records.values()] == [False, True, False]


def test_a_first_trial_is_the_authors_own_when_all_its_values_are(tmp_path):
    own = new_study(tmp_path / "own", build_space(first_trials=[{}]))
    assert roles(own)[0] == records.DEFAULT
    other = new_study(tmp_path / "other", build_space(first_trials=[{"method/alpha": 0.3}]))
    assert roles(other)[0] == records.FIRST


def test_the_first_trial_of_a_cross_entropy_space_is_the_baseline_and_nothing_runs_beside(tmp_path):
    wanted = build_space(CROSS_ENTROPY)
    study = new_study(tmp_path, wanted)
    assert roles(study) == [records.BASELINE]
    assert study.records["0000"].params == {"optim/lr": 0.05}
    assert Plan(study, wanted).total == wanted.search.trials


@pytest.mark.parametrize(("text", "trials"), [(FIXED, 2), (FIXED_BASELINE, 1)])
def test_a_space_with_nothing_to_search_runs_its_one_config_once(tmp_path, text, trials):
    wanted = build_space(text)
    study = new_study(tmp_path, wanted)
    assert Plan(study, wanted).total == trials
    assert len(study.records) == trials


def test_the_total_is_what_is_asked_for_and_the_baseline(tmp_path):
    wanted = build_space()
    plan = Plan(new_study(tmp_path, wanted), wanted)
    assert plan.total == wanted.search.trials + 1
    assert not plan.is_done


def test_a_resume_may_ask_for_more_trials_and_never_drops_one_that_is_on_the_books(tmp_path):
    study = mixed_study(tmp_path, unfinished=True)
    assert len(study.records) == 8
    assert Plan(study, build_space(trials=20)).total == 21
    assert Plan(study, build_space(trials=1)).total == 8


def test_unfinished_trials_are_queued_in_their_order_and_ended_ones_are_not(tmp_path):
    study = mixed_study(tmp_path, unfinished=True)
    plan = Plan(study, build_space())
    assert [record.key for record in plan.queue] == ["0006", "0007"]
    assert [record.key for record in plan.known] == list(study.records)


def test_a_plan_is_done_when_all_have_started(tmp_path):
    wanted = build_space(trials=1)
    study = new_study(tmp_path, wanted)
    plan = Plan(study, wanted)
    plan.queue.clear()
    assert plan.is_done
    more = Plan(study, build_space(trials=2))
    more.queue.clear()
    assert not more.is_done
    more.new({"method/variant": "drg", "method/alpha": 1.0, "method/drg_temperature": 2.0})
    assert more.is_done


def test_what_a_trial_is_told(tmp_path):
    wanted = build_space()
    study = new_study(tmp_path / "a study", wanted)
    study.data = {"fingerprint": "all alike"}
    plan = Plan(study, wanted, Resources(cpu=2.5, gpu=0.5))
    default, baseline = study.records.values()
    end(default, records.INTERRUPTED, curve(0)[:2])
    asked = plan.trial_config(default)
    assert asked["trial"] == default.config
    session = asked["run"].pop("session")
    assert session == plan.trial_config(baseline)["run"]["session"]
    assert session != Plan(study, wanted).trial_config(default)["run"]["session"], "of one resume"
    assert asked["run"] == {
        "key": "0000",
        "role": "default",
        "beside": False,
        "study": str(tmp_path / "a study"),
        "after": 2,
        "threads": 3,
        "device": "cuda",
        "images": "all alike",
        "silence_s": SILENCE_S,
        "watched": ["epoch", "val/accuracy"],
        "identity": default.identity,
    }
    assert plan.trial_config(baseline)["run"]["beside"] is True
    baseline.config["data"] = {**baseline.config["data"], "batch_size": 16}
    assert plan.trial_config(baseline)["run"]["images"] == "all alike"
    baseline.config["data"] = {**baseline.config["data"], "images": 128}
    assert plan.trial_config(baseline)["run"]["images"] is None


def test_a_new_trial_has_its_values_in_its_config_and_leaves_the_space_as_it_was(tmp_path):
    wanted: SearchSpace = build_space()
    study = new_study(tmp_path, wanted)
    plan = Plan(study, wanted)
    params = {"method/variant": "dsr", "method/beta": 0.3, "method/drg_temperature": 2.5}
    record = plan.new(params)
    assert record.config["method"] == {
        "name": "drg_dsr",
        "variant": "dsr",
        "beta": 0.3,
        "drg_temperature": 2.5,
    }
    assert wanted.fixed["method"] == {"name": "drg_dsr"}
    assert study.records[record.key] is record


def test_references_are_the_same_whenever_they_are_made(tmp_path):
    wanted = build_space()
    first, second = new_study(tmp_path / "a", wanted), new_study(tmp_path / "b", wanted)
    assert first.records == second.records
    again = records.Study("c", "search", wanted.document, wanted.name)
    add_references(again, wanted)
    assert again.records == first.records


def test_a_new_trial_takes_no_place_of_another_when_a_record_is_lost(tmp_path):
    study = mixed_study(tmp_path)
    before = dict(study.records)
    del study.records["0003"]
    new = Plan(study, build_space(trials=20)).new({"method/variant": "dsr"})
    assert new.key not in before
    assert study.records["0005"] == before["0005"]
