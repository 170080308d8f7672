"""What is shipped: the trained model's answers, on plain images, without what trained it."""

import json

import pytest
import torch

from tests.trainables.tiny import config, method_settings, required
from trainables import data, methods, shipping
from trainables.training import Training


def trained(**sections) -> Training:
    training = Training(**config(epochs=1, **sections))
    for _ in training.epochs():
        pass
    return training


@pytest.mark.parametrize(
    ("name", "settings"), method_settings(), ids=lambda value: str(value).replace(" ", "")
)
def test_the_shipped_model_scores_what_the_training_reported(tmp_path, name, settings):
    training = trained(method={"name": name, **required(name), **settings})
    shipped = shipping.ship(training.method, training.sets)
    model = config()["model"]
    shipping.save(tmp_path / "m", shipped, model, training.sets.image_shape)
    loaded = shipping.load(tmp_path / "m")
    assert not loaded.training
    images = training.sets.held_out
    with torch.no_grad():
        logits = loaded(images.pixels / 255)
        assert torch.equal(logits, shipped(images.pixels / 255))
    accuracy = (logits.argmax(1) == images.labels).float().mean().item()
    assert accuracy == pytest.approx(training.history[-1]["val/accuracy"])
    loss = torch.nn.functional.cross_entropy(logits, images.labels).item()
    assert loss == pytest.approx(training.history[-1]["val/loss"], rel=1e-4)


def test_nothing_that_serves_training_alone_is_shipped(tmp_path):
    training = trained()
    assert any("auxiliary" in name for name, _ in training.method.named_parameters())
    shipped = shipping.ship(training.method, training.sets)
    model = training.method.model
    assert set(shipped.state_dict()) == {f"network.{k}" for k in model.state_dict()} | {
        "mean",
        "std",
    }


def test_the_description_says_all_that_is_needed(tmp_path):
    training = trained(method={"name": "cross_entropy"})
    shipped = shipping.ship(training.method, training.sets)
    shipped.classes = ("été", "日本", "a/b", "")
    shipping.save(tmp_path / "deep" / "er", shipped, {"name": "small_cnn", "width": 4}, (3, 8, 8))
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    found = json.loads((tmp_path / "deep" / "er" / "model.json").read_text())
    assert found == {
        "model": {"name": "small_cnn", "width": 4},
        "image_shape": [3, 8, 8],
        "classes": ["été", "日本", "a/b", ""],
        "unseen": None,
    }
    assert shipping.unseen(tmp_path / "deep" / "er") is None
    shipping.save(tmp_path, shipped, {"name": "small_cnn", "width": 4}, (3, 8, 8), {"seed": 1})
    assert shipping.unseen(str(tmp_path)) == {"seed": 1}
    assert shipping.load(str(tmp_path / "deep" / "er")).classes == shipped.classes


def test_weights_that_do_not_fit_the_description_are_refused(tmp_path):
    training = trained(method={"name": "cross_entropy"})
    shipped = shipping.ship(training.method, training.sets)
    shipping.save(tmp_path, shipped, {"name": "small_cnn", "width": 5}, (3, 8, 8))
    with pytest.raises(ValueError, match="size mismatch"):
        shipping.load(tmp_path)


def test_a_model_of_grey_images_is_shipped_as_one():
    sets = data.build("digits")
    method = methods.build("cross_entropy", trained(data={"name": "digits"}).method.model)
    shipped = shipping.ship(method, sets)
    assert shipped(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert shipped.classes == tuple("0123456789")
