"""SGD, its schedules and clipping: exact values."""

import copy
import math

import pytest
import torch

from trainables import optim


def rate(epochs: int = 200, **settings):
    return optim.build([torch.zeros(1, requires_grad=True)], epochs, **settings).rate


def test_multistep_is_the_authors_schedule():
    at = rate(lr=0.1)
    expected = {0: 0.1, 59.99: 0.1, 60: 0.01, 119.99: 0.01, 120: 1e-3, 159.9: 1e-3, 160: 1e-4}
    for epoch, value in {**expected, 199.99: 1e-4}.items():
        assert at(epoch) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("epochs", [10, 27, 30, 100, 300])
def test_milestones_scale_with_the_length(epochs):
    at = rate(epochs, lr=1.0, gamma=0.5)
    rates = [at(epoch) for epoch in range(epochs)]
    for drop, share in enumerate((0.3, 0.6, 0.8)):
        assert rates.index(0.5 ** (drop + 1)) == round(share * epochs)


def test_milestones_and_gamma_are_taken():
    at = rate(10, lr=1.0, milestones=[0.5], gamma=0.2)
    assert [at(4), at(5), at(9)] == [1.0, 0.2, 0.2]


def test_cosine_falls_from_the_peak_to_zero():
    at = rate(10, lr=0.4, schedule="cosine")
    assert at(0) == 0.4
    assert at(5) == pytest.approx(0.2)
    assert at(2.5) == pytest.approx(0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert at(10) == pytest.approx(0, abs=1e-12)
    assert 0 < at(10 - 1 / 400) < 1e-6
    values = [at(epoch / 10) for epoch in range(101)]
    assert values == sorted(values, reverse=True)


def test_warm_up_rises_from_zero_to_where_the_schedule_begins():
    at = rate(20, lr=0.1, schedule="cosine", warmup_epochs=4)
    assert [at(0), at(1), at(2)] == pytest.approx([0, 0.025, 0.05])
    assert at(4) == pytest.approx(0.1)
    assert at(12) == pytest.approx(0.05)
    assert at(20) == pytest.approx(0, abs=1e-12)
    at = rate(200, lr=0.1, warmup_epochs=1)
    assert [at(0.5), at(1), at(60)] == pytest.approx([0.05, 0.1, 0.01])


def test_constant_is_constant():
    at = rate(lr=0.3, schedule="constant")
    assert {at(epoch) for epoch in range(200)} == {0.3}


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_the_equation(nesterov):
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    optimizer = optim.build([weight], 10, **settings, schedule="constant")
    plain, speed = [1.0, -2.0], [0.0, 0.0]
    for epoch in range(3):
        optimizer.step((weight**2).sum(), epoch)
        for i in range(2):
            gradient = 2 * plain[i] + 0.01 * plain[i]
            speed[i] = 0.9 * speed[i] + gradient
            plain[i] -= 0.1 * (gradient + 0.9 * speed[i] if nesterov else speed[i])
    assert weight.tolist() == pytest.approx(plain, rel=1e-5)


def test_the_rate_of_a_step_is_that_of_its_epoch():
    weight = torch.tensor([0.0], requires_grad=True)
    optimizer = optim.build(
        [weight], 10, lr=1.0, momentum=0.0, weight_decay=0.0, milestones=[0.5], gamma=0.1
    )
    optimizer.step(weight.sum(), 4.9)
    assert weight.item() == pytest.approx(-1.0)
    optimizer.step(weight.sum(), 5.0)
    assert weight.item() == pytest.approx(-1.1)


def test_clipping_bounds_the_norm_over_all_parameters():
    weights = [torch.zeros(3, requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
    optimizer = optim.build(
        weights, 10, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip_norm=0.5
    )

    def moved(scale: float) -> float:
        before = [weight.detach().clone() for weight in weights]
        optimizer.step(sum(scale * weight.sum() for weight in weights), 0)
        steps = [(w.detach() - b) for w, b in zip(weights, before, strict=True)]
        return math.sqrt(sum(step.pow(2).sum().item() for step in steps))

    assert moved(100.0) == pytest.approx(0.5, rel=1e-4)
    assert moved(0.01) == pytest.approx(0.01 * math.sqrt(7), rel=1e-4)  # small: left as it is


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match=r"^optim.nesterov: "):
        rate(nesterov=True, momentum=0.0)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_parameter_whose_gradient_comes_with_a_later_batch_is_trained_as_without_fusion(momentum):
    """As the second of a method may be, which compares a batch with the one before."""
    found = []
    for fused in (True, False):
        first, second = (torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
        settings = {"lr": 0.1, "momentum": momentum, "weight_decay": 5e-4}
        sgd = torch.optim.SGD([first, second], fused=False, **settings)
        ours = optim.build([first, second], 9, **settings)
        for batch in range(4):
            loss = (first**2).sum() + ((first * second).sum() if batch else 0.0)
            if fused:
                ours.step(loss, 0.0)
                continue
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()
        found.append(torch.cat([first, second]).detach())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_trains_as_torch_does_and_goes_on_from_what_torch_saved(nesterov):
    """Checkpoints of before had torch's own state."""
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": nesterov}
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, 2.0, -3.0])) for _ in range(2))
    optimizer = optim.build([ours], 9, **settings)
    sgd = torch.optim.SGD([theirs], **settings)
    for batch in range(6):
        if batch == 3:
            optimizer = optim.build([ours], 9, **settings)
            optimizer.load_state_dict(copy.deepcopy(sgd.state_dict()))
        optimizer.step((ours**2).sum(), 0.0)
        sgd.zero_grad()
        (theirs**2).sum().backward()
        sgd.step()
        torch.testing.assert_close(ours, theirs)
