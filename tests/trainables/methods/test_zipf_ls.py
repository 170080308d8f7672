"""Zipf's label smoothing: the vectors of instance ranking, dense votes as a loop, who may vote."""

import math

import pytest
import torch
from torch import nn

from tests.trainables.methods.vectors import (
    DTYPES,
    IMAGES,
    LABELS,
    Z,
    assert_close,
    assert_is_cross_entropy,
    gradient,
    slopes,
    tensor,
    total,
)
from tests.trainables.test_losses import loop_cross_entropy, softmax
from tests.trainables.tiny import VECTORS, fixed_classifier
from trainables import methods, models, sections
from trainables.methods.zipf_ls import ranks

OTHERS = VECTORS["others"]


def by_instance(dtype=torch.float64, logits=Z, **hyperparameters):
    model = fixed_classifier(tensor(logits, dtype))
    return methods.build("zipf_ls", model, ranking="instance", **hyperparameters)


def loop_law(scores, label, power, label_is_ranked):
    """Zipf's law over the classes by their scores; no share for the label."""
    shares = []
    for k, score in enumerate(scores):
        rivals = [s for j, s in enumerate(scores) if label_is_ranked or j != label]
        rank = 1 + sum(rival > score for rival in rivals)
        shares.append(0.0 if k == label else rank**-power)
    return [share / sum(shares) for share in shares]


def loop_terms(rows, labels, laws, weight, smoothing):
    """Cross entropy, divergence among the wrong classes, smoothing towards the law."""
    divergence = towards = 0.0
    for row, label, law in zip(rows, labels, laws, strict=True):
        wrong = [k for k in range(len(row)) if k != label]
        among_wrong, among_all = softmax([row[k] for k in wrong]), softmax(row)
        for k, q in zip(wrong, among_wrong, strict=True):
            divergence += law[k] * (math.log(law[k]) - math.log(q)) / len(rows)
            towards -= law[k] * math.log(among_all[k]) / len(rows)
    hard = (1 - smoothing) * loop_cross_entropy(rows, labels)
    return {"ce": hard, "zipf": weight * divergence, "smoothing": smoothing * towards}


def values(terms):
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_instance_ranking_equals_the_vectors(dtype, error):
    logits, terms = by_instance(dtype).losses(IMAGES, LABELS)
    assert torch.equal(logits, tensor(Z, dtype))
    assert_close(terms["zipf"] / 0.1, OTHERS["zipf_kl"], error)
    assert_close(sum(terms.values()), OTHERS["zipf_total_l0.1"], error)
    assert terms["smoothing"] == 0


@pytest.mark.parametrize(("power", "smoothing"), [(1.0, 0.0), (0.5, 0.3), (2.0, 1.0)])
def test_instance_ranking_as_a_loop_and_its_gradient(power, smoothing):
    y = VECTORS["y"]
    laws = [loop_law(row, label, power, False) for row, label in zip(Z, y, strict=True)]

    def loop(rows):
        return loop_terms(rows, y, laws, 0.7, smoothing)

    method = by_instance(weight=0.7, power=power, smoothing=smoothing)
    terms = method.losses(IMAGES, LABELS)[1]
    assert values(terms) == pytest.approx(loop(Z), abs=1e-12)
    expected = slopes(lambda rows: sum(loop(rows).values()), Z)
    assert_close(gradient(sum(terms.values()), method.model.head.logits), expected, 1e-8)


def test_all_weights_zero_equal_cross_entropy_to_the_bit():
    assert_is_cross_entropy(by_instance(weight=0.0, smoothing=0.0))


def test_logits_that_follow_the_law_cost_nothing():
    logits = [[9.0] + [-math.log(rank) for rank in (3, 1, 4, 2)] for _ in range(3)]
    terms = by_instance(logits=logits).losses(IMAGES, torch.zeros(3, dtype=torch.long))[1]
    assert_close(terms["zipf"], 0.0, 1e-14)


def test_equal_scores_share_their_best_rank():
    scores = torch.tensor([[5.0, 3.0, 3.0, 1.0], [0.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    assert ranks(scores).tolist() == [[1, 2, 2, 4], [2, 2, 2, 1], [1, 1, 1, 1]]


class Given(nn.Module):
    """A stage that gives its parameter, whatever comes in."""

    def __init__(self, maps):
        super().__init__()
        self.maps = nn.Parameter(maps)

    def forward(self, images):
        return self.maps


def voting(maps, *poolings, dropout=False, **hyperparameters):
    """The method around a last map that is a parameter, and a head of 5 classes."""
    torch.manual_seed(1)
    linear = nn.Linear(maps.shape[1], 5, dtype=torch.float64)
    classify = nn.Sequential(nn.Dropout(0.0), linear) if dropout else linear
    head = nn.Sequential(*poolings, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classify)
    model = models.Classifier([Given(maps)], head, (maps.shape[1],), classes=5)
    return methods.build("zipf_ls", model, **hyperparameters), linear


def enlarged(plane):
    """A plane of numbers, twice as high and wide, by bilinear interpolation."""

    def at(place, size):
        place = min(max((place + 0.5) / 2 - 0.5, 0.0), size - 1.0)
        low = int(place)
        return low, min(low + 1, size - 1), place - low

    height, width = len(plane), len(plane[0])
    found = []
    for i in range(2 * height):
        top, bottom, down = at(i, height)
        for j in range(2 * width):
            left, right, along = at(j, width)
            above = (1 - along) * plane[top][left] + along * plane[top][right]
            below = (1 - along) * plane[bottom][left] + along * plane[bottom][right]
            found.append((1 - down) * above + down * below)
    return found


def loop_votes(image, weight, bias):
    """How often each class wins a position, the map enlarged before it is classified."""
    channels = [enlarged(plane) for plane in image]
    won = [0] * len(bias)
    for place in range(len(channels[0])):
        scores = [
            b + sum(w * channel[place] for w, channel in zip(row, channels, strict=True))
            for row, b in zip(weight, bias, strict=True)
        ]
        won[scores.index(max(scores))] += 1
    return won


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 4)])
def test_dense_votes_as_a_loop_and_their_gradient(size):
    torch.manual_seed(0)
    maps = torch.randn(3, 4, *size, dtype=torch.float64)
    method, linear = voting(maps, weight=0.7, power=1.5, smoothing=0.2)
    logits, terms = method.losses(IMAGES, LABELS)
    y, rows = VECTORS["y"], logits.tolist()
    counts = [loop_votes(i, linear.weight.tolist(), linear.bias.tolist()) for i in maps.tolist()]
    assert all(sum(count) == 4 * size[0] * size[1] for count in counts)
    laws = [loop_law(count, label, 1.5, True) for count, label in zip(counts, y, strict=True)]
    assert values(terms) == pytest.approx(loop_terms(rows, y, laws, 0.7, 0.2), abs=1e-12)
    expected = slopes(lambda z: sum(loop_terms(z, y, laws, 0.7, 0.2).values()), rows)
    assert_close(gradient(sum(terms.values()), logits), expected, 1e-8)
    # the map learns through the logits alone
    through = torch.autograd.grad(logits, method.model.stages[0].maps, expected)[0]
    again = total(method)
    assert_close(gradient(again, method.model.stages[0].maps), through, 1e-8)


def test_classes_without_a_vote_are_alike():
    method, linear = voting(torch.zeros(3, 4, 2, 2, dtype=torch.float64), power=2.0)
    winner = linear.bias.argmax().item()  # it wins every position
    wrong = torch.tensor([(winner + 1) % 5] * 3)
    right = torch.tensor([winner] * 3)
    rows = method.losses(IMAGES, wrong)[0].tolist()
    for labels, shares in ((wrong, [1.0] + [1 / 4] * 3), (right, [1.0] * 4)):
        label = labels[0].item()
        others = [k for k in range(5) if k != label]
        law = dict(zip(sorted(others, key=lambda k: k != winner), shares, strict=True))
        law = [law.get(k, 0.0) / sum(shares) for k in range(5)]
        expected = loop_terms(rows, labels.tolist(), [law] * 3, 0.1, 0.0)
        assert values(method.losses(IMAGES, labels)[1]) == pytest.approx(expected, abs=1e-12)


def test_poolings_come_before_the_votes_and_dropout_does_not():
    torch.manual_seed(0)
    maps = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    pool = nn.MaxPool2d(2)
    pooled, _ = voting(maps, pool, dropout=True)
    plain, _ = voting(pool(maps))
    ours, theirs = (method.losses(IMAGES, LABELS)[1] for method in (pooled, plain))
    assert values(ours) == pytest.approx(values(theirs), abs=1e-12)


@pytest.mark.parametrize("backbone", sorted(models.builders()))
def test_every_backbone_for_small_images_votes(backbone):
    with torch.device("meta"):
        model = models.build(backbone, 10, (3, 32, 32))
        assert methods.build("zipf_ls", model).voting


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 5)),
        nn.Sequential(nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 5)),
        nn.Linear(4, 5),
    ],
)
def test_a_head_of_another_kind_is_refused_by_name(head):
    model = models.Classifier([nn.Identity()], head, (4,), classes=5)
    with pytest.raises(ValueError, match=r"^method\.ranking: dense .* instance fits"):
        methods.build("zipf_ls", model)
    methods.build("zipf_ls", model, ranking="instance")


def test_a_config_says_which_setting_is_wrong():
    config = {"data": {"name": "synthetic"}, "optim": {}, "epochs": 1}
    config |= {"model": {"name": "vgg16_bn", "stem": "imagenet"}, "method": {"name": "zipf_ls"}}
    ((place, what),) = sections.problems(config)
    assert place == "method.ranking"
    assert "instance" in what


def test_the_votes_add_nothing_to_what_is_saved():
    method = methods.build("zipf_ls", models.build("small_cnn", 4, (3, 8, 8)))
    plain = models.build("small_cnn", 4, (3, 8, 8))
    assert [name.removeprefix("model.") for name in method.state_dict()] == [*plain.state_dict()]
