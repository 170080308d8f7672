"""RSD: the released code's numbers, the equation as a loop, and its passes retold step by step."""

import copy

import pytest
import torch
from torch import nn

from tests.trainables.methods.vectors import (
    DTYPES,
    LABELS,
    A,
    P,
    Z,
    assert_close,
    gradient,
    slopes,
    tensor,
)
from tests.trainables.test_losses import loop_cross_entropy, loop_distillation
from tests.trainables.test_training import assert_same_run, run
from tests.trainables.tiny import VECTORS, batch, config, same
from trainables import methods, models, sections
from trainables.checkpoint import Checkpoints
from trainables.multibranch import Drop, MultiBranch, dropping, statistics_kept
from trainables.storage import Folder

VECTOR = VECTORS["rsd"]
HALF_WAY = [[(z + p) / 2 for z, p in zip(*rows, strict=True)] for rows in zip(Z, P, strict=True)]
NAMES = ("student", "teacher", "mixed_student", "mixed_teacher")
LOGITS = dict(zip(NAMES, (Z, A, HALF_WAY, P), strict=True))
ORDER, SHARE = [2, 0, 1], 0.3


def rsd(backbone="small_cnn", seed=0, **hyperparameters) -> methods.Method:
    torch.manual_seed(seed)
    return methods.build("rsd", models.build(backbone, 4, (3, 8, 8)), **hyperparameters)


def with_draw(method: methods.Method, stage: int, share: float = SHARE) -> methods.Method:
    method._draw = lambda: (stage, share)
    return method


def given_logits(dtype=torch.float64, **hyperparameters):
    """The four logits of the vectors, and what the class makes of them."""
    logits = {name: tensor(rows, dtype).requires_grad_() for name, rows in LOGITS.items()}
    method = rsd(**hyperparameters)
    return logits, method.terms(**logits, labels=LABELS, order=torch.tensor(ORDER), share=SHARE)


def loop_terms(rows: dict, alpha=1.0, beta=1.0, temperature=3.0) -> dict[str, float]:
    y = VECTORS["y"]
    others = [y[i] for i in ORDER]

    def mixed(logits):
        own, other = loop_cross_entropy(logits, y), loop_cross_entropy(logits, others)
        return alpha * (SHARE * own + (1 - SHARE) * other)

    def taught(pupil, by):
        return beta * loop_distillation(rows[pupil], rows[by], temperature)

    return {
        "ce": alpha * loop_cross_entropy(rows["teacher"], y),
        "student_ce": alpha * loop_cross_entropy(rows["student"], y),
        "mixed_ce": mixed(rows["mixed_teacher"]),
        "mixed_student_ce": mixed(rows["mixed_student"]),
        "kd": taught("student", "teacher"),
        "mixed_kd": taught("mixed_student", "mixed_teacher"),
    }


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_rsd_equals_the_vectors(dtype, error):
    terms = given_logits(dtype)[1]
    expected = {
        "ce": VECTOR["ce_t"],
        "student_ce": VECTOR["ce_s"],
        "mixed_ce": VECTOR["mix_tt"],
        "mixed_student_ce": VECTOR["mix_ts"],
        "kd": VECTOR["div"],
        "mixed_kd": VECTOR["div_mix"],
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(terms[name], value, error)
    assert_close(terms["kd"], VECTOR["distillkl_T3"], error)
    assert_close(sum(terms.values()), VECTOR["total_a1_b1"], error)


def test_the_equation_as_a_loop_with_every_weight_unlike_its_default():
    weights = {"alpha": 0.7, "beta": 1.9, "temperature": 1.5}
    terms = given_logits(**weights)[1]
    expected = loop_terms(LOGITS, **weights)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-8), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_reaches_student_and_teacher(name, dtype, error):
    logits, terms = given_logits(dtype)

    def loss(rows):
        return sum(loop_terms({**LOGITS, name: rows}).values())

    expected = slopes(loss, LOGITS[name])
    assert_close(gradient(sum(terms.values()), logits[name]), expected, error)


@pytest.mark.parametrize("detached", [True, False])
def test_a_detached_teacher_learns_from_its_labels_alone(detached):
    logits, terms = given_logits(detach_teacher=detached)
    for term, pupil, by in (
        ("kd", "student", "teacher"),
        ("mixed_kd", "mixed_student", "mixed_teacher"),
    ):
        student, teacher = torch.autograd.grad(
            terms[term], [logits[pupil], logits[by]], retain_graph=True, allow_unused=True
        )
        assert student.abs().sum() > 0
        assert (teacher is None) == detached
        assert detached or teacher.abs().sum() > 0
    assert_close(sum(terms.values()), VECTOR["total_a1_b1"], 1e-10)


def retold(method, images, labels, stage: int, clean: bool):
    """The terms of one batch by plain loops over stages and images, no helper of the method."""
    model, drop = method.model, method.drop
    order = torch.randperm(len(images))

    def forward(maps, start, end):
        for part in [*model.stages, model.head][start:end]:
            maps = part(maps)
        return maps

    with dropping(model, drop):
        student_maps = forward(images, 0, stage + 1)
        student = forward(student_maps, stage + 1, None)
    teacher_maps = forward(images, 0, stage + 1)
    mixtures = []
    for other in (teacher_maps, student_maps):
        for i, k in enumerate(order.tolist()):
            mixtures.append(SHARE * teacher_maps[i] + (1 - SHARE) * other[k])
    mixtures = torch.stack(mixtures)
    if clean:
        teacher, both = (forward(maps, stage + 1, None) for maps in (teacher_maps, mixtures))
    else:
        every = forward(torch.cat([teacher_maps, mixtures]), stage + 1, None)
        teacher, both = every[: len(images)], every[len(images) :]
    mixed_teacher, mixed_student = both[: len(images)], both[len(images) :]
    return teacher, method.terms(
        student, teacher, mixed_student, mixed_teacher, labels, order, SHARE
    )


@pytest.mark.parametrize("statistics", ["clean", "all"])
@pytest.mark.parametrize("stage", [0, 1, 2])  # after the last only the head is left
def test_a_batch_is_what_its_passes_are_one_by_one(stage, statistics):
    method = with_draw(rsd(statistics=statistics, drop_rate=0.5).double(), stage)
    images, labels = batch()
    images = images.double()
    torch.manual_seed(7)
    logits, terms = method.losses(images, labels)
    torch.manual_seed(7)
    expected_logits, expected = retold(method, images, labels, stage, statistics == "clean")
    torch.testing.assert_close(logits, expected_logits, atol=1e-10, rtol=0)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("statistics", ["clean", "all"])
def test_without_drops_the_mixtures_are_one_and_nothing_is_left_to_distil(statistics, stage):
    method = with_draw(rsd(drop_rate=0.0, statistics=statistics), stage)
    terms = method.losses(*batch())[1]
    assert terms["mixed_ce"].item() == terms["mixed_student_ce"].item()
    assert abs(terms["mixed_kd"].item()) < 1e-12
    if statistics == "clean" or stage == 2:  # else the joint batch norm tells the passes apart
        assert abs(terms["kd"].item()) < 1e-12
        assert terms["ce"].item() == terms["student_ce"].item()


def test_with_drops_the_mixtures_differ():
    terms = rsd(drop_rate=0.3).losses(*batch())[1]
    assert terms["mixed_ce"].item() != terms["mixed_student_ce"].item()
    assert terms["mixed_kd"].item() > 0
    assert terms["kd"].item() > 0


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_every_block_drops_in_the_student_pass_and_in_no_other(mode):
    method = rsd("resnet20", drop_rate=0.4, drop_mode=mode, force_keep_one=True)
    seen: dict[nn.Module, list] = {}
    for module in method.model.modules():
        if isinstance(module, MultiBranch):
            module.register_forward_pre_hook(lambda m, _: seen.setdefault(m, []).append(m.drop))
    with_draw(method, 1).losses(*batch())
    assert len(seen) == 19
    for drops in seen.values():
        assert drops[0] == Drop(0.4, mode, True)
        assert len(drops) > 1
        assert not any(drops[1:])
    method.eval()
    images = batch()[0]
    assert torch.equal(method(images), method(images))


def test_two_student_passes_differ():
    method = with_draw(rsd(drop_rate=0.2), 0)
    first, second = (method.losses(*batch())[1]["student_ce"].item() for _ in range(2))
    assert first != second


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_clean_statistics_are_those_of_a_clean_pass_alone(stage):
    method = with_draw(rsd("resnet20", drop_rate=0.5), stage)
    alone = copy.deepcopy(method)
    logits, _ = method.losses(*batch())
    assert torch.equal(logits, alone(batch()[0]))
    assert same(method.state_dict(), alone.state_dict())


def test_statistics_of_all_passes_count_each_of_them():
    method = with_draw(rsd(drop_rate=0.5, statistics="all"), 1)
    alone = copy.deepcopy(method)
    alone(batch()[0])
    method.losses(*batch())
    state, clean = method.state_dict(), alone.state_dict()
    counts = {int(value) for name, value in state.items() if name.endswith("tracked")}
    assert counts == {2}
    assert not same(state, clean)
    with statistics_kept(method):
        method.losses(*batch())
    assert same(method.state_dict(), state)


def test_the_stage_is_drawn_evenly_and_the_share_from_its_beta_distribution():
    method = rsd(mix_alpha=0.5)
    torch.manual_seed(0)
    stages, shares = zip(*(method._draw() for _ in range(3000)), strict=True)
    for stage in range(3):
        assert stages.count(stage) / 3000 == pytest.approx(1 / 3, abs=0.04)
    shares = torch.tensor(shares)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / 8, abs=0.01)  # 1 / (4 (2 a + 1))


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(tmp_path, stop):
    trial = config(method={"name": "rsd"})
    run(trial, Checkpoints(Folder(tmp_path), "t"), stop)
    torch.manual_seed(stop)
    resumed = run(trial, Checkpoints(Folder(tmp_path), "t"))
    assert_same_run(run(trial), resumed)


def test_what_ships_is_the_plain_backbone_and_training_goes_on_as_if_nothing_had():
    method = rsd("resnet20")
    method.losses(*batch())
    other = copy.deepcopy(method)
    shipped = method.eval().deploy()
    plain = models.build("resnet20", 4, (3, 8, 8))
    plain.load_state_dict(shipped.state_dict())
    images = batch(seed=3)[0]
    torch.testing.assert_close(plain.eval()(images), method(images), atol=1e-5, rtol=1e-5)
    totals = []
    for one in (method.train(), other):
        torch.manual_seed(0)
        totals.append(sum(one.losses(*batch(seed=1))[1].values()).item())
    assert totals[0] == totals[1]
    assert same(method.state_dict(), other.state_dict())


def test_a_backbone_with_nothing_to_restructure_is_refused():
    model = models.Classifier([nn.Conv2d(3, 4, 1)], nn.Flatten(), (4,), 4)
    with pytest.raises(ValueError, match=r"^model: has no 3x3 or 5x5 convolution"):
        methods.build("rsd", model)


@pytest.mark.parametrize(
    ("rate", "allowed"), [(0.0, True), (0.99, True), (1.0, False), (-0.1, False)]
)
def test_a_branch_may_stay_for_good_but_not_go_for_good(rate, allowed):
    found = sections.problems(config(method={"name": "rsd", "drop_rate": rate}))
    expected = [("method.drop_rate", f"{rate} is not at least 0 and below 1")]
    assert found == ([] if allowed else expected)
