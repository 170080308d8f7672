"""Checking a config: all problems at once, each at its exact place, and nothing valid refused."""

import inspect
import typing
from typing import Annotated, Literal

import pytest

from tests.trainables.tiny import config
from trainables import arguments, methods, models, sections
from trainables.arguments import value_problems
from trainables.bounds import Bounds, Count, NonNegative, Positive, Share
from trainables.sections import problems
from trainables.training import Training

PLAIN = {
    "data": {"name": "synthetic"},
    "model": {"name": "small_cnn"},
    "method": {"name": "cross_entropy"},
    "optim": {},
    "epochs": 1,
}


def without(*keys):
    return {key: value for key, value in PLAIN.items() if key not in keys}


VALID = {
    "plain": PLAIN,
    "small": config(),
    "no optim": without("optim"),
    "every setting": {
        "data": {
            "name": "synthetic",
            "root": "/x",
            "batch_size": 1,
            "validation_fraction": 0.5,
            "split_seed": 0,
            "classes": 3,
            "channels": 1,
        },
        "augment": {"crop_padding": 0, "flip": False, "cutout": 8},
        "model": {"name": "small_cnn", "width": 1},
        "method": {
            "name": "drg_dsr",
            "variant": "drg",
            "alpha": 0,
            "drg_temperature": 1,
            "aux_weight": 0.0,
            "stage": 3,
            "beta": 2,
            "dsr_temperature": 0.1,
            "carry_across_epochs": True,
        },
        "optim": {
            "lr": 1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0,
            "schedule": "cosine",
            "milestones": [0.1, 0.9],
            "gamma": 0.2,
            "warmup_epochs": 5,
            "clip_norm": None,
        },
        "epochs": 300,
        "seed": 0,
        "precision": "bfloat16",
        "channels_last": False,
    },
    "clip_norm a number": {**PLAIN, "optim": {"clip_norm": 0.5}},
    "no milestones": {**PLAIN, "optim": {"milestones": []}},
    "image folder": {**PLAIN, "data": {"name": "imagefolder", "root": "x", "image_size": None}},
    "cifar": {**PLAIN, "data": {"name": "cifar100", "download": False}},
}


@pytest.mark.parametrize("trial", VALID.values(), ids=VALID)
def test_valid(trial):
    assert problems(trial) == []


@pytest.mark.parametrize("name", ["plain", "small", "no optim"])
def test_what_is_valid_can_be_built(name):
    Training(**VALID[name])


def changed(section: str, **settings) -> dict:
    return {**PLAIN, section: {**PLAIN.get(section, {}), **settings}}


def drg_dsr(**settings) -> dict:
    return {**PLAIN, "method": {"name": "drg_dsr", **settings}}


INVALID = [
    # (config, {place: what the message must hold})
    ({}, {"data.name": "is missing", "model.name": "", "method.name": "", "epochs": "is missing"}),
    (without("epochs"), {"epochs": "is missing"}),
    (
        without("method"),
        {"method.name": f"is missing; one of {', '.join(sorted(methods.classes()))}"},
    ),
    ({**PLAIN, "epochs": 0}, {"epochs": "0 is not at least 1"}),
    ({**PLAIN, "epochs": 1.0}, {"epochs": "1.0 is not a whole number"}),
    ({**PLAIN, "epochs": True}, {"epochs": "True is not a whole number"}),
    ({**PLAIN, "epochs": "3"}, {"epochs": "'3' is not a whole number"}),
    ({**PLAIN, "epochs": None}, {"epochs": "None is not a whole number"}),
    ({**PLAIN, "epochs": {"low": 1}}, {"epochs": "must be a value, not a section"}),
    ({**PLAIN, "seed": -1}, {"seed": "-1 is not at least 0"}),
    ({**PLAIN, "precision": "bf16"}, {"precision": "one of auto, float32, bfloat16"}),
    ({**PLAIN, "channels_last": "yes"}, {"channels_last": "'yes' is not true or false"}),
    ({**PLAIN, "channels_last": 1}, {"channels_last": "1 is not true or false"}),
    ({**PLAIN, "epoch": 3}, {"epoch": "did you mean epochs?"}),
    ({**PLAIN, "modle": {}}, {"modle": "did you mean model?"}),
    ({**PLAIN, "final": True}, {"final": "no such section or setting"}),
    ({**PLAIN, "device": "cpu"}, {"device": "no such section or setting"}),
    ({**PLAIN, "model": None}, {"model": "must be a section of settings, not None"}),
    ({**PLAIN, "model": "resnet18"}, {"model": "must be a section of settings, not 'resnet18'"}),
    ({**PLAIN, "optim": [1]}, {"optim": "must be a section of settings, not [1]"}),
    (changed("model", name="resnet81"), {"model.name": "did you mean resnet18?"}),
    (changed("model", name=18), {"model.name": "18 is not one of"}),
    (changed("model", name=["resnet18"]), {"model.name": "['resnet18'] is not one of"}),
    (changed("model", name={"type": "x"}), {"model.name": "is not one of"}),
    (changed("model", widht=3), {"model.widht": "(it has width); did you mean width?"}),
    (changed("model", width=0), {"model.width": "0 is not at least 1"}),
    (changed("data", name="cifar-100"), {"data.name": "did you mean cifar100?"}),
    (changed("data", final=True), {"data.final": "synthetic has no such setting"}),
    (changed("data", batchsize=3), {"data.batchsize": "did you mean batch_size?"}),
    (changed("data", download=True), {"data.download": "synthetic has no such setting"}),
    (changed("data", validation_fraction=1), {"data.validation_fraction": "above 0 and below 1"}),
    (changed("data", validation_fraction=0.0), {"data.validation_fraction": "0.0 is not above 0"}),
    (changed("data", root=3), {"data.root": "3 is not text"}),
    (changed("augment", flip="no"), {"augment.flip": "'no' is not true or false"}),
    (changed("augment", name="x"), {"augment.name": "augment has no such setting"}),
    (
        changed("method", alpha=1.0),
        {"method.alpha": "cross_entropy has no such hyperparameter (it has none)"},
    ),
    (drg_dsr(drg_temprature=4.0), {"method.drg_temprature": "did you mean drg_temperature?"}),
    (drg_dsr(drg_temperature=0), {"method.drg_temperature": "0 is not above 0"}),
    (drg_dsr(alpha="1e-4"), {"method.alpha": "'1e-4' is not a number"}),
    (drg_dsr(alpha=float("nan")), {"method.alpha": "nan is not a number"}),
    (drg_dsr(alpha=float("inf")), {"method.alpha": "inf is not a number"}),
    (drg_dsr(alpha=-0.1), {"method.alpha": "-0.1 is not at least 0"}),
    (drg_dsr(alpha=[0.1]), {"method.alpha": "[0.1] is not a number"}),
    (drg_dsr(variant="drgdsr"), {"method.variant": "did you mean drg_dsr?"}),
    (drg_dsr(stage=4), {"method.stage": "4 is no stage of this backbone (1 to 3)"}),
    (drg_dsr(stage=0), {"method.stage": "0 is not at least 1"}),
    (changed("optim", lr=0), {"optim.lr": "0 is not above 0"}),
    (changed("optim", lr="1e-1"), {"optim.lr": "'1e-1' is not a number"}),
    (changed("optim", schedule="cosin"), {"optim.schedule": "did you mean cosine?"}),
    (changed("optim", milestones=0.3), {"optim.milestones": "0.3 is not a list, each a number"}),
    (changed("optim", milestones=[0.3, 60]), {"optim.milestones[1]": "60 is not above 0 and"}),
    (changed("optim", clip_norm=0), {"optim.clip_norm": "0 is not above 0"}),
    (changed("optim", clip_norm="x"), {"optim.clip_norm": "a number above 0 or null"}),
    (changed("optim", epochs=3), {"optim.epochs": "optim has no such setting"}),
    (changed("optim", momentum=0, nesterov=True), {"optim.nesterov": "needs a momentum above 0"}),
    (
        {**PLAIN, "epochs": -1, "optim": {"lr": -1, "x": 0}, "model": {"name": "y"}, "z": 1},
        {"z": "", "epochs": "", "optim.lr": "", "optim.x": "", "model.name": ""},
    ),
]


@pytest.mark.parametrize(("trial", "expected"), INVALID, ids=lambda value: None)
def test_invalid(trial, expected):
    found = problems(trial)
    assert sorted(place for place, _ in found) == sorted(expected)
    for place, what in found:
        assert expected[place] in what


@pytest.mark.parametrize(
    ("value", "allowed", "guess"),
    [
        ("temprature", ["alpha", "temperature"], "; did you mean temperature?"),
        ("bta", ["alpha", "beta"], "; did you mean beta?"),
        ("zzz", ["alpha", "beta"], ""),
        (3, ["alpha"], ""),
        ("x", [], ""),
    ],
)
def test_the_nearest_guess(value, allowed, guess):
    assert arguments.nearest(value, allowed) == guess


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3], [1.0, True, "1", None, [1]]),
        (float, [0, 1.5, -2], [True, "1", None, float("nan"), float("inf")]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "x"], [1, None, True]),
        (Count, [1, 10], [0, -1, 1.5, True]),
        (Positive, [1, 1e-9], [0, -1, "1", True]),
        (NonNegative, [0, 0.0], [-1e-9, None]),
        (Share, [0.5], [0, 1, -0.5, 2]),
        (Annotated[float, Bounds(at_least=1, at_most=2)], [1, 2, 1.5], [0.99, 2.01]),
        (Literal["a", "b"], ["a"], ["c", 1, None]),
        (Literal[1, 2], [1], [True, 1.0, "1", 3]),
        (Count | None, [None, 3], [0, 2.5, "x"]),
        (list[Share], [[], [0.1, 0.2]], [0.1, [0.1, 2], ["x"], [[0.1]], None]),
        (float | Literal["auto"], [1, "auto"], ["other", None]),
    ],
)
def test_values_against_annotations(annotation, good, bad):
    for value in good:
        assert value_problems("x", value, annotation) == []
    for value in bad:
        (found,) = value_problems("x", value, annotation)
        assert found[0] in ("x", "x[0]", "x[1]", "x[0][0]")
        assert found[1]


def every_builder():
    for section in ("data", "model", "method", "optim", "augment"):
        for name in sections.names(section) or [None]:
            yield section, name


@pytest.mark.parametrize(("section", "name"), list(every_builder()))
def test_every_signature_can_be_checked(section, name):
    """Each setting is annotated with what the check knows, and its default passes it."""
    for key, parameter in sections.parameters(section, name).items():
        assert parameter.annotation is not typing.Any, key
        value = object()
        (found,) = value_problems(key, value, parameter.annotation)
        assert found[0] == key
        default = parameter.default
        if default is inspect.Parameter.empty:
            continue  # it must be given
        given = list(default) if isinstance(default, tuple) else default
        assert value_problems(key, given, parameter.annotation) == []


@pytest.mark.parametrize("kind", methods.classes().values(), ids=methods.classes())
def test_every_hyperparameter_of_a_method_is_keyword_only_and_checkable(kind):
    own = [p for p in inspect.signature(kind).parameters.values() if p.name != "model"]
    assert all(p.kind is p.KEYWORD_ONLY for p in own)
    name = kind.__module__.rpartition(".")[2]
    assert set(sections.parameters("method", name)) == {p.name for p in own}


@pytest.mark.parametrize("name", sorted(models.builders()))
def test_every_option_of_a_backbone_is_keyword_only(name):
    parameters = list(inspect.signature(models.builders()[name]).parameters.values())
    assert [p.name for p in parameters[:2]] == ["classes", "channels"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[2:])


def test_checking_trains_nothing_and_reads_no_data():
    trial = {**PLAIN, "data": {"name": "imagefolder", "root": "/nowhere"}}
    trial["model"] = {"name": "resnet101"}
    assert problems(trial) == []


def test_arguments_of_any_function_can_be_checked():
    def sample(*, seed: Count = 1, kind: Literal["a", "b"] = "a"):
        return seed, kind

    found = arguments.argument_problems("s", {"sed": 1, "kind": "c"}, sample, "no such setting")
    assert [place for place, _ in found] == ["s.sed", "s.kind"]
    assert "did you mean seed?" in found[0][1]
