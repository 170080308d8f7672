"""Every mistake in a file or a flag: exit code 2, each problem named by place and value, no
traceback, nothing left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from skdtune import errors, export, leaderboard, records, search, sync, train
from tests import programs
from tests.skdtune import builders
from trainables import sections

SPACE = """\
trial:
  data: {name: digits, batch_size: 64, validation_fraction: 0.25}
  model: {name: small_cnn, width: 8}
  method:
    name: drg_dsr
    variant: {type: categorical, choices: [drg, dsr, drg_dsr]}
    alpha: {type: float, low: 0.02, high: 2.0, log: true, when: {method/variant: [drg, drg_dsr]}}
    stage: {type: int, low: 1, high: 3}
  optim: {lr: 0.05}
  epochs: 9
search:
  trials: 4
  sampler: {name: tpe, seed: 0}
  scheduler: {name: asha, grace_period: 3}
  first_trials:
    - {method/alpha: 0.2}
resources: {cpu: 1}
"""
FIXED = """\
trial:
  data: {name: digits}
  model: {name: small_cnn}
  method: {name: cross_entropy}
  optim: {lr: 0.05}
  epochs: 2
"""
ALPHA = "{type: float, low: 0.02, high: 2.0, log: true, when: {method/variant: [drg, drg_dsr]}}"
WHEN = "when: {method/variant: [drg, drg_dsr]}"
STAGE = "{type: int, low: 1, high: 3}"
CHOICES = "choices: [drg, dsr, drg_dsr]"
FIRST = "{method/alpha: 0.2}"

SPACES = sorted(path.stem for path in (Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def _names(section: str) -> str:
    return ", ".join(sections.names(section))


Main = Callable[[list[str]], int]
Refuse = Callable[..., str]


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Refuse:
    """Runs a program in an empty folder of its own and returns what it says on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(errors.signals, "listen", lambda handler: None)  # pytest keeps its own

    def run(main: Main, *arguments: str) -> str:
        before = _content(tmp_path)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        began = time.monotonic()
        with pytest.raises(SystemExit) as ending:
            errors.run(main)
        out, said = capsys.readouterr()
        assert ending.value.code == errors.USAGE
        assert not out
        assert "Traceback" not in said
        assert _content(tmp_path) == before
        assert time.monotonic() - began < 5
        return said

    return run


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def _edited(*edits: tuple[str, str]) -> str:
    text = SPACE
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} must be in the space once"
        text = text.replace(old, new)
    return text


# What a file says wrongly, and all that the message must hold
EDITED = {
    "unknown keys at every level": (
        [
            ("trial:\n", "trail: {}\ntrial:\n  epocs: 3\n"),
            ("batch_size: 64", "batchsize: 64"),
            ("width: 8", "widht: 8"),
            ("name: drg_dsr\n", "name: drg_dsr\n    drg_temprature: 4.0\n"),
            ("lr: 0.05", "learning: 0.05, momentun: 0.9"),
            ("trials: 4", "trails: 4"),
            ("{name: tpe, seed: 0}", "{name: tpe, sed: 0}"),
            ("grace_period: 3", "grace: 3"),
            ("cpu: 1", "cpus: 1"),
        ],
        [
            "line 1: trail: no such section "
            "(there are trial, search, resources, compare, provenance); did you mean trial?",
            "line 3: trial.epocs: a trial has no such section or setting",
            "did you mean epochs?",
            "line 4: trial.data.batchsize: digits has no such setting",
            "did you mean batch_size?",
            "line 5: trial.model.widht: small_cnn has no such setting (it has width); did you mean",
            "line 8: trial.method.drg_temprature: drg_dsr has no such hyperparameter (it has var",
            "did you mean drg_temperature?",
            "trial.optim.learning: optim has no such setting",
            "trial.optim.momentun",
            "did you mean momentum?",
            "search.trails: search has no such setting",
            "did you mean trials?",
            "search.sampler.sed: search.sampler has no such setting",
            "did you mean seed?",
            "search.scheduler.grace: search.scheduler has no such setting",
            "did you mean grace_period?",
            "resources.cpus: resources has no such setting (it has cpu, gpu); did you mean cpu?",
        ],
    ),
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
    "values of the wrong type": (
        [
            ("batch_size: 64", "batch_size: 64.0"),
            ("validation_fraction: 0.25", "validation_fraction: a quarter"),
            ("width: 8", "width: [8]"),
            ("lr: 0.05", "lr: true, nesterov: 1, schedule: 3, milestones: [0.5, half]"),
            ("epochs: 9", "epochs: nine\n  seed: null\n  augment: {flip: no, cutout: 1.5}"),
            ("trials: 4", "trials: many"),
            ("cpu: 1", "cpu: one"),
        ],
        [
            "trial.data.batch_size: 64.0 is not a whole number",
            "trial.data.validation_fraction: 'a quarter' is not a number",
            "trial.model.width: [8] is not a whole number",
            "trial.optim.lr: True is not a number",
            "trial.optim.nesterov: 1 is not true or false",
            "trial.optim.schedule: 3 is not one of multistep, cosine, constant",
            "trial.optim.milestones[1]: 'half' is not a number",
            "trial.epochs: 'nine' is not a whole number",
            "trial.seed: None is not a whole number",
            "trial.augment.flip: 'no' is not true or false",
            "trial.augment.cutout: 1.5 is not a whole number",
            "search.trials: 'many' is not a whole number",
            "resources.cpu: 'one' is not a number",
        ],
    ),
    "values outside their bounds": (
        [
            ("batch_size: 64", "batch_size: 0"),
            ("validation_fraction: 0.25", "validation_fraction: 1.0"),
            ("lr: 0.05", "lr: 0, weight_decay: -1, momentum: .nan, gamma: .inf, milestones: [1.5]"),
            ("epochs: 9", "epochs: 0\n  seed: -1"),
            ("trials: 4", "trials: 0"),
            ("seed: 0", "seed: 4294967296"),
            ("grace_period: 3", "grace_period: 0, reduction_factor: 1"),
            ("cpu: 1", "cpu: 0, gpu: -1"),
        ],
        [
            "trial.data.batch_size: 0 is not at least 1",
            "trial.data.validation_fraction: 1.0 is not above 0 and below 1",
            "trial.optim.lr: 0 is not above 0",
            "trial.optim.weight_decay: -1 is not at least 0",
            "trial.optim.momentum: nan is not a number",
            "trial.optim.gamma: inf is not a number",
            "trial.optim.milestones[0]: 1.5 is not above 0 and below 1",
            "trial.epochs: 0 is not at least 1",
            "trial.seed: -1 is not at least 0",
            "search.trials: 0 is not at least 1",
            "search.sampler.seed: 4294967296 is not at least 0 and below 4.29497e+09",
            "search.scheduler.grace_period: 0 is not at least 1",
            "search.scheduler.reduction_factor: 1 is not above 1",
            "resources.cpu: 0 is not above 0",
            "resources.gpu: -1 is not at least 0",
        ],
    ),
    "sections that are none": (
        [
            ("  model: {name: small_cnn, width: 8}", "  model: small_cnn"),
            ("{lr: 0.05}", "[0.05]"),
            ("{name: tpe, seed: 0}", "tpe"),
            ("{name: asha, grace_period: 3}", "[asha]"),
            ("{cpu: 1}", "1"),
        ],
        [
            "line 3: trial.model: must be a section of settings, not 'small_cnn'",
            "trial.optim: must be a section of settings, not [0.05]",
            "search.sampler: must be a section of settings",
            "search.scheduler: must be a section of settings",
            "resources: must be a section of settings",
        ],
    ),
    "words that YAML 1.1 takes for something else": (
        [
            ("width: 8", "width: 012"),
            ("lr: 0.05", "lr: 1:30, nesterov: on, momentum: 1_0, gamma: 0x10"),
            ("epochs: 9", "epochs: 2020-01-01\n  channels_last: yes"),
        ],
        [
            "trial.model.width: '012' is not a whole number",
            "trial.optim.lr: '1:30' is not a number",
            "trial.optim.nesterov: 'on' is not true or false",
            "trial.optim.momentum: '1_0' is not a number",
            "trial.optim.gamma: '0x10' is not a number",
            "trial.epochs: '2020-01-01' is not a whole number",
            "trial.channels_last: 'yes' is not true or false",
        ],
    ),
    "a mistake in a setting of the search hides no other": (
        [("name: tpe", "nmae: tpe"), ("method/alpha: 0.2", "method/alpha: 20.0")],
        [
            "search.sampler.nmae: search.sampler has no such setting",
            "search.first_trials[0]: method/alpha: 20.0 is not in 0.02 to 2 (log)",
        ],
    ),
    "a mistake in a setting of the search makes none up": (
        [
            (ALPHA, "0.2"),
            (STAGE, "1"),
            ("{type: categorical, choices: [drg, dsr, drg_dsr]}", "drg"),
            ("trials: 4", "trials: 1\n  metrik: x"),
            ("    - {method/alpha: 0.2}", "    - {}"),
        ],
        ["mine.yaml: 1 problem", "search.metrik: search has no such setting"],
    ),
    "a number of trials that is none makes no problem of others": (
        [("trials: 4", "trials: many\n  warm_start: {study: x, trials: 30}")],
        ["mine.yaml: 1 problem", "search.trials: 'many' is not a whole number"],
    ),
    "1E5 is a float and no whole number": (
        [("epochs: 9", "epochs: 1E5")],
        ["trial.epochs: 100000.0 is not a whole number"],
    ),
    "duplicate keys": (
        [
            ("lr: 0.05", "lr: 0.05, lr: 0.1"),
            ("  epochs: 9", "  epochs: 9\n  epochs: 10"),
            ("resources: {cpu: 1}", "resources: {cpu: 1}\ntrial: {}"),
        ],
        [
            "line 9: lr is given twice (first on line 9)",
            "line 11: epochs is given twice (first on line 10)",
            "line 19: trial is given twice (first on line 1)",
        ],
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
    "names that there are not": (
        [
            ("name: digits", "name: digit"),
            ("name: small_cnn", "name: smal_cnn"),
            ("name: drg_dsr", "name: [drg]"),
            ("name: tpe", "name: tpr"),
            ("name: asha", "name: pasha"),
        ],
        [
            f"trial.data.name: 'digit' is not one of {_names('data')}; did you mean digits?",
            "did you mean digits?",
            "trial.model.name: 'smal_cnn' is not one of ",
            "did you mean small_cnn?",
            f"trial.method.name: ['drg'] is not one of {_names('method')}",
            "search.sampler.name: 'tpr' is not one of tpe, gp, random; did you mean tpe?",
            "search.scheduler.name: 'pasha' is not one of asha, none; did you mean asha?",
        ],
    ),
    "names that are missing": (
        [("name: digits, ", ""), ("name: small_cnn, ", ""), ("    name: drg_dsr\n", "")],
        [
            f"trial.{section}.name: is missing; one of {_names(section)}"
            for section in ("data", "model", "method")
        ],
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
    "no scheduler at all": (
        [("scheduler: {name: asha, grace_period: 3}", "scheduler: null")],
        ["search.scheduler: must be a section of settings"],
    ),
    "more first_trials than trials": (
        [("trials: 4", "trials: 1"), (FIRST, "{method/stage: 1}\n    - {method/stage: 2}")],
        ["search.first_trials: 2 entries, but search.trials is 1"],
    ),
    "a grace period of more than the budget": (
        [("grace_period: 3", "grace_period: 10")],
        ["line 14: search.scheduler.grace_period: 10 is more than trial.epochs (9)"],
    ),
    "a mode against its metric": (
        [("trials: 4", "trials: 4\n  metric: val/loss\n  mode: max")],
        ["line 14: search.mode: 'max': of val/loss the min is the best"],
    ),
    "a metric that there is not": (
        [("trials: 4", "trials: 4\n  metric: val/acuracy\n  mode: maximise")],
        [
            "search.metric: 'val/acuracy' is not one of val/accuracy, val/top5, val/loss, val/ece",
            "did you mean val/accuracy?",
            "search.mode: 'maximise' is not one of max, min",
        ],
    ),
    "the test set as a metric": (
        [("trials: 4", "trials: 4\n  metric: test/accuracy")],
        ["search.metric: 'test/accuracy' is not one of val/accuracy, "],
    ),
    "resources that Ray cannot give": (
        [("cpu: 1", "cpu: 0.00005, gpu: 0.00005")],
        ["resources.cpu: 5e-05: Ray divides no finer than 0.0001"]
        + ["line 17: resources.gpu: 5e-05: Ray divides no finer than 0.0001"],
    ),
    "more than the one GPU that a trial trains on": (
        [("cpu: 1", "cpu: 1, gpu: 1.5")],
        ["line 17: resources.gpu: 1.5 is not at least 0 and at most 1"],
    ),
    "provenance with a number that no record holds": (
        [("resources: {cpu: 1}", "provenance: {score: [1.0, .nan]}")],
        ["provenance.score.1: nan is no finite number"],
    ),
    "a name with a slash": (
        [("lr: 0.05", "lr: 0.05, a/b: {type: int, low: 0, high: 1}")],
        ["trial.optim.a/b: a name has no slash"],
    ),
    "provenance that is none": (
        [("resources: {cpu: 1}", "provenance: [a]")],
        ["line 17: provenance: must be a section: where the config came from"],
    ),
    "tags": (
        [
            ("lr: 0.05", "lr: !!python/object/apply:os.system ['touch broken-in']"),
            ("width: 8", "width: !foo 8"),
            ("epochs: 9", "epochs: !!binary aGVsbG8="),
            ("{cpu: 1}", "!!set {cpu}"),
            ("batch_size: 64", "batch_size: !!timestamp 2020-01-01"),
        ],
        [
            "line 9: tag tag:yaml.org,2002:python/object/apply:os.system: tags are not allowed",
            "line 3: tag !foo: tags are not allowed",
            "line 10: tag tag:yaml.org,2002:binary: tags are not allowed",
            "line 17: tag tag:yaml.org,2002:set: tags are not allowed",
            "line 2: tag tag:yaml.org,2002:timestamp: tags are not allowed",
        ],
    ),
    "tags that claim a type": (
        [("epochs: 9", "epochs: !!int nine\n  channels_last: !!bool yes\n  seed: !!null zero")],
        [
            "line 10: 'nine' is not a number that can be read",
            "line 11: tag tag:yaml.org,2002:bool: tags are not allowed",
            "line 12: tag tag:yaml.org,2002:null: tags are not allowed",
        ],
    ),
    "an alias to what holds it": (
        [("optim: {lr: 0.05}", "optim: &o {lr: *o}")],
        ["line 9, column 10: an alias to what holds it"],
    ),
    "an alias without its anchor": (
        [("optim: {lr: 0.05}", "optim: *o")],
        ["line 9, column 10: found undefined alias 'o'"],
    ),
    "keys that are no text": (
        [("lr: 0.05", "1: 2, null: 3, [a]: 4, true: 5")],
        ["line 9: a key must be text"],
    ),
    "a key of digits that are none": (
        [("epochs: 9", "epochs: 9\n  ²: 3"), ("lr: 0.05", "'12345678901234567890': 1, '[5]': 2")],
        ["line 11: trial.²: a trial has no such", "trial.optim.12345678901234567890: optim has no"]
        + ["trial.optim.[5]: optim has no such setting"],
    ),
    "whole numbers of 5000 and of 400 digits": (
        [("epochs: 9", f"epochs: {'9' * 5000}"), ("lr: 0.05", f"lr: -{'8' * 400}")],
        ["line 10: '9999", "' is not a number that can be read"]
        + ["line 9: -8888", " is too large a whole number"],
    ),
    "a tab as indentation": (
        [("  epochs: 9", "\tepochs: 9")],
        ["line 10, column 1: found character '\\t' that cannot start any token"],
    ),
    "a bracket that is not closed": (
        [("{lr: 0.05}", "{lr: 0.05")],
        ["line 10, column 9: expected ',' or '}', but got ':'"],
    ),
    "several documents": (
        [("resources:", "---\nresources:")],
        ["line 17, column 1: but found another document"],
    ),
    "a NUL": ([("digits", "dig\0its")], ["special characters are not allowed"]),
}


@pytest.mark.parametrize("case", EDITED)
def test_a_mistake_in_a_file_is_named(case: str, refuse: Refuse, tmp_path: Path) -> None:
    edits, expected = EDITED[case]
    (tmp_path / "mine.yaml").write_text(_edited(*edits))

    said = refuse(search.main, "mine.yaml")

    assert said.startswith("mine.yaml: ")
    assert [text for text in expected if text not in said] == [], said


def _bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        levels.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(levels)


# Files that hold no space at all
CONTENTS = {
    "empty": (b"", "it must hold sections: trial, search, resources"),
    "only a comment": (b"# nothing\n", "it must hold sections"),
    "a list at the top": (b"- trial\n- search\n", "it must hold sections"),
    "a word": (b"trial\n", "it must hold sections"),
    "sections of nothing": (b"trial:\nsearch:\nresources:\n", "trial: must hold the config"),
    "sections that are scalars": (b"trial: 1\nsearch: 5\n", "search: must be a section"),
    "no section": (b"{}", "trial.data.name: is missing"),
    "not UTF-8": (b"trial: \xff\xfe\n", "it is not UTF-8 text: invalid start byte at byte 7"),
    "UTF-16": ("trial: {}".encode("utf-16"), "it is not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "it is not UTF-8 text"),
    "deep nesting": (b"[" * 100 + b"]" * 100, "nested deeper than 50 levels"),
    "very deep nesting": (b"[" * 200_000, "nested deeper than 50 levels"),
    "deep block nesting": (
        "\n".join(f"{' ' * level}k:" for level in range(300)).encode(),
        "nested deeper than 50 levels",
    ),
    "300 KB": (b"#" * 300 * 1024, "307200 bytes: a file has at most 262144"),
    "very many values": (b"[" + b"a," * 120_000 + b"a]", "more than 10000 values"),
    "very many keys": (
        "\n".join(f"k{n}: {n}" for n in range(11_000)).encode(),
        "more than 10000 values",
    ),
    "an alias bomb": (_bomb().encode(), "more than 10000 values"),
    "very many aliases": (b"a: &a 1\nb: [" + b"*a, " * 200 + b"1]", "more than 100 aliases"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_that_is_no_space_is_refused(case: str, refuse: Refuse, tmp_path: Path) -> None:
    content, expected = CONTENTS[case]
    (tmp_path / "mine.yaml").write_bytes(content)

    said = refuse(search.main, "mine.yaml")

    assert said.startswith("mine.yaml: ")
    assert expected in said


def test_what_is_no_regular_file_is_refused_at_once(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    os.symlink("nowhere", tmp_path / "dangling.yaml")

    assert "folder.yaml: 1 problem\n  it is not a regular file" in refuse(
        search.main, "folder.yaml"
    )
    assert "it is not a regular file" in refuse(search.main, "/dev/zero")
    assert "it is not a regular file" in refuse(search.main, "pipe.yaml")
    assert "No such file or directory" in refuse(search.main, "dangling.yaml")
    assert "No such file or directory" in refuse(search.main, "missing.yaml")
    assert "Not a directory" in refuse(search.main, "/dev/null/x.yaml")
    assert "File name too long" in refuse(search.main, f"{'a' * 300}.yaml")
    assert "no such name in search_spaces" in refuse(search.main, "a" * 300)


# Flags of the search, and all that the message must hold
FLAGS = {
    "--trials 0": (["--trials", "0"], ["--trials: '0' is not a whole number of at least 1"]),
    "--trials abc": (["--trials", "abc"], ["--trials: 'abc' is not a whole number of at least 1"]),
    "--trials -3": (["--trials", "-3"], ["--trials: '-3' is not a whole number of at least 1"]),
    "--trials 1e3": (["--trials=1e3"], ["--trials: '1e3' is not a whole number of at least 1"]),
    "--trials of 10 digits": (["--trials=9999999999"], ["--trials: '9999999999' is not a whole"]),
    "--epochs 2.5": (["--epochs", "2.5"], ["--epochs: '2.5' is not a whole number of at least 1"]),
    "--epochs in Arabic": (["--epochs", "٣"], ["--epochs: '٣' is not a whole number"]),
    "--concurrency 0": (["--concurrency=0"], ["--concurrency: '0' is not a whole number"]),
    "fewer trials than first ones": (
        ["--set=search.first_trials=[{}, {}]", "--trials=1"],
        ["search.first_trials: 2 entries, but search.trials is 1"],
    ),
    "--set without =": (
        ["--set", "trial.optim.lr"],
        ["--set trial.optim.lr: expected PATH=VALUE, such as trial.optim.lr=0.1"],
    ),
    "--set without a path": (["--set", "=3", "--set=a..b=1"], ["--set =3: exp", "--set a..b=1: e"]),
    "--set through a scalar": (
        ["--set=trial.epochs.more=1", "--set=trial.optim.lr=fast"],
        ["--set trial.epochs.more: trial.epochs is not a section"]
        + ["trial.optim.lr: 'fast' is not a number"],
    ),
    "--set of keys that there are not": (
        ["--set=trial.optim.lrr=1", "--set=trial.methd.alpha=1", "--set=serch.trials=3"],
        [
            "trial.optim.lrr: optim has no such setting",
            "did you mean lr?",
            "trial.methd: a trial has no such section",
            "did you mean method?",
            "serch: no such section",
            "did you mean search?",
        ],
    ),
    "--set of what is no YAML": (
        ["--set=trial.optim.lr=[1", "--set=trial.seed=!!python/name:os.system x"],
        ["--set trial.optim.lr: line 1, column 3: expected ',' or ']'"]
        + ["--set trial.seed: line 1: tag tag:yaml.org,2002:python/name:os.system"],
    ),
    "--set of a broken leaf": (
        ["--set=trial.optim.lr={type: float, low: 1, high: 0}"],
        ["trial.optim.lr: low (1) must be below high (0)"],
    ),
    "--name with a slash": (["--name", "a/b"], ["--name: 'a/b': a name has no slash"]),
    "--name with two dots": (["--name", ".."], ["--name: '..': a name has no slash"]),
    "--name with a control character": (["--name", "a\nb"], ["--name: 'a\\nb': a name has no"]),
    "--name of bytes": (["--name", "a\udcff"], ["--name: 'a\\udcff': a name has no"]),
    "--name of nothing": (["--name", " "], ["--name: ' ': a name has no slash"]),
    "--name too long": (["--name", "x" * 101], ["a name has at most 100 characters and 240 bytes"]),
    "--name of too many bytes": (["--name", "実験" * 49], ["at most 100 characters and 240 bytes"]),
    "--storage with a scheme that there is not": (
        ["--storage", "bogus://bucket/study"],
        ["--storage: 1 problem\n  bogus://bucket/study: Unrecognized filesystem type"],
    ),
    "--storage with a password": (
        ["--storage", "s3://key:S3CRET@bucket/study"],
        ["--storage: a password does not belong in a URI"],
    ),
    "--storage of nothing": (["--storage", ""], ["--storage: '' is not a path or URI"]),
    "--storage that cannot be parsed": (["--storage", "s3://[x/y"], ["--storage: not a URI"]),
    "--tracking-uri file:": (
        ["--tracking-uri", "file:/x"],
        ["--tracking-uri: 'file:/x': a database or a server (sqlite, postgresql, mysql, mssql, "],
    ),
    "--tracking-uri ./mlruns": (
        ["--tracking-uri", "./mlruns"],
        ["--tracking-uri: './mlruns': a database or a server", "such as sqlite:///mlflow.db"],
    ),
    "--tracking-uri with a password": (
        ["--tracking-uri", "https://me:S3CRET@mlflow.example"],
        ["--tracking-uri: a password does not belong in a URI; give it in MLFLOW_TRACKING_USERNAM"],
    ),
    "--tracking-uri with a password and a wrong scheme": (
        ["--tracking-uri", "ftp://me:S3CRET@mlflow.example"],
        ["--tracking-uri: a password does not belong in a URI"],
    ),
    "--tracking-uri that cannot be parsed": (
        ["--tracking-uri", "http://[::1"],
        ["--tracking-uri: not a URI: Invalid IPv6 URL"],
    ),
    "--address nonsense": (
        ["--address", "nonsense"],
        ["--address: 'nonsense' is not local, auto or HOST:PORT"],
    ),
    "--address with a scheme": (["--address", "ray://h:10001"], ["is not local, auto or HOST:PO"]),
    "an unknown flag": (["--resme"], ["--resme: no such flag; did you mean --resume?"]),
    "an abbreviated flag": (["--track=sqlite:///x"], ["--track=sqlite:///x: no such flag"]),
    "a flag without its value": (
        ["--trials", "--epochs", "x", "--name"],
        ["--trials: expected one argument", "--name: expected one argument"]
        + ["--epochs: 'x' is not a whole number"],
    ),
    "a switch with a value": (
        ["--check=yes", "--trials=0"],
        ["--check: ignored explicit argument 'yes'", "--trials: '0' is not"],
    ),
    "an argument too many": (["other"], ["other: no such argument"]),
    "--resume with no study": (
        ["--resume"],
        ["--resume: 1 problem\n  no study of the space quickstart in ./studies"],
    ),
    "--resume of a name that there is not": (
        ["--resume", "--name=mine", "--set=trial.epochs=0"],
        ["--resume: no study mine in ./studies to resume", "trial.epochs: 0 is not at least 1"],
    ),
    "--resume of a folder that is no study": (
        ["--resume", "--storage=here"],
        ["here: 1 problem", "there is no study here (study.json is missing)"],
    ),
    "resources of no machine": (
        ["--check", "--set=resources={cpu: 4000}"],
        ["resources.cpu: a trial asks for 4000, this machine has "],
    ),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_mistake_in_a_flag_is_named(case: str, refuse: Refuse) -> None:
    flags, expected = FLAGS[case]

    said = refuse(search.main, "quickstart", *flags)

    assert [text for text in expected if text not in said] == [], said
    assert "S3CRET" not in said


def test_wrong_flags_and_a_broken_file_are_named_together(refuse: Refuse, tmp_path: Path) -> None:
    broken = _edited(("lr: 0.05", "lr: fast"), (STAGE, "{type: int, low: 3, high: 1}"))
    (tmp_path / "mine.yaml").write_text(broken)

    flags = ["--trials", "0", "--epoch=3", "--name=a/b", "--set=nothing", "--storage=bogus://x"]
    said = refuse(search.main, "mine.yaml", *flags, "--address=mars")

    assert said.startswith("skdtune: 8 problems\n")
    for part in (
        "--trials: '0' is not",
        "--epoch=3: no such flag; did you mean --epochs?",
        "--name: 'a/b': a name has no slash",
        "--set nothing: expected PATH=VALUE",
        "--storage: bogus://x",
        "--address: 'mars' is not",
        "mine.yaml: line 9: trial.optim.lr: 'fast' is not a number",
        "mine.yaml: line 8: trial.method.stage: low (3) must be below high (1)",
    ):
        assert part in said


def test_a_misspelt_space_is_told_the_nearest(refuse: Refuse) -> None:
    said = refuse(search.main, "quikstart")

    assert said == (
        "quikstart: 1 problem\n  no such file, and no such name in search_spaces (it has "
        f"{', '.join(SPACES)}); did you mean quickstart?\n"
    )


def test_nothing_is_searched_but_many_trials_are_asked_for(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "fixed.yaml").write_text(FIXED + "search: {trials: 8}\n")

    said = refuse(search.main, "fixed.yaml")
    assert "line 7: search.trials: 8: nothing is searched, so there is one trial" in said

    (tmp_path / "fixed.yaml").write_text(FIXED)
    said = refuse(search.main, "fixed.yaml", "--trials", "8")
    assert "search.trials: 8: nothing is searched, so there is one trial" in said


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


def test_data_that_is_missing_or_damaged_is_found_before_anything_starts(
    refuse: Refuse, tmp_path: Path
) -> None:
    def said(data: str) -> str:
        (tmp_path / "mine.yaml").write_text(FIXED.replace("{name: digits}", data))
        return refuse(search.main, "mine.yaml")

    assert f"data set imagefolder: 1 problem\n  {tmp_path}/nowhere: no such folder" in said(
        "{name: imagefolder, root: nowhere}"
    )
    assert "CIFAR100 is not there or damaged; set trial.data.download to true" in said(
        "{name: cifar100, root: nowhere, download: false}"
    )
    for name in ("images/cat/1.png", "images/cat/2.png", "images/dog/1.png", "images/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    whole = (tmp_path / "images/cat/1.png").read_bytes()
    (tmp_path / "images/cat/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/dog/2.png").write_bytes(b"not an image")
    found = said("{name: imagefolder, root: images}")
    assert "of 4 images cannot be read" in found
    assert f"{tmp_path}/images/dog/2.png: " in found
    found = said("{name: imagefolder, root: images, image_size: 8}")
    assert "2 of 4 images cannot be read" in found
    assert f"{tmp_path}/images/cat/1.png: " in found
    (tmp_path / "images/dog/1.png").unlink()
    (tmp_path / "images/dog/2.png").unlink()
    assert f"{tmp_path}/images: no images in dog" in said("{name: imagefolder, root: images}")
    assert "too few images of a class to hold one out: 0 has 1, 1 has 1" in said(
        "{name: synthetic, images: 4}"
    )


TRAIN = {
    "no config": ([], ["CONFIG is missing"]),
    "no config, wrong flags": (
        ["--seeds", "--output", "x", "--sedes=3"],
        ["--seeds: expected one argument", "--sedes=3: no such flag; did you mean --seeds?"]
        + ["CONFIG is missing"],
    ),
    "--seeds 0": (["fixed.yaml", "--seeds", "0"], ["--seeds: '0' is not a whole number of at l"]),
    "--seeds many": (["fixed.yaml", "--seeds=many"], ["--seeds: 'many' is not a whole number"]),
    "--output that is a URI": (
        ["fixed.yaml", "--output=s3://b/x"],
        ["--output: 's3://b/x' is not a folder of this machine"],
    ),
    "--tracking-uri ./mlruns": (["fixed.yaml", "--tracking-uri=./mlruns"], ["--tracking-uri: './"]),
    "a config that is missing": (["best.yaml"], ["best.yaml: 1 problem", "No such file or direct"]),
    "leaves that are still searched": (
        ["mine.yaml", "--seeds=0"],
        [
            "--seeds: '0' is not a whole number",
            "mine.yaml: trial.method.variant is still searched",
            "mine.yaml: trial.method.stage is still searched",
            "mine.yaml: trial.method.alpha is still searched; fix each with --set, or train what "
            "skdtune.export writes",
        ],
    ),
    "a broken file and a broken edit": (
        ["fixed.yaml", "--set=trial.epochs=0", "--set=trial.epochs.x=1", "--seeds=x"],
        ["--set trial.epochs.x: trial.epochs is not a section", "--seeds: 'x' is not"]
        + ["trial.epochs: 0 is not at least 1"],
    ),
    "--set without =": (["fixed.yaml", "--set=x"], ["--set x: expected PATH=VALUE"]),
}


@pytest.mark.parametrize("case", TRAIN)
def test_a_mistake_in_a_training_is_named(case: str, refuse: Refuse, tmp_path: Path) -> None:
    arguments, expected = TRAIN[case]
    (tmp_path / "fixed.yaml").write_text(FIXED)
    (tmp_path / "mine.yaml").write_text(SPACE)

    said = refuse(train.main, *arguments)

    assert [text for text in expected if text not in said] == [], said


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


@pytest.mark.slow
def test_the_same_as_processes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(_edited(("lr: 0.05", "lr: fast"), ("trials: 4", "trials:")))
    (tmp_path / "tagged.yaml").write_text("!!python/object/apply:os.mkdir [studies]")
    before = _content(tmp_path)
    commands = {
        ("search", "mine.yaml", "--trails=3"): ["--trails=3: no such flag", "'fast' is not a numb"],
        ("train", "tagged.yaml", "--seeds=0"): ["tags are not allowed", "--seeds: '0' is not"],
        ("leaderboard", "mine"): ["no such study in ./studies or in sqlite:///mlflow.db"],
        ("search", "/dev/zero", "--name=\n"): ["it is not a regular file", "--name: '\\n'"],
    }
    processes = {
        command: subprocess.Popen(
            [sys.executable, "-m", f"skdtune.{command[0]}", *command[1:]],
            cwd=tmp_path,
            env=programs.environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    }
    for command, process in processes.items():
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out) == (errors.USAGE, ""), (command, said)
        assert "Traceback" not in said
        assert [text for text in commands[command] if text not in said] == [], said
    assert _content(tmp_path) == before
