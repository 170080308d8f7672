"""What a final training says of itself: over how many seeds, what became of the others, given
what."""

import json

import pytest

from skdtune import conclusion, final, records
from skdtune.records import Study
from tests.skdtune.test_final import CONFIG
from trainables.metrics import TEST, score_names
from trainables.storage import Folder

BASELINE = {"baseline": {**CONFIG, "method": {"name": "label_smoothing"}}}
ENDS = {"+": records.FINISHED, "d": records.DIVERGED, "f": records.FAILED, "-": records.PENDING}


def ended(folder, seeds: str, config: dict = CONFIG, compare: dict | None = None, **arms: str):
    """A training of so many seeds: a letter of ENDS each, and a score that falls by 0.125 with the
    index; who is compared scores 0.25 less."""
    study = Study("x", "training", {"trial": config}, "best", folder=Folder(folder))
    final.add_seeds(study, config, len(seeds), compare or (BASELINE if arms else {}))
    for name, ends in {"seed": seeds, **arms}.items():
        for index, end in enumerate(ends):
            record = study.records[f"{name}-{index}"]
            score = 0.75 - 0.125 * index - 0.25 * (name != "seed")
            record.status = ENDS[end]
            record.epochs = [dict.fromkeys(score_names(TEST), score)]
    return study


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("+++", "(mean and 95 % interval over 3 seeds; test set; "),
        ("+d+", "(mean and 95 % interval over 2 of 3 seeds; 1 diverged; test set; "),
        (
            "f++d-",
            "(mean and 95 % interval over 2 of 5 seeds; 1 diverged, 1 failed, 1 unfinished; ",
        ),
        ("+", "(one seed: no interval; test set; "),
        ("d+d", "(no interval: 1 of 3 seeds; 2 diverged; test set; "),
        ("df", "no seed has finished; 1 diverged, 1 failed"),
    ],
)
def test_it_is_said_over_how_many_seeds_it_is_and_what_became_of_the_others(tmp_path, seeds, said):
    assert conclusion.lines(ended(tmp_path, seeds))[-1].startswith(said)


@pytest.mark.parametrize(
    ("seeds", "baseline", "said"),
    [
        ("+++", "+++", "+0.2500 ± 0.0000 over baseline (0.3750 ± 0.3105, the same seeds)"),
        (
            "+++",
            "++f",
            "+0.2500 ± 0.0000 over baseline "
            "(0.4375 ± 0.7941, 2 pairs of the same seed; of baseline 1 failed)",
        ),
        ("d++", "+++", "+0.2500 ± 0.0000 over baseline (0.3125 ± 0.7941, the same seeds)"),
        (
            "+d+",
            "++d",
            "+0.2500 over baseline (0.5000, 1 pair of the same seed; of baseline 1 diverged)",
        ),
        (
            "+++",
            "fff",
            "no gain over baseline (no seed has finished for both; of baseline 3 failed)",
        ),
        (
            "+d",
            "d+",
            "no gain over baseline (no seed has finished for both; of baseline 1 diverged)",
        ),
    ],
)
def test_a_gain_says_of_how_many_pairs_it_is(tmp_path, seeds, baseline, said):
    study = ended(tmp_path, seeds, baseline=baseline)
    assert conclusion.lines(study)[4] == f"test/accuracy  {said}"


def test_the_result_holds_the_same_counts(tmp_path):
    final.write_result(ended(tmp_path, "+d+f-", baseline="+++++"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["seeds"] == {
        **{"asked": 5, "finished": 2, "diverged": 1, "failed": 1, "unfinished": 1},
        "without_a_teacher": 0,
        "given_one_teacher": False,
    }
    assert result["compared"]["baseline"]["seeds"] == {
        **{"asked": 5, "finished": 5, "diverged": 0, "failed": 0, "unfinished": 0, "pairs": 2},
        "without_a_teacher": 0,
        "given_one_teacher": False,
    }
    assert result["compared"]["baseline"]["test/loss"]["gain"]["values"] == [-0.25, -0.25]
    final.write_result(ended(tmp_path, "dd", baseline="++"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) == {"seeds", "compared"}
    assert result["compared"]["baseline"]["seeds"]["pairs"] == 0


def test_a_seed_whose_teacher_was_lost_is_not_called_unfinished(tmp_path):
    own = {**CONFIG, "method": {"name": "tf_kd_self"}}
    study = ended(tmp_path, "+--", own)
    study.records["teacher-1"].status = records.DIVERGED
    line = conclusion.lines(study)[-1]
    assert line.startswith("(no interval: 1 of 3 seeds; 1 without a teacher, 1 unfinished; ")
    assert json.loads(conclusion.as_json(study))["seeds"]["without_a_teacher"] == 1


def test_an_interval_of_seeds_that_share_a_teacher_says_so(tmp_path):
    named, own = (
        {**CONFIG, "method": {"name": "kd", "teacher": teacher}} for teacher in ("/t", None)
    )
    study = ended(tmp_path, "++", named)
    assert "; given one teacher; " in conclusion.lines(study)[-1]
    assert json.loads(conclusion.as_json(study))["seeds"]["given_one_teacher"]
    assert "given one teacher" not in conclusion.lines(ended(tmp_path, "++", own))[-1]
    study = ended(tmp_path, "++", compare={"kd": named}, kd="++")
    assert conclusion.lines(study)[4].endswith(", the same seeds; given one teacher)")
    assert "given one teacher" not in conclusion.lines(study)[-1]
