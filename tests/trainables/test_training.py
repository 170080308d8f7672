"""The loop: reproducible to the bit, resumable to the bit, honest in what it reports."""

import os
import time

import pytest
import torch

from tests.trainables.layouts import folder, photograph
from tests.trainables.tiny import config, repeated, same
from tests.trainables.workers import gone, workers_of
from trainables import checkpoint, metrics
from trainables import data as image_data
from trainables import training as training_module
from trainables.checkpoint import Checkpoints
from trainables.storage import Folder
from trainables.training import Diverged, Training

METHODS = [
    {"name": "cross_entropy"},
    {"name": "drg_dsr"},
    {"name": "drg_dsr", "carry_across_epochs": True},
]


def run(trial: dict, checkpoints: Checkpoints | None = None, stop: int | None = None):
    """A training and its reports, up to and with epoch `stop`."""
    training = Training(**trial)
    reports = []
    for report in training.epochs(checkpoints):
        reports.append(report)
        if report[metrics.EPOCH] == stop:
            break
    return training, reports


def assert_same_run(one, other):
    assert repeated(one[1]) == repeated(other[1])
    assert same(one[0].method.state_dict(), other[0].method.state_dict())
    assert same(one[0].optimizer.state_dict(), other[0].optimizer.state_dict())


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS, ids=["ce", "drg_dsr", "carry"])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(tmp_path, method, stop):
    trial = config(
        method=method,
        augment={"crop_padding": 1, "cutout": 3},
        optim={"lr": 0.05, "schedule": "cosine", "warmup_epochs": 1.5, "clip_norm": 2.0},
        epochs=4,
    )
    unbroken = run(trial)
    checkpoints = Checkpoints(Folder(tmp_path), "t")
    _, first = run(trial, checkpoints, stop)
    torch.manual_seed(stop)  # another process has another global generator
    resumed = run(trial, Checkpoints(Folder(tmp_path), "t"))
    assert_same_run(unbroken, resumed)
    assert resumed[1][:stop] == first  # recorded epochs come back as they were, times and all


def test_a_run_resumed_after_every_epoch_equals_the_unbroken_one(tmp_path):
    trial = config(method={"carry_across_epochs": True}, epochs=4)
    for stop in range(1, 5):
        resumed = run(trial, Checkpoints(Folder(tmp_path), "t"), stop)
    assert_same_run(run(trial), resumed)


def test_a_run_that_saved_too_seldom_equals_the_unbroken_one(tmp_path, monkeypatch):
    """Writing takes long: after the first epoch and the last one alone is a checkpoint written."""
    monkeypatch.setattr(checkpoint, "MOST_OF_THE_TIME", 1e-9)
    trial = config(epochs=4)
    _, first = run(trial, Checkpoints(Folder(tmp_path), "t"), stop=3)
    assert Folder(tmp_path).names() == ["epoch_000001"]
    resumed = run(trial, Checkpoints(Folder(tmp_path), "t"))
    assert sorted(Folder(tmp_path).names())[-1] == "epoch_000004"
    assert_same_run(run(trial), resumed)
    assert resumed[1][:1] == first[:1]


def test_a_finished_run_is_reported_again_without_training(tmp_path):
    checkpoints = Checkpoints(Folder(tmp_path), "t")
    first = run(config(), checkpoints)
    again = Training(**config())
    again.method.losses = None  # would fail if it were called
    assert list(again.epochs(checkpoints)) == first[1]


def test_memory_carried_across_epochs_changes_the_training():
    carried, dropped = (
        run(config(method={"carry_across_epochs": carry}))[1] for carry in (True, False)
    )
    assert repeated(carried)[0] == repeated(dropped)[0]  # nothing to carry into the first epoch
    assert carried[1]["loss/dsr"] != dropped[1]["loss/dsr"]


@pytest.mark.parametrize("method", METHODS[:2], ids=["ce", "drg_dsr"])
def test_the_same_seed_is_the_same_run_and_another_is_not(method):
    first = run(config(method=method, seed=5))
    assert_same_run(first, run(config(method=method, seed=5)))
    other = run(config(method=method, seed=6))
    assert repeated(first[1]) != repeated(other[1])


def test_a_trial_before_it_changes_nothing(tmp_path):
    alone = run(config(seed=3))
    before = config(method={"name": "cross_entropy"}, optim={"lr": 0.5}, seed=9)
    run(before, Checkpoints(Folder(tmp_path), "t"), stop=2)
    torch.rand(7)
    assert_same_run(alone, run(config(seed=3)))


def test_training_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    run(config(epochs=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_reaches_the_weights_the_order_and_the_augmentation():
    one, two = Training(**config(seed=0)), Training(**config(seed=1))
    assert not same(one.method.state_dict(), two.method.state_dict())
    two.method.load_state_dict(one.method.state_dict())
    first, second = next(one.epochs()), next(two.epochs())
    assert first["loss/ce"] != second["loss/ce"]


@pytest.mark.parametrize("variant", ["drg", "dsr", "drg_dsr"])
def test_the_terms_sum_to_the_total(variant):
    for report in run(config(method={"variant": variant}))[1]:
        terms = [
            value
            for name, value in report.items()
            if name.startswith("loss/") and name != metrics.LOSS_TOTAL
        ]
        assert len(terms) == {"drg": 3, "dsr": 2, "drg_dsr": 4}[variant]
        assert report[metrics.LOSS_TOTAL] == pytest.approx(sum(terms), rel=1e-6)


def test_every_metric_is_there_and_no_other():
    names = {
        *("epoch", "loss/total", "loss/ce", "train/accuracy", "optim/lr", "time/epoch_s"),
        *("time/images_per_s", "memory/peak_gib", "timestamp_s"),
        *("val/accuracy", "val/loss", "val/top5", "val/ece"),
    }
    reports = run(config(method={"name": "cross_entropy"}))[1]
    assert [set(report) for report in reports] == [names] * 3
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    for report in reports:
        assert 0 <= report["train/accuracy"] <= 1
        assert report["memory/peak_gib"] > 0.01
        assert all(type(value) in (int, float) for value in report.values())


def test_it_learns():
    still = {"crop_padding": 0, "flip": False}
    reports = run(config(data={"images": 256}, augment=still, epochs=8))[1]
    assert reports[-1]["val/accuracy"] > 0.9  # chance is 0.25
    assert reports[-1]["train/accuracy"] > 0.9


def test_train_accuracy_is_the_share_of_images_seen():
    """Two batches of 16 of 43 images: the accuracy is a whole number of 32nds."""
    for report in run(config())[1]:
        assert (report["train/accuracy"] * 32) == pytest.approx(
            round(report["train/accuracy"] * 32), abs=1e-9
        )


@pytest.mark.parametrize("method", METHODS[:2], ids=["ce", "drg_dsr"])
def test_a_loss_that_is_not_finite_ends_the_run_within_its_epoch(tmp_path, method):
    checkpoints = Checkpoints(Folder(tmp_path), "t")
    training = Training(**config(method=method, optim={"lr": 1e30}))
    with pytest.raises(Diverged, match=r"not finite in epoch 1: .*loss"):
        next(training.epochs(checkpoints))
    assert training.history == []
    assert Folder(tmp_path).names() == []


@pytest.mark.parametrize("on_files", [False, True])
def test_in_a_long_epoch_a_loss_that_is_not_finite_is_found_before_its_end(
    tmp_path, monkeypatch, on_files
):
    monkeypatch.setattr(training_module, "_LOOK_EVERY_S", 0.0)
    trial = photographs(tmp_path) if on_files else config()
    trial["optim"]["lr"] = 1e30
    trial["data"] |= {"batch_size": 4, "workers": 2 if on_files else None}
    training = Training(**trial)
    batches, losses = [], training.method.losses
    training.method.losses = lambda *given: (batches.append(1), losses(*given))[1]
    with pytest.raises(Diverged, match=r"not finite in epoch 1: .*loss"):
        next(training.epochs())
    assert len(batches) < len(training.sets.train) // 4 - 1
    assert gone(workers_of(os.getpid()))


def test_evaluation_sees_every_image_once():
    training = Training(**config(data={"images": 1300, "validation_fraction": 0.8}, epochs=1))
    seen = []
    training.method.model.stages[0].register_forward_hook(
        lambda module, inputs, out: None if module.training else seen.append(inputs[0])
    )
    next(training.epochs())
    held_out = training.sets.held_out.pixels
    assert len(held_out) == 1040
    mean, std = (v[:, None, None] for v in (training.sets.mean, training.sets.std))
    torch.testing.assert_close(torch.cat(seen), (held_out.float() / 255 - mean) / std)


def test_scores_are_those_of_the_weights_at_the_end_of_the_epoch():
    training, reports = run(config())
    training.method.eval()
    mean, std = (v[:, None, None] for v in (training.sets.mean, training.sets.std))
    held_out = training.sets.held_out
    with torch.no_grad():
        logits = training.method((held_out.pixels.float() / 255 - mean) / std)
    accuracy = (logits.argmax(1) == held_out.labels).float().mean().item()
    assert reports[-1]["val/accuracy"] == pytest.approx(accuracy)
    loss = torch.nn.functional.cross_entropy(logits, held_out.labels).item()
    assert reports[-1]["val/loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("final", [True, False])
def test_the_test_set_is_scored_exactly_for_the_result_alone(final):
    """As the model ships; the epochs before the last are a curve, as those of validation are."""
    training, exact = Training(**config(precision="bfloat16", epochs=3), final=final), []
    forward = training.method.forward

    def noted(images):
        if not training.method.training:
            exact.append(not torch.is_autocast_enabled("cpu"))
        return forward(images)

    training.method.forward = noted
    list(training.epochs())
    assert exact == [False, False, final]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_maps_have_the_precision_and_logits_and_losses_float32(monkeypatch, precision, dtype):
    training = Training(**config(precision=precision, epochs=1))
    maps, heads, terms, inner = [], [], [], training.method.losses
    model = training.method.model
    model.stages[-1].register_forward_hook(lambda *call: maps.append(call[2].dtype))
    model.head[-1].register_forward_hook(lambda *call: heads.append(call[2].dtype))

    def losses(images, labels):
        logits, found = inner(images, labels)
        terms.extend(term.dtype for term in found.values())
        return logits, found

    monkeypatch.setattr(training.method, "losses", losses)
    next(training.epochs())
    assert set(maps) == {dtype}
    assert set(heads) == {torch.float32}
    assert set(terms) == {torch.float32}
    assert {p.dtype for p in training.method.parameters()} == {torch.float32}


def test_final_training_uses_all_training_images_and_scores_the_test_set():
    training = Training(**config(epochs=1), final=True)
    report = next(training.epochs())
    assert (len(training.sets.train), len(training.sets.held_out)) == (48, 24)
    assert {"test/accuracy", "test/loss", "test/top5", "test/ece"} <= set(report)
    assert not any(name.startswith("val/") for name in report)


def test_the_reported_rate_follows_the_schedule():
    optim = {"lr": 0.1, "schedule": "multistep", "milestones": [0.5, 0.75], "gamma": 0.1}
    rates = [report["optim/lr"] for report in run(config(optim=optim, epochs=4))[1]]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_float32_is_not_cut_to_tensorfloat32_on_a_gpu():
    """Which only a GPU would show; what it is told is seen on a CPU."""
    cudnn, seen = torch.backends.cudnn, []
    before = cudnn.allow_tf32
    trained = Training(**config(epochs=1))
    list(trained.epochs(beat=lambda: seen.append(cudnn.allow_tf32)))
    assert set(seen) == {False}
    assert cudnn.allow_tf32 is before is True


def test_channels_last_changes_the_layout_and_not_the_answers():
    one, two = (run(config(channels_last=value))[1] for value in (True, False))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss/total"] == pytest.approx(theirs["loss/total"], rel=1e-3)


def test_settings_left_out_have_their_defaults():
    trial = config()
    for section in ("augment", "optim", "precision"):
        del trial[section]
    training = Training(**trial)
    assert training.augment.crop_padding == 4
    assert training.optimizer.lr == 0.1


def test_every_epoch_has_an_order_and_crops_of_its_own(monkeypatch):
    training = Training(**config(augment={"crop_padding": 0, "flip": False}))
    seen, inner = [], training.method.losses

    def losses(images, labels):
        seen.append(images.clone())
        return inner(images, labels)

    monkeypatch.setattr(training.method, "losses", losses)
    list(training.epochs())
    assert len(seen) == 6  # two batches an epoch
    assert not any(torch.equal(seen[i], seen[j]) for i in range(6) for j in range(i))


def test_the_rate_moves_within_an_epoch():
    """Two batches an epoch: the last one of each is half an epoch in."""
    optim = {"lr": 0.1, "warmup_epochs": 2.0}
    rates = [report["optim/lr"] for report in run(config(optim=optim, epochs=2))[1]]
    assert rates == pytest.approx([0.1 * 0.5 / 2, 0.1 * 1.5 / 2])


# ---- images that are files


def photographs(tmp_path, **settings) -> dict:
    """A trial on 24 photographs of 72x72, of sizes and modes of their own."""
    root = tmp_path / "set"
    if not root.exists():
        folder(root, each=9)
        photograph(root / "ape" / "0.jpg", 70, (200, 90), "L")
        photograph(root / "cat" / "8.jpg", 71, (60, 130), "CMYK")
    data = {"name": "imagefolder", "root": str(root), "image_size": 72, "batch_size": 8}
    trial = config(data=data, augment={"cutout": 9}, epochs=2, **settings)
    del trial["augment"]["crop_padding"]
    return trial


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_on_files_equals_the_unbroken_one_whatever_the_workers(tmp_path, workers):
    def with_data(**settings) -> dict:
        trial = photographs(tmp_path)
        trial["data"].update(settings)
        return trial

    unbroken = run(with_data(workers=0, cache_gib=0.0))
    checkpoints = Folder(tmp_path / "checkpoints")
    run(with_data(workers=workers, cache_gib=0.0), Checkpoints(checkpoints, "t"), stop=1)
    torch.manual_seed(5)
    image_data.forget()
    trial = with_data(workers=2 - workers, cache_gib=1.0)
    assert_same_run(unbroken, run(trial, Checkpoints(checkpoints, "t")))


@pytest.mark.parametrize("stop", [1, None])
def test_a_training_leaves_no_worker_behind(tmp_path, stop):
    trial = photographs(tmp_path)
    trial["data"]["workers"] = 2
    training = Training(**trial)
    reports = training.epochs()
    assert next(reports)["epoch"] == 1
    pids = workers_of(os.getpid())
    assert len(pids) == 2
    if stop is None:
        list(reports)
    else:
        reports.close()
    assert gone(pids)


def test_a_training_that_fails_leaves_no_worker_behind(tmp_path, monkeypatch):
    trial = photographs(tmp_path)
    trial["data"]["workers"] = 2
    training, pids = Training(**trial), set()

    def losses(images, labels):
        until = time.monotonic() + 30
        while len(pids) < 2 and time.monotonic() < until:  # the second may still be starting
            pids.update(workers_of(os.getpid()))
        raise ZeroDivisionError

    monkeypatch.setattr(training.method, "losses", losses)
    with pytest.raises(ZeroDivisionError):
        next(training.epochs())
    assert len(pids) == 2
    del training
    assert gone(pids)


def test_dropout_draws_the_same_beside_files_whatever_the_workers(tmp_path, monkeypatch):
    """The crops of a process of its own draw from that process's generator, not from ours."""
    drawn = []
    for workers in (0, 2):
        trial = photographs(tmp_path)
        trial["data"]["workers"] = workers
        training = Training(**trial)
        inner = training.method.losses

        def losses(images, labels, inner=inner):
            drawn.append(torch.rand(1).item())
            return inner(images, labels)

        monkeypatch.setattr(training.method, "losses", losses)
        list(training.epochs())
    assert drawn[: len(drawn) // 2] == drawn[len(drawn) // 2 :]
    assert len(set(drawn)) == len(drawn) // 2


@pytest.mark.parametrize("companion", ["view", "class"])
def test_companions_of_files_reach_the_method(tmp_path, monkeypatch, companion):
    trial = photographs(tmp_path, method={"name": "cross_entropy"})
    trial["data"]["workers"] = 0
    training = Training(**trial)
    inner = training.method.losses
    monkeypatch.setattr(type(training.method), "companion", companion)

    def losses(images, labels):
        assert len(images) == len(labels) == 16
        assert torch.equal(*labels.chunk(2))
        one, other = images.chunk(2)
        assert not torch.equal(one, other)
        return inner(one, labels[:8])

    monkeypatch.setattr(training.method, "losses", losses)
    next(training.epochs())
