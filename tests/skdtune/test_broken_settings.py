"""Mistakes in the text of a file and in its settings: each is named by its place and its value."""

from pathlib import Path

import pytest

from skdtune import search
from tests.skdtune.breakable import ALPHA, STAGE, Refuse, assert_said, edited
from trainables import sections


def _names(section: str) -> str:
    return ", ".join(sections.names(section))


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
    "no scheduler at all": (
        [("scheduler: {name: asha, grace_period: 3}", "scheduler: null")],
        ["search.scheduler: must be a section of settings"],
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
    (tmp_path / "mine.yaml").write_text(edited(*edits))
    assert_said(refuse(search.main, "mine.yaml"), expected)
