"""Which settings of an earlier study a new one tries first, and what they are there."""

from pathlib import Path

import pytest

from skdtune import commands, distributions, export, records, request, warm_start
from skdtune.errors import ConfigError
from skdtune.plan import Plan, add_references
from skdtune.records import Record, Study
from skdtune.sampler import OptunaSampler
from tests.skdtune.builders import CONDITIONAL, build_space, curve, end, new_study, report, save

NIGHT = {"study": "night", "trials": 2}
SETTINGS = [  # worst first; the sixth is the authors', which is a first trial already
    {"method/variant": "drg", "method/alpha": 0.5, "method/drg_temperature": 2.0},
    {"method/variant": "dsr", "method/beta": 3.0, "method/drg_temperature": 2.5},
    {"method/variant": "drg", "method/alpha": 1.5, "method/drg_temperature": 9.0},
    {"method/variant": "dsr", "method/beta": 0.3, "method/drg_temperature": 1.0},
    {"method/variant": "drg", "method/alpha": 0.1, "method/drg_temperature": 5.0},
]


def earlier(folder: Path, text: str = CONDITIONAL, settings: list[dict] = SETTINGS) -> Study:
    """A study whose trials came to the full budget, each better than the one before; the baseline
    is the best of all, and one that was stopped early better still."""
    wanted = build_space(text)
    study = new_study(folder, wanted, "night")
    plan = Plan(study, wanted)
    for params in settings:
        plan.new(params)
    for number, record in enumerate(study.records.values()):
        end(record, records.FINISHED, curve(0)[:-1] + [report(4, 0.5 + number / 100)])
    end(study.records["0001"], records.FINISHED, [report(4, 0.9)])
    end(plan.new(SETTINGS[0] | {"method/alpha": 0.7}), records.STOPPED, [report(1, 0.99)])
    save(study)
    return study


def test_the_best_that_came_to_the_end_are_tried_behind_the_first_trials(tmp_path):
    wanted = build_space(warm_start=NIGHT)
    warm = warm_start.choose(wanted, earlier(tmp_path))
    assert warm.trials == {"0006": SETTINGS[-1], "0005": SETTINGS[-2]}
    assert warm.lines == ["from study night, tried first: trials 0006, 0005"]
    study = Study("new", "search", wanted.document, "tiny")
    add_references(study, wanted, warm.settings)
    default, baseline, *others = study.records.values()
    assert (default.role, baseline.role) == (records.DEFAULT, records.BASELINE)
    assert [record.params for record in others] == list(warm.trials.values())
    assert [record.origin["trial"] for record in others] == ["0006", "0005"]
    assert {record.origin["study_id"] for record in others} == {warm.id} != {""}
    assert {record.role for record in others} == {records.SEARCH}, "early stopping may touch them"
    assert Plan(study, wanted).total == wanted.search.trials + 1


def test_seeds_that_had_a_say_in_the_earlier_study_are_not_those_of_a_final_training(tmp_path):
    """Its finalists were trained with more of them."""
    wanted, before = build_space(warm_start=NIGHT), earlier(tmp_path)
    winner = before.records["0006"]
    before.records["0009"] = Record("0009", records.REPEAT, {}, {"seed": 2}, repeats=winner.key)
    study = Study("new", "search", wanted.document, "tiny")
    add_references(study, wanted, warm_start.choose(wanted, before).settings)
    for index, record in enumerate(study.records.values()):
        end(record, records.FINISHED, curve(index))
    assert export.document(study)["provenance"]["search_seeds"] == 3


def test_they_run_before_anything_is_sampled(tmp_path):
    wanted = build_space(warm_start=NIGHT)
    study = Study("new", "search", wanted.document, "tiny")
    study.folder = earlier(tmp_path).folder
    add_references(study, wanted, warm_start.choose(wanted, earlier(tmp_path)).settings)
    sampler = OptunaSampler(wanted, Plan(study, wanted))
    keys = [sampler.suggest(f"tune-{n}")["run"]["key"] for n in range(5)]
    assert keys == ["0000", "0001", "0002", "0003", "0004"]
    assert study.records["0003"].params == SETTINGS[-2]


def test_what_is_a_first_trial_already_is_not_tried_twice(tmp_path):
    study = earlier(tmp_path, settings=[])
    warm = warm_start.choose(build_space(warm_start=NIGHT), study)
    assert warm.trials == {}
    assert "no setting that is not a first trial here already" in warm.lines[0]
    assert warm_start.EarlierBest().lines == []


def test_a_value_that_was_fixed_then_counts_and_one_that_is_fixed_now_is_the_spaces(tmp_path):
    then = CONDITIONAL.replace("{type: float, low: 1.0, high: 10.0, step: 0.5}", "7.5")
    then = then.replace(", method/drg_temperature: 4.0", "")
    study = earlier(tmp_path, then, [{"method/variant": "drg", "method/alpha": 0.5}])
    values, _ = warm_start.choose(build_space(warm_start=NIGHT), study).settings[0]
    assert values == {
        **{"method/variant": "drg", "method/alpha": 0.5, "method/drg_temperature": 7.5}
    }
    now = CONDITIONAL.replace("{lr: 0.05}", "{lr: {type: float, low: 0.01, high: 0.1}}")
    now = now.replace("{type: categorical, choices: [drg, dsr, drg_dsr]}", "drg_dsr")
    now = now.replace("- {method/variant: drg_dsr, ", "- {")
    values, _ = warm_start.choose(build_space(now, warm_start=NIGHT), study).settings[0]
    assert values == {  # beta is the authors'
        **{"method/alpha": 0.5, "method/beta": 1.0, "method/drg_temperature": 7.5},
        "optim/lr": 0.05,
    }


def test_what_lies_outside_is_passed_over_and_told(tmp_path):
    study = earlier(tmp_path)
    narrow = CONDITIONAL.replace("low: 0.02, high: 2.0", "low: 0.2, high: 2.0")
    warm = warm_start.choose(build_space(narrow, warm_start=NIGHT), study)
    assert list(warm.trials) == ["0005", "0004"], "0006 has an alpha of 0.1"
    why = "trial 0006 of night: method/alpha: 0.1 is not in 0.2 to 2 (log)"
    assert warm.lines[1:] == [f"not tried: {why}"]


def test_it_is_refused_when_nothing_fits_but_what_is_a_first_trial_already(tmp_path):
    bound = "low: 0.02, high: 2.0, log: true, when: {method/variant: [drg, drg_dsr]}"
    small = [{"method/variant": "drg", "method/alpha": 0.03 + n / 100} for n in range(5)]
    study = earlier(tmp_path, settings=[{**p, "method/drg_temperature": 4.0} for p in small])
    narrow = CONDITIONAL.replace(bound, bound.replace("0.02", "0.2"))
    with pytest.raises(ConfigError) as refused:
        warm_start.choose(build_space(narrow, warm_start=NIGHT), study)
    first, *_, last = refused.value.problems
    assert first == "trial 0006 of night: method/alpha: 0.07 is not in 0.2 to 2 (log)"
    assert last == "and 2 more"


def test_a_default_that_nobody_gave_then_must_fit_too(tmp_path):
    then = CONDITIONAL.replace(
        "    drg_temperature: {type: float, low: 1.0, high: 10.0, step: 0.5}\n", ""
    )
    then = then.replace(", method/drg_temperature: 4.0", "")
    study = earlier(tmp_path, then, [{"method/variant": "drg", "method/alpha": 0.5}])
    now = CONDITIONAL.replace("low: 1.0, high: 10.0", "low: 6.0, high: 10.0")
    now = now.replace("drg_temperature: 4.0", "drg_temperature: 6.0")
    with pytest.raises(ConfigError, match=r"drg_temperature: 4\.0 is not in 6 to 10 by 0\.5"):
        warm_start.choose(build_space(now, warm_start=NIGHT), study)


def test_what_the_sampler_draws_on_a_grid_fits_the_space_it_is_from(tmp_path):
    fine = CONDITIONAL.replace("step: 0.5", "step: 0.1")
    tenths = [{**SETTINGS[1], "method/drg_temperature": 1.0 + n * 0.1} for n in (7, 24)]
    drawn = [params["method/drg_temperature"] for params in tenths]
    assert drawn == [1.7000000000000002, 3.4000000000000004]
    warm = warm_start.choose(build_space(fine, warm_start=NIGHT), earlier(tmp_path, fine, tenths))
    assert list(warm.trials.values()) == tenths[::-1]
    kind = build_space(fine).parameters["method/drg_temperature"].distribution
    assert [distributions.holds(kind, value) for value in (1.75, 1.7, 10.0, 10.1)] == [
        *(False, True, True, False)
    ]


def test_another_method_a_training_and_a_search_without_an_end_are_refused(tmp_path):
    wanted, study = build_space(warm_start=NIGHT), earlier(tmp_path)
    for record in study.records.values():
        record.config["method"] = {"name": "byot"}
    with pytest.raises(ConfigError, match="trial 0006 of night: its method is byot, not drg_dsr"):
        warm_start.choose(wanted, study)
    del study.records["0006"].config["method"]
    with pytest.raises(ConfigError, match="trial 0006 of night: its method is None, not drg_dsr"):
        warm_start.choose(wanted, study)
    study.records = {"0001": study.records["0001"]}
    with pytest.raises(ConfigError, match="no trial of night has come to its full budget"):
        warm_start.choose(wanted, study)
    study.kind = "training"
    with pytest.raises(ConfigError, match="night is a final training, not a search"):
        warm_start.choose(wanted, study)


def asked(*arguments: str) -> request.Request:
    return request.read(commands.search(""), ["tiny.yaml", "--name=new", *arguments])


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONDITIONAL)
    return tmp_path


def test_a_command_names_the_study_and_a_resume_needs_it_no_more(tiny):
    earlier(tiny / "studies/night")
    first = asked("--set=search.warm_start.study=night")
    assert list(first.warm.trials) == ["0006", "0005", "0004"]
    study = new_study(tiny / "studies/new", first.space, "new")
    save(study)
    (tiny / "studies/night").rename(tiny / "elsewhere")
    assert asked("--set=search.warm_start.study=night", "--resume").warm.lines == []
    assert asked("--set=search.warm_start=null", "--name=other").warm.lines == []
    moved = asked(f"--set=search.warm_start.study={tiny}/elsewhere", "--name=other")
    assert moved.warm == first.warm


@pytest.mark.parametrize(
    ("edits", "problems"),
    [
        (["search.warm_start.study=nihgt"], ["no such study in ./studies or in sqlite:///mlflow"]),
        (["search.warm_start=night"], ["search.warm_start: must be a section of settings"]),
        (["search.warm_start.trials=2"], ["search.warm_start.study: is missing"]),
        (
            ["search.warm_start.study=night", "search.warm_start.trails=2"],
            ["search.warm_start.trails: search.warm_start has no such setting (it has study, "],
        ),
        (
            ["search.warm_start.study=night", "search.trials=3"],
            ["search.warm_start.trials: 3: beside 1 first trial that is more than search.trials"],
        ),
    ],
)
def test_what_is_wrong_with_it_is_one_of_the_problems(tiny, edits, problems):
    earlier(tiny / "studies/night")
    with pytest.raises(ConfigError) as refused:
        asked(*(f"--set={edit}" for edit in edits), "--epochs=x")
    told = refused.value.problems
    assert any("--epochs" in problem for problem in told)
    for problem in problems:
        assert any(problem in line for line in told), told
