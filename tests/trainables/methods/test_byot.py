"""Be Your Own Teacher: its number, its equation as a loop, and who learns from whom."""

import math

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
    total,
)
from tests.trainables.test_losses import loop_cross_entropy, softmax
from tests.trainables.tiny import VECTORS, Fixed, batch, fixed_classifier
from trainables import methods, models
from trainables.auxiliary import AuxiliaryHead

IMAGES = torch.arange(3.0, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 8, 8)


class Shallow(Fixed):
    """A shallow head whose logits and embedding are its parameters."""

    def __init__(self, logits, embedding):
        super().__init__(logits)
        self.embedding = nn.Parameter(embedding)

    def embed(self, features):
        return self.embedding

    def classify(self, embedding):
        return self.logits


def own_teacher(dtype=torch.float64, shallow=(A,), **hyperparameters):
    """The method around logits Z, a last map whose image i is all i, and these shallow heads."""
    stages = [nn.Identity() for _ in range(len(shallow) + 1)]
    model = models.Classifier(stages, Fixed(tensor(Z, dtype)), (1,) * len(stages), classes=5)
    torch.manual_seed(0)
    method = methods.build("byot", model, **hyperparameters).to(dtype)
    embeddings = [torch.randn(3, 1, dtype=dtype) for _ in shallow]
    method.heads = nn.ModuleList(
        Shallow(tensor(rows, dtype), embedding)
        for rows, embedding in zip(shallow, embeddings, strict=True)
    )
    return method


def loop_soft(rows, teacher, temperature):
    found = 0.0
    for row, taught in zip(rows, teacher, strict=True):
        q, p = softmax(row, temperature), softmax(taught, temperature)
        found -= sum(p[k] * math.log(q[k]) for k in range(len(p))) / len(rows)
    return found


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_it_equals_the_vector(dtype, error):
    method = own_teacher(dtype, feature_weight=0.0)
    logits, terms = method.losses(IMAGES.to(dtype), LABELS)
    assert torch.equal(logits, tensor(Z, dtype))
    assert set(terms) == {"ce", "aux_ce", "aux_kd", "feature"}
    assert terms["feature"] == 0
    assert_close(sum(terms.values()), VECTORS["others"]["byot_1head_T3_l0.3"], error)


def test_the_equation_of_two_heads_as_a_loop_and_its_gradients():
    y = VECTORS["y"]
    method = own_teacher(shallow=(A, P), alpha=0.4, temperature=2.5, feature_weight=0.2)
    embeddings = [head.embedding.tolist() for head in method.heads]
    adapters = [(a.weight.item(), a.bias.item()) for a in method.adapters]

    def distance(embedding, adapter):
        (weight, bias), found = adapter, 0.0
        for image, (value,) in enumerate(embedding):
            found += (weight * value + bias - image) ** 2  # the last map of image i is all i
        return math.sqrt(found)

    def loop(first, second):
        hard = loop_cross_entropy(first, y) + loop_cross_entropy(second, y)
        soft = loop_soft(first, Z, 2.5) + loop_soft(second, Z, 2.5)
        return {"aux_ce": 0.6 * hard, "aux_kd": 0.4 * soft}

    terms = method.losses(IMAGES, LABELS)[1]
    features = [distance(*pair) for pair in zip(embeddings, adapters, strict=True)]
    expected = loop(A, P) | {"ce": loop_cross_entropy(Z, y), "feature": 0.2 * sum(features)}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-12)

    loss = sum(terms.values())
    found = gradient(loss, method.heads[0].logits)
    assert_close(found, slopes(lambda rows: sum(loop(rows, P).values()), A), 1e-8)
    found = gradient(loss, method.heads[1].logits)
    assert_close(found, slopes(lambda rows: sum(loop(A, rows).values()), P), 1e-8)
    # the teacher learns from the label alone
    found = gradient(loss, method.model.head.logits)
    assert_close(found, slopes(lambda rows: loop_cross_entropy(rows, y), Z), 1e-8)
    for head, embedding, adapter in zip(method.heads, embeddings, adapters, strict=True):
        found = gradient(loss, head.embedding)
        expected = slopes(lambda rows, adapter=adapter: 0.2 * distance(rows, adapter), embedding)
        assert_close(found, expected, 1e-8)


def test_a_teacher_that_agrees_costs_its_entropy_and_pulls_nowhere():
    method = own_teacher(shallow=(Z,), alpha=1.0, feature_weight=0.0)
    terms = method.losses(IMAGES, LABELS)[1]
    assert_close(terms["aux_kd"], loop_soft(Z, Z, 3.0), 1e-12)
    assert_close(gradient(terms["aux_kd"], method.heads[0].logits), torch.zeros(3, 5), 1e-15)


def test_features_that_agree_pull_nowhere():
    method = own_teacher()
    with torch.no_grad():
        method.adapters[0].weight.fill_(1.0)
        method.adapters[0].bias.fill_(0.0)
        method.heads[0].embedding.copy_(torch.arange(3.0)[:, None])
    feature = method.losses(IMAGES, LABELS)[1]["feature"]
    assert feature == 0
    assert not gradient(feature, method.heads[0].embedding).any()


@pytest.mark.parametrize(
    ("backbone", "heads"), [("small_cnn", 2), ("resnet18", 3), ("vgg16_bn", 4)]
)
def test_there_is_a_head_after_each_stage_but_the_last(backbone, heads):
    with torch.device("meta"):
        model = models.build(backbone, 10, (3, 32, 32))
        method = methods.build("byot", model)
    assert len(method.heads) == len(method.adapters) == heads
    for head, adapter in zip(method.heads, method.adapters, strict=True):
        assert head.head[-1].in_features == adapter.in_features == model.widths[-1]
        assert adapter.out_features == model.widths[-1]


def test_the_last_stage_and_the_head_learn_from_the_label_alone():
    torch.manual_seed(0)
    method = methods.build("byot", models.build("small_cnn", 4, (3, 8, 8), width=4))
    terms = method.losses(*batch())[1]
    *earlier, last = method.model.stages
    taught = sum(term for name, term in terms.items() if name != "ce")
    taught.backward(retain_graph=True)
    for part in (last, method.model.head):
        assert all(p.grad is None for p in part.parameters())
    for part in (*earlier, method.heads, method.adapters):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    method.zero_grad()
    terms["ce"].backward()
    assert all(p.grad is None for p in method.heads.parameters())
    assert all(p.grad is not None for p in method.model.parameters())


def test_alpha_one_leaves_the_label_to_the_final_classifier():
    terms = own_teacher(alpha=1.0).losses(IMAGES, LABELS)[1]
    assert terms["aux_ce"] == 0
    terms = own_teacher(alpha=0.0).losses(IMAGES, LABELS)[1]
    assert terms["aux_kd"] == 0
    assert_close(terms["aux_ce"], VECTORS["ce_aux"], 1e-10)


def test_a_backbone_of_one_stage_is_refused():
    model = fixed_classifier(tensor(Z))
    model.stages = model.stages[:1]
    with pytest.raises(ValueError, match=r"^method\.name: byot needs"):
        methods.build("byot", model)


def test_an_auxiliary_head_answers_alike_in_one_step_and_in_two():
    torch.manual_seed(0)
    head, features = AuxiliaryHead((4, 8, 16), 5).eval(), torch.randn(2, 4, 7, 5)
    embedding = head.embed(features)
    assert embedding.shape == (2, 16)
    assert torch.equal(head.classify(embedding), head(features))
    method = methods.build("byot", models.build("small_cnn", 4, (3, 8, 8), width=4))
    assert total(method, *batch()).isfinite()
