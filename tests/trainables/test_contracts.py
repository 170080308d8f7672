"""The contracts of a method and of a backbone, held against every file in their folders."""

import io
import itertools

import pytest
import torch

from tests.trainables.tiny import batch, method_settings, required, same
from trainables import methods, models, sections
from trainables.folders import modules

BACKBONES = ["small_cnn", "resnet20"]
FAMILIES = sorted(family.__all__[0] for family in modules(models).values())
# a method's switches on the first backbone, its defaults on both
CASES = [
    (name, settings, backbone)
    for name, settings in method_settings()
    for backbone in (BACKBONES[:1] if settings else BACKBONES)
]
TASK = methods.Task(images=64, epochs=10, mean=torch.zeros(3), std=torch.ones(3))
IDS = [f"{name}-{'-'.join(map(str, settings.values()))}-{b}" for name, settings, b in CASES]
PAIRS = [
    # one of RSD, whose branches make it five networks, takes as long as ten of others
    pytest.param(name, family, marks=[pytest.mark.slow] if name == "rsd" else [])
    for name in sorted(methods.classes())
    for family in FAMILIES
]
every = pytest.mark.parametrize(("name", "settings", "backbone"), CASES, ids=IDS)


def build(name: str, settings: dict, backbone: str, seed: int = 0, size: int = 8) -> methods.Method:
    torch.manual_seed(seed)
    model = models.build(backbone, 4, (3, size, size))
    method = methods.build(name, model, **required(name), **settings)
    method.start_training(TASK)
    return method


def told(
    method: methods.Method, number: int = 0, size: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of that number, of 8 images of that side, as the loop has it: the method knows
    which images they are, has a companion beside each if it asks for one, and meets the same random
    numbers."""
    torch.manual_seed(number)
    images, labels = batch(seed=number, size=size)
    indices = torch.arange(8 * number, 8 * number + 8)
    if method.companion is not None:
        images = torch.cat([images, batch(seed=100 + number, size=size)[0]])
        labels, indices = labels.repeat(2), indices.repeat(2)
    method.start_batch(indices)
    return images, labels


def step(method: methods.Method, number: int, sgd: torch.optim.SGD | None = None, size: int = 8):
    """One update on the batch of that number; its logits, terms and total."""
    logits, terms = method.losses(*told(method, number, size))
    total = sum(terms.values())
    method.zero_grad()
    total.backward()
    if sgd:
        sgd.step()
    return logits, terms, total


def without_gradient(method: methods.Method) -> list[str]:
    return [key for key, p in method.named_parameters() if p.grad is None or not p.grad.any()]


def optimizer(method: methods.Method) -> torch.optim.SGD:
    return torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)


@every
def test_terms_are_finite_scalars_and_logits_fit(name, settings, backbone):
    method = build(name, settings, backbone)
    method.start_epoch()
    for number in range(2):
        logits, terms, _ = step(method, number)
        assert logits.shape == (8, 4)
        assert "ce" in terms
        for term in terms.values():
            assert term.shape == ()
            assert torch.isfinite(term)
        assert all(name.isidentifier() for name in terms)  # part of a metric's name


@every
def test_a_gradient_reaches_every_parameter(name, settings, backbone):
    method = build(name, settings, backbone)
    step(method, 0)
    step(method, 1)
    assert without_gradient(method) == []
    assert all(p.grad.isfinite().all() for p in method.parameters())


@every
def test_a_step_lowers_the_loss_it_trains_on(name, settings, backbone):
    method = build(name, settings, backbone)
    # small, as a loss of several heavy terms takes several times the step of one
    sgd = torch.optim.SGD(method.parameters(), lr=0.001)

    def total():
        method.start_epoch()
        return sum(method.losses(*told(method))[1].values())

    first = total()
    for _ in range(5):
        method.zero_grad()
        total().backward()
        sgd.step()
    assert total() < first


@every
def test_a_state_taken_within_an_epoch_goes_on_to_the_bit(name, settings, backbone):
    method = build(name, settings, backbone)
    sgd = optimizer(method)
    method.start_epoch()
    for number in range(2):
        step(method, number, sgd)
    buffer = io.BytesIO()
    torch.save([method.state_dict(), sgd.state_dict()], buffer)
    buffer.seek(0)
    states = torch.load(buffer, weights_only=True)

    other = build(name, settings, backbone, seed=1)
    other_sgd = optimizer(other)
    other.load_state_dict(states[0])
    other_sgd.load_state_dict(states[1])
    for number in (2, 3):
        assert same(step(method, number, sgd)[:2], step(other, number, other_sgd)[:2])
    assert same(method.state_dict(), other.state_dict())


@every
def test_the_deployed_model_answers_as_the_method_does(name, settings, backbone):
    method = build(name, settings, backbone)
    step(method, 0, optimizer(method))
    images, _ = batch(seed=5)
    method.eval()
    with torch.no_grad():
        logits = method(images)
        shipped = method.deploy().eval()
        torch.testing.assert_close(shipped(images), logits, atol=1e-5, rtol=1e-5)
    plain = models.build(backbone, 4, (3, 8, 8))
    assert shipped.state_dict().keys() == plain.state_dict().keys()


@every
def test_logits_and_terms_stay_float32_under_mixed_precision(name, settings, backbone):
    method = build(name, settings, backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method.losses(*told(method))
        logits, terms = method.losses(*told(method, 1))
    assert logits.dtype == torch.float32
    assert {term.dtype for term in terms.values()} == {torch.float32}


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_every_method_fits_every_family_of_backbones(name, backbone):
    own = required(name, channels=1)
    with torch.device("meta"):
        method = methods.build(name, models.build(backbone, 4, (1, 8, 8)), **own)
    method.to_empty(device="cpu")  # nothing is drawn; torch's batch norm is slow on meta
    for value in itertools.chain(method.parameters(), method.buffers()):
        value.detach().fill_(1)
    method.start_training(methods.Task(2, 1, torch.zeros(1), torch.ones(1)))
    count = 2 if method.companion is None else 4
    labels = torch.zeros(count, dtype=torch.long)
    method.start_batch(labels)
    logits, terms = method.losses(torch.zeros(count, 1, 32, 32), labels)
    assert logits.shape == (2, 4)
    assert all(term.shape == () for term in terms.values())
    config = {"data": {"name": "synthetic"}, "optim": {}, "epochs": 1}
    assert (
        sections.problems(
            {**config, "model": {"name": backbone}, "method": {"name": name, **required(name)}}
        )
        == []
    )


@pytest.mark.parametrize("name", sorted(methods.classes()))
def test_a_method_says_what_it_computes(name):
    assert methods.classes()[name].__doc__
