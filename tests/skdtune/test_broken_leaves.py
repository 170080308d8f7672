"""Mistakes in what is searched: ranges, choices, conditions and first trials, each by its place."""

from pathlib import Path

import pytest

from skdtune import search
from tests.skdtune.breakable import ALPHA, STAGE, Refuse, assert_said, edited

WHEN = "when: {method/variant: [drg, drg_dsr]}"
CHOICES = "choices: [drg, dsr, drg_dsr]"
FIRST = "{method/alpha: 0.2}"

# What a file says wrongly, and all that the message must hold
EDITED = {
    "a key that a leaf has not": (
        [(ALPHA, "{type: float, low: 0.02, hihg: 2.0, logg: true}")],
        ["alpha.hihg: no such key of a float", "did you mean high?", "alpha.logg", "mean log?"]
        + ["trial.method.alpha.high: is missing"],
    ),
    "a type that there is not": (
        [(STAGE, "{type: integer, low: 1, high: 3}")],
        ["line 8: trial.method.stage.type: 'integer' is not one of float, int, categorical"]
        + ["did you mean int?"],
    ),
    "a type that is no text": (
        [(STAGE, "{type: [int], low: 1}")],
        ["trial.method.stage.type: ['int'] is not one of float, int, categorical"],
    ),
    "ranges": (
        [
            (ALPHA, "{type: float, low: 2.0, high: 0.02, log: true}"),
            (STAGE, "{type: int, low: 2, high: 2}"),
            ("lr: 0.05", "lr: {type: float, low: 0, high: 0.1, log: true}, gamma: {type: float}"),
            ("width: 8", "width: {type: int, low: 1.5, high: ten}"),
            ("batch_size: 64", "batch_size: {type: int, low: 8, high: 64, log: 1}"),
        ],
        [
            "line 7: trial.method.alpha: low (2) must be below high (0.02)",
            "trial.method.stage: low (2) must be below high (2)",
            "trial.optim.lr.low: 0: a log scale needs a low above 0",
            "trial.optim.gamma.low: is missing",
            "trial.optim.gamma.high: is missing",
            "trial.model.width.low: 1.5 is not a whole number",
            "trial.model.width.high: 'ten' is not a whole number",
            "trial.data.batch_size.log: 1 is not true or false",
        ],
    ),
    "nan and inf as bounds": (
        [
            (ALPHA, "{type: float, low: .nan, high: .inf}"),
            ("lr: 0.05", "lr: {type: float, low: -.inf, high: 1e400}"),
        ],
        [
            "trial.method.alpha.low: nan is not a number",
            "trial.method.alpha.high: inf is not a number",
            "trial.optim.lr.low: -inf is not a number",
            "trial.optim.lr.high: inf is not a number",
        ],
    ),
    "steps": (
        [
            (ALPHA, "{type: float, low: 0.0, high: 1.0, step: 0}"),
            (STAGE, "{type: int, low: 1, high: 3, step: 5}"),
            ("lr: 0.05", "lr: {type: float, low: 0.1, high: 1.0, log: true, step: 0.1}"),
            ("width: 8", "width: {type: int, low: 1, high: 9, step: 0.5}"),
            ("batch_size: 64", "batch_size: {type: int, low: 1, high: 9, step: -2}"),
        ],
        [
            "trial.method.alpha.step: 0 is not above 0",
            "trial.method.stage.step: 5 does not divide the range 1 to 3",
            "trial.optim.lr.step: a log scale has no step",
            "trial.model.width.step: 0.5 is not a whole number",
            "trial.data.batch_size.step: -2 is not above 0",
        ],
    ),
    "a step in a range wider than a float": (
        [(ALPHA, "{type: float, low: -1.7e308, high: 1.7e308, step: 1.0}")],
        ["trial.method.alpha.step: 1 does not divide the range -1.7e+308 to 1.7e+308"],
    ),
    "choices": (
        [
            (ALPHA, "{type: categorical, choices: []}"),
            (STAGE, "{type: categorical, choices: [1, 2, 2, 1]}"),
            ("width: 8", "width: {type: categorical, choices: [[4], {a: 1}, .nan]}"),
            ("lr: 0.05", "lr: {type: categorical}, gamma: {type: categorical, choices: 0.1}"),
        ],
        [
            "trial.method.alpha.choices: is missing or empty",
            "trial.method.stage.choices: 1 is given twice",
            "trial.method.stage.choices: 2 is given twice",
            "trial.model.width.choices[0]: [4]: a choice is text, a number, true, false or null",
            "trial.model.width.choices[1]: {'a': 1}: a choice",
            "trial.model.width.choices[2]: nan: a choice",
            "trial.optim.lr.choices: is missing or empty",
            "trial.optim.gamma.choices: is missing or empty",
        ],
    ),
    "a choice that cannot be built": (
        [(CHOICES, "choices: [drg, dsr, drg_dsr, drgdsr]")],
        ["trial.method.variant: 'drgdsr' is not one of drg, dsr, drg_dsr; did you mean"],
    ),
    "bounds of a method and of a setting": (
        [
            ("low: 0.02, high: 2.0, log: true", "low: -1.0, high: 2.0"),
            (STAGE, "{type: int, low: 0, high: 3}"),
            ("lr: 0.05", "lr: {type: float, low: 0.0, high: 1.0}"),
        ],
        [
            "line 7: trial.method.alpha: -1.0 is not at least 0",
            "line 8: trial.method.stage: 0 is not at least 1",
            "line 9: trial.optim.lr: 0.0 is not above 0",
        ],
    ),
    "a stage that resnet20 has not": (
        [("{name: small_cnn, width: 8}", "{name: resnet20}"), (STAGE, "7")],
        ["line 8: trial.method.stage: 7 is no stage of this backbone (1 to 3)"],
    ),
    "a searched stage that small_cnn has not": (
        [(STAGE, "{type: int, low: 1, high: 4}")],
        ["trial.method.stage: 4 is no stage of this backbone (1 to 3)"],
    ),
    "a section that is searched": (
        [("{name: small_cnn, width: 8}", "{type: categorical, choices: [resnet18]}")],
        ["trial.model: cannot be searched: only what is in a section can"],
    ),
    "epochs that are searched": (
        [("epochs: 9", "epochs: {type: int, low: 1, high: 9}")],
        ["trial.epochs: cannot be searched: only what is in a section can"],
    ),
    "a leaf in a leaf, and one where nothing is searched": (
        [
            (STAGE, "{value: {type: int, low: 1, high: 3}}"),
            ("trials: 4", "trials: {type: int, low: 1, high: 3}"),
        ],
        ["trial.method.stage: must be a value, not a section (a whole number at least 1)"]
        + ["search.trials: must be a value, not a section (a whole number at least 1)"],
    ),
    "when: unknown parent": (
        [(WHEN, "when: {method/varient: [drg]}")],
        ["line 7: trial.method.alpha.when: method/varient is not a parameter of this space; "]
        + ["did you mean method/variant?"],
    ),
    "when: a value that never is taken": (
        [(WHEN, "when: {method/variant: [drg, dgr], method/stage: [9, 1.5]}")],
        [
            "trial.method.alpha.when: method/variant never is 'dgr' (drg | dsr | drg_dsr)",
            "trial.method.alpha.when: method/stage never is 9 (1 to 3)",
            "trial.method.alpha.when: method/stage never is 1.5 (1 to 3)",
        ],
    ),
    "when: a cycle": (
        [
            (CHOICES, f"{CHOICES}, when: {{method/stage: [1]}}"),
            (STAGE, "{type: int, low: 1, high: 3, when: {method/variant: [drg]}}"),
        ],
        ["method/variant and method/stage wait for each other"],
    ),
    "when: itself": (
        [(STAGE, "{type: int, low: 1, high: 3, when: {method/stage: [1]}}")],
        ["line 8: trial.method.stage.when: method/stage and method/stage wait for each other"],
    ),
    "when: no mapping": (
        [(WHEN, "when: [method/variant]")],
        ["line 7: trial.method.alpha.when: must be a mapping from a parameter (section/key) to"],
    ),
    "when: no list of values": (
        [(WHEN, "when: {method/variant: drg, method/stage: []}")],
        ["trial.method.alpha.when.method/variant: must be a list of values"]
        + ["trial.method.alpha.when.method/stage: must be a list of values"],
    ),
    "first_trials outside their ranges": (
        [(FIRST, "{method/alpha: 3.0, method/variant: drgdsr, method/stage: 1.5}")],
        [
            "line 16: search.first_trials[0]: method/alpha: 3.0 is not in 0.02 to 2 (log)",
            "search.first_trials[0]: method/variant: 'drgdsr' is not in drg | dsr | drg_dsr",
            "search.first_trials[0]: method/stage: 1.5 is not in 1 to 3",
        ],
    ),
    "first_trials with an unknown parameter": (
        [(FIRST, "{method/alpha: 0.2}\n    - {method/alhpa: 0.2, optim/lr: 0.1}")],
        [
            "line 17: search.first_trials[1]: method/alhpa is not searched (searched: "
            "method/variant, method/stage, method/alpha); did you mean method/alpha?",
            "search.first_trials[1]: optim/lr is not searched",
        ],
    ),
    "first_trials with a parameter that is switched off": (
        [(FIRST, "{method/alpha: 0.2, method/variant: dsr}")],
        ["search.first_trials[0]: method/alpha is switched off by its `when` here"],
    ),
    "first_trials that are no list": (
        [("first_trials:\n    - {method/alpha: 0.2}", "first_trials: {method/alpha: 0.2}")],
        ["search.first_trials: must be a list of mappings from a parameter to its value"],
    ),
    "first_trials that are no mappings": (
        [(FIRST, "0.2")],
        ["search.first_trials: must be a list of mappings from a parameter to its value"],
    ),
    "more first_trials than trials": (
        [("trials: 4", "trials: 1"), (FIRST, "{method/stage: 1}\n    - {method/stage: 2}")],
        ["search.first_trials: 2 entries, but search.trials is 1"],
    ),
}


@pytest.mark.parametrize("case", EDITED)
def test_a_mistake_in_a_file_is_named(case: str, refuse: Refuse, tmp_path: Path) -> None:
    edits, expected = EDITED[case]
    (tmp_path / "mine.yaml").write_text(edited(*edits))
    assert_said(refuse(search.main, "mine.yaml"), expected)
