"""What a final training is measured against: from the search through best.yaml to the gain."""

import json
from pathlib import Path

import pytest
import torch

from skdtune import comparison, export, final, records, space, strict_yaml
from skdtune.errors import ConfigError
from skdtune.leaderboard import rank
from skdtune.records import Study
from skdtune.strict_yaml import Document
from skdtune.writer import Writer
from tests.skdtune import builders
from tests.skdtune.test_final import CONFIG
from trainables.metrics import TEST, score_names
from trainables.storage import Folder

PLAIN = {"method": {"name": "label_smoothing"}}


def test_best_yaml_names_the_baseline_and_the_authors_default(tmp_path: Path) -> None:
    study = builders.mixed_study(tmp_path / "tiny")
    path = tmp_path / "best.yaml"
    path.write_text(export.text(study))
    best = space.load(path)
    by_role = {record.role: record.config for record in study.records.values()}
    assert best.compare == {
        "authors_default": by_role[records.DEFAULT],
        "baseline": by_role[records.BASELINE],
    }
    kept = strict_yaml.read(path).data["compare"]
    assert set(kept["baseline"]) == {"method"}, "only what differs"


def test_a_winner_with_a_learning_rate_of_its_own_meets_the_baseline_with_it_too(tmp_path) -> None:
    study = builders.mixed_study(tmp_path / "tiny")
    winner = rank(study).winner.record
    assert "baseline_alike" not in comparison.against(study, winner)
    winner.config["optim"] = {"lr": 0.3}
    found = comparison.against(study, winner)
    assert set(found["baseline"]) == {"method", "optim"}
    assert found["baseline_alike"] == {"method": found["baseline"]["method"]}


def test_the_winner_is_not_compared_with_itself(tmp_path: Path) -> None:
    study = builders.mixed_study(tmp_path / "tiny")
    for record in study.records.values():
        if record.role != records.DEFAULT and record.status == records.FINISHED:
            record.epochs[-1]["val/accuracy"] = -1.0
    assert rank(study).winner.record.role == records.DEFAULT
    assert set(export.document(study)["compare"]) == {"baseline"}


def test_what_is_edited_in_the_trial_holds_for_all(tmp_path: Path) -> None:
    document = {"trial": {**CONFIG, "epochs": 9}, "compare": {"plain": PLAIN}}
    built = space.build(Document(document), "best", "best.yaml")
    assert built.compare == {"plain": {**CONFIG, "epochs": 9, **PLAIN}}


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        (3, "compare: must hold a name for each config"),
        ({"seed": PLAIN}, "compare.seed: a name is of small letters, digits and _, not seed"),
        ({"a/b": PLAIN}, "compare.a/b: a name is of small letters"),
        ({"a": 1}, "compare.a: must hold the sections in which it differs"),
        ({"a": {"method": {"name": "drg"}}}, "compare.a.method.name: "),
        ({"a": {"method": {"name": "drg_dsr", "alhpa": 1}}}, "did you mean alpha?"),
        ({"a": {"optim": {"lr": {"type": "float", "low": 0, "high": 1}}}}, "compare.a.optim.lr: "),
        ({"a": {"modle": {}}}, "compare.a.modle: a trial has no such section"),
    ],
)
def test_a_mistake_is_named_with_its_place(compare: object, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        space.build(Document({"trial": CONFIG, "compare": compare}), "best", "best.yaml")
    assert said in str(refused.value)


def test_seeds_of_a_search_begin_behind_the_one_that_chose(tmp_path: Path) -> None:
    study = Study("x", "training", {"trial": CONFIG, "provenance": {"study": "s"}}, "best")
    chosen = final.add_seeds(study, CONFIG, 2, {"baseline": {**CONFIG, **PLAIN}})
    assert [(record.key, record.role, record.seed) for record in chosen] == [
        ("seed-0", records.SEED, 8),
        ("seed-1", records.SEED, 9),
        ("baseline-0", records.COMPARED, 8),
        ("baseline-1", records.COMPARED, 9),
    ]


def test_a_training_of_before_is_compared_on_its_own_seeds() -> None:
    study = Study("x", "training", {"trial": CONFIG}, "best")
    final.add_seeds(study, CONFIG, 2)
    study.space["provenance"] = {"study": "s"}
    chosen = final.add_seeds(study, CONFIG, 3, {"plain": {**CONFIG, **PLAIN}})
    assert [(record.key, record.seed) for record in chosen] == [
        *(("seed-0", 7), ("seed-1", 8), ("seed-2", 10)),
        *(("plain-0", 7), ("plain-1", 8), ("plain-2", 10)),
    ]


def test_another_config_under_a_name_that_was_trained_is_refused() -> None:
    study = Study("x", "training", {"trial": CONFIG}, "best")
    final.add_seeds(study, CONFIG, 1, {"plain": {**CONFIG, **PLAIN}})
    other = {**CONFIG, "method": {"name": "label_smoothing", "eps": 0.3}}
    with pytest.raises(
        ConfigError, match=r"compare\.plain: was another config when it was trained"
    ):
        final.add_seeds(study, CONFIG, 1, {"plain": other})
    assert final.add_seeds(study, CONFIG, 1), "without it the training goes on"


def test_parts_that_do_not_fit_together_are_told_before_anything_trains() -> None:
    staged = {**CONFIG, "model": {"name": "resnet18"}, "method": {"name": "drg_dsr", "stage": 4}}
    compare = {"small": {"model": {"name": "small_cnn"}}}
    space.build(Document({"trial": staged}), "best", "best.yaml")
    with pytest.raises(ConfigError, match=r"compare\.small\.method\.stage"):
        space.build(Document({"trial": staged, "compare": compare}), "best", "best.yaml")


def test_the_gain_is_that_of_the_same_seeds(tmp_path: Path) -> None:
    """One seed more or one that failed leaves the others paired as they were."""
    study = Study("x", "training", {"trial": CONFIG}, "best")
    final.add_seeds(study, CONFIG, 3, {"baseline": {**CONFIG, **PLAIN}})
    scores = {"seed": (0.9, 0.8, 0.7), "baseline": (0.85, 0.6, 0.1)}
    for name, values in scores.items():
        for index, value in enumerate(values):
            record = study.records[f"{name}-{index}"]
            record.status, record.epochs = records.FINISHED, [{"test/accuracy": value}]
    study.records["seed-2"].status = records.DIVERGED
    value, gain = comparison.gains(study, "test/accuracy")["baseline"]
    assert value.values == [0.85, 0.6]
    assert gain.values == pytest.approx([0.05, 0.2])
    # Student's t with one degree of freedom, by hand: 12.7062 * (0.15 / sqrt 2) / sqrt 2
    assert gain.half_width == pytest.approx(12.7062 * 0.075, rel=1e-4)


def test_a_gain_is_positive_where_the_config_is_better_in_every_score() -> None:
    study = Study("x", "training", {"trial": CONFIG}, "best")
    final.add_seeds(study, CONFIG, 1, {"baseline": {**CONFIG, **PLAIN}})
    good = {"test/accuracy": 0.9, "test/top5": 1.0, "test/loss": 0.25, "test/ece": 0.125}
    bad = {"test/accuracy": 0.4, "test/top5": 0.5, "test/loss": 0.75, "test/ece": 0.625}
    for key, scores in (("seed-0", good), ("baseline-0", bad)):
        record = study.records[key]
        record.status, record.epochs = records.FINISHED, [scores]
    assert set(good) == set(score_names(TEST))
    for name in good:
        assert comparison.gains(study, name)["baseline"][1].values == [0.5], name


def test_a_training_compares_and_keeps_models_of_its_seeds_alone(tmp_path: Path) -> None:
    study = Study("tiny", "training", {"trial": CONFIG}, "best", folder=Folder(tmp_path))
    chosen = final.add_seeds(study, CONFIG, 1, {"plain": {**CONFIG, **PLAIN}})
    study.save()
    writer = Writer(study)
    desk = final.Desk(study, writer, lambda line: None)
    final.train(study, chosen, desk, torch.device("cpu"))
    writer.close()
    result = json.loads((tmp_path / "result.json").read_text())
    beside = result["compared"]["plain"]["test/accuracy"]
    assert beside["values"] == [study.records["plain-0"].last["test/accuracy"]]
    own = result["test/accuracy"]["mean"]
    assert beside["gain"]["values"] == pytest.approx([own - beside["mean"]])
    assert Folder(tmp_path).names("models") == ["seed-0"]
