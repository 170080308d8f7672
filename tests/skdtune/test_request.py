"""What a search command asks for: the space with its edits, and the study it begins or resumes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import search_spaces
from skdtune import commands, records, request
from skdtune.errors import ConfigError
from skdtune.request import Request
from skdtune.space import SearchSpace
from tests.skdtune import builders
from trainables import optim as optimizers
from trainables import sections


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(*arguments: str) -> Request:
    return request.read(commands.search(""), list(arguments))


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        asked(*arguments)
    return refused.value.problems


def saved(name: str, created: float, space_name: str = "tiny", place: str = "studies") -> None:
    study = builders.new_study(f"{place}/{name}", name=name)
    study.created, study.space_name = created, space_name
    builders.save(study)


def test_without_a_space_it_is_the_quickstart() -> None:
    wanted = asked()

    assert wanted.space.name == "quickstart"
    assert re.fullmatch(r"quickstart-\d{8}-\d{6}", wanted.name)
    assert wanted.folder.local == Path("studies").absolute() / wanted.name
    assert wanted.old is None
    assert list(Path().iterdir()) == []


def test_a_path_is_a_space_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.v2.yaml").write_text(builders.CONDITIONAL)
    assert asked("mine.v2.yaml").space.name == "mine.v2"


@pytest.mark.parametrize(
    ("epochs", "grace"), [(27, 9), (54, 18), (9, 4), (3, 2), (1, 1), (5, 3), (1000, 333)]
)
def test_epochs_scale_the_grace_period(epochs: int, grace: int) -> None:
    wanted = asked("quickstart", "--epochs", str(epochs)).space

    assert wanted.fixed["epochs"] == wanted.document["trial"]["epochs"] == epochs
    assert wanted.search.scheduler.grace_period == grace
    assert wanted.document["search"]["scheduler"]["grace_period"] == grace


def test_epochs_without_a_scheduler_in_the_file_change_only_the_budget(tmp_path: Path) -> None:
    text = builders.CONDITIONAL.replace("  scheduler: {name: asha, grace_period: 1", "  unused: {")
    text = "\n".join(line for line in text.splitlines() if "unused" not in line)
    (tmp_path / "mine.yaml").write_text(text)

    wanted = asked("mine.yaml", "--epochs", "50").space

    assert (wanted.fixed["epochs"], wanted.search.scheduler.grace_period) == (50, 1)
    assert "scheduler" not in wanted.document["search"]


@pytest.mark.parametrize(
    ("edit", "grace"),
    [
        ("search.scheduler.grace_period=2", 2),
        ("search.scheduler={name: asha, grace_period: 2}", 2),
        ("search.scheduler.reduction_factor=2", 3),
    ],
)
def test_a_grace_period_that_is_set_is_as_it_is_set(edit: str, grace: int) -> None:
    found = asked("quickstart", f"--set={edit}", "--epochs=8").space.search.scheduler
    assert found.grace_period == grace


def test_no_shipped_space_stops_a_trial_before_its_learning_rate_has_dropped() -> None:
    for name in sorted(path.stem for path in Path(search_spaces.__file__).parent.glob("*.yaml")):
        for epochs in (None, 2, 101):
            flags = ["--epochs", str(epochs)] if epochs else []
            wanted = asked(name, *flags).space
            optim = wanted.config(wanted.first_values(wanted.first_trials()[0]))["optim"]
            weight = torch.zeros(1, requires_grad=True)
            trained = optimizers.build([weight], wanted.fixed["epochs"], **optim)
            last = wanted.search.scheduler.grace_period - 1  # counted from 0
            assert trained.rate(last) < optim["lr"], (name, epochs)


@pytest.mark.parametrize(
    "optim", ["schedule=cosine", "milestones={type: float, low: 0, high: 1}", "milestones=[]"]
)
def test_a_grace_period_beside_no_drop_that_is_known_keeps_its_share(optim: str) -> None:
    data = {"trial": {"epochs": 27, "optim": {}}, "search": {"scheduler": {"grace_period": 9}}}
    key, _, value = optim.partition("=")
    data["trial"]["optim"][key] = yaml.safe_load(value)
    request._shorten(data, 9, None, False)
    assert data["search"]["scheduler"]["grace_period"] == 3


def test_trials_are_those_of_the_search() -> None:
    wanted = asked("quickstart", "--trials", "5").space
    assert wanted.search.trials == wanted.document["search"]["trials"] == 5


def test_an_edit_may_fix_search_and_bound() -> None:
    wanted = asked(
        "quickstart",
        "--set=trial.method.variant=drg_dsr",
        "--set=trial.method.alpha={type: float, low: 0.1, high: 0.5}",
        "--set=trial.method.beta.high=3.0",
        "--set=trial.optim.weight_decay={type: float, low: 1e-4, high: 1e-2, log: true}",
        "--set=trial.augment.cutout={type: int, low: 0, high: 2}",
        "--set=search.first_trials=[{method/alpha: 0.4}]",
        "--set=trial.data.root=~/elsewhere",
    ).space

    assert "method/variant" not in wanted.parameters
    assert wanted.fixed["method"]["variant"] == "drg_dsr"
    assert wanted.parameters["method/alpha"].when == {}
    assert wanted.parameters["method/beta"].distribution.high == 3.0
    assert wanted.fixed["data"]["root"] == "~/elsewhere"
    first = wanted.first_values(wanted.first_trials()[0])
    assert first["method/alpha"] == 0.4
    assert first["optim/weight_decay"] == 5e-4
    assert first["augment/cutout"] == 0
    assert sections.problems(wanted.config(first)) == []


def test_a_parameter_that_an_edit_fixes_leaves_the_first_trials() -> None:
    wanted = asked("--set", "trial.method.alpha=0.3").space
    (first,) = wanted.first_trials()
    assert "method/alpha" not in first
    assert wanted.config(wanted.first_values(first))["method"]["alpha"] == 0.3
    assert "method/alpha" in asked().space.first_trials()[0]


def test_what_a_replaced_section_has_no_more_leaves_the_first_trials() -> None:
    space = asked("--set", "trial.method={name: drg_dsr, alpha: {type: float, low: 0, high: 1}}")
    (first,) = space.space.first_trials()
    assert first == {"method/alpha": 0.2}


def test_an_edit_that_cannot_be_read_hides_nothing() -> None:
    found = problems("--set", "trial.optim=3", "--set", "bad")
    assert len(found) == 2


def test_a_parameter_that_an_edit_switches_off_leaves_the_first_trials() -> None:
    (first,) = asked("--set", "trial.method.variant=dsr").space.first_trials()
    assert first == {"method/beta": 1.0, "method/dsr_temperature": 4.0}


def test_edits_do_not_reach_the_next_request() -> None:
    asked("quickstart", "--set=trial.optim.lr=0.5", "--epochs=3")
    assert asked("quickstart").space.fixed["optim"] == {"lr": 0.05}


def test_a_study_is_named_by_flag_folder_or_time() -> None:
    assert asked("--name", "mine").folder.local == Path("studies/mine").absolute()
    stored = asked("--storage", "runs/one")
    assert (stored.name, stored.folder.local) == ("one", Path("runs/one").absolute())
    both = asked("--storage", "runs/one", "--name", "other")
    assert (both.name, both.folder.local) == ("other", Path("runs/one").absolute())


@pytest.mark.parametrize("flag", [["--name=mine"], ["--storage=studies/mine"]])
def test_a_study_that_exists_is_not_overwritten(flag: list[str]) -> None:
    saved("mine", 1.0)
    (problem,) = problems("quickstart", *flag)
    assert problem.startswith("it exists (0 trials ended, in ")
    assert problem.endswith("); add --resume, or give another --name")


class TestResume:
    def test_one_that_is_not_there_is_all_that_is_told(self) -> None:
        """Nobody has asked for the space that is taken when none is named."""
        (found,) = problems("--resume", "--name=typo", "--set=trial.method.no_such=1")
        assert found == "no study typo in ./studies to resume"

    def test_by_name_takes_the_space_of_the_study(self) -> None:
        saved("mine", 1.0)
        saved("newer", 2.0)

        wanted = asked("--resume", "--name", "mine")

        assert (wanted.name, wanted.old.name) == ("mine", "mine")
        assert wanted.space.name == "tiny"
        assert wanted.space.document == wanted.old.space
        assert wanted.folder.uri == wanted.old.folder.uri

    def test_alone_takes_the_newest_of_all(self) -> None:
        saved("b", 5.0)
        saved("a", 9.0, "quickstart")
        saved("c", 7.0)
        assert asked("--resume").name == "a"

    def test_with_a_space_takes_the_newest_of_that_space(self, tmp_path: Path) -> None:
        saved("a", 9.0, "other")
        saved("b", 5.0)
        saved("c", 7.0)
        (tmp_path / "tiny.yaml").write_text(builders.CONDITIONAL)
        wanted = asked("tiny.yaml", "--resume")
        assert wanted.name == "c"
        assert isinstance(wanted.space, SearchSpace)

    def test_by_storage_wherever_it_is(self, tmp_path: Path) -> None:
        saved("far", 1.0, place="elsewhere")
        assert asked("--resume", "--storage", "elsewhere/far").name == "far"
        uri = f"file://{tmp_path}/elsewhere/far"
        assert asked("--resume", "--storage", uri).name == "far"

    def test_asks_for_more_trials_of_the_same(self) -> None:
        saved("mine", 1.0)
        wanted = asked("--resume", "--name=mine", "--trials=40")
        assert wanted.space.search.trials == 40
        assert wanted.old.space["search"]["trials"] == 6

    def test_asks_for_no_fewer_than_there_are(self, tmp_path: Path) -> None:
        study = builders.mixed_study(tmp_path / "studies" / "mine")
        inside = len(study.records) - 1  # all but the baseline
        assert asked("--resume", "--name=mine", f"--trials={inside}").space.search.trials == inside
        (problem,) = problems("--resume", "--name=mine", f"--trials={inside - 1}")
        said = f"it has {inside} already, the baseline not counted"
        assert problem == f"--trials {inside - 1}: {said}"

    def test_of_what_is_not_there(self) -> None:
        assert problems("--resume") == ["no study in ./studies to resume"]
        assert problems("--resume", "--name=mine") == ["no study mine in ./studies to resume"]
        assert problems("quickstart", "--resume") == [
            "no study of the space quickstart in ./studies to resume"
        ]
        (problem,) = problems("--resume", "--storage=nowhere")
        assert problem == "there is no study here (study.json is missing)"

    def test_of_a_study_that_is_named_where_the_space_belongs(self) -> None:
        saved("night", 1.0)
        problem, _ = problems("night", "--resume")  # the other: no such space
        assert problem == "--resume: night is a study and no space: --name night"

    def test_of_a_final_training(self) -> None:
        saved("mine", 1.0)
        study = records.load(asked("--resume", "--name=mine").folder)
        study.kind = "training"
        study.save()
        assert "it is a final training" in problems("--resume", "--name=mine")[0]

    def test_still_names_what_else_is_wrong(self) -> None:
        found = problems(
            "quickstart", "--resume", "--name=mine", "--set=trial.seed=-1", "--trials=0"
        )
        assert len(found) == 3
        assert [
            part
            for part in ("no study mine", "trial.seed: -1", "--trials: '0'")
            if not any(part in problem for problem in found)
        ] == []


def test_everything_wrong_is_said_once(tmp_path: Path) -> None:
    saved("mine", 1.0)
    (tmp_path / "bad.yaml").write_text(builders.CONDITIONAL.replace("lr: 0.05", "lr: -1"))
    expected: dict[str, Any] = {
        "python -m skdtune.search: --epochs: 'x'": 1,
        "--set: --set x: expected PATH=VALUE": 1,
        "bad.yaml: line 11: trial.optim.lr: -1 is not above 0": 1,
        "study mine: it exists": 1,
    }
    found = problems("bad.yaml", "--epochs=x", "--set=x", "--name=mine")
    assert {part: sum(part in line for line in found) for part in expected} == expected
    assert len(found) == len(expected)
