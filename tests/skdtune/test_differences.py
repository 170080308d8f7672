"""What keeps a study from going on, and what does not."""

import copy

from skdtune import space, strict_yaml
from skdtune.differences import differences

BEFORE = {
    "trial": {"optim": {"lr": 0.1}, "method": {"alpha": {"type": "float", "low": 0.1, "high": 1}}},
    "search": {"trials": 8, "metric": "val/accuracy", "first_trials": [{"method/alpha": 0.2}]},
    "resources": {"cpu": 1},
}


def changed(**edits: object) -> list[str]:
    after = copy.deepcopy(BEFORE)
    for path, value in edits.items():
        place, keys = after, path.split("__")
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
    return differences(BEFORE, after)


def test_the_same_is_no_difference() -> None:
    assert changed() == []
    shipped = strict_yaml.read(space.locate("drg_dsr")).data
    assert differences(shipped, strict_yaml.parse(strict_yaml.dump(shipped), "").data) == []


def test_how_long_and_where_may_change() -> None:
    assert changed(search__trials=99, resources__cpu=4, resources__gpu=0.5) == []
    assert changed(search__trials=None, provenance__study="x") == []
    assert changed(search__max_failed_fraction=0.9, search__finalists={"trials": 2}) == []


def test_each_key_that_matters_is_a_line_with_both_values() -> None:
    assert changed(
        trial__optim__lr=0.2,
        trial__optim__momentum=0.9,
        trial__method__alpha__high=2,
        search__metric=None,
        search__first_trials=[],
    ) == [
        "trial.optim.lr: 0.1 in the study, 0.2 asked",
        "trial.method.alpha.high: 1 in the study, 2 asked",
        "search.metric: 'val/accuracy' in the study, nothing asked",
        "search.first_trials: [{'method/alpha': 0.2}] in the study, [] asked",
        "trial.optim.momentum: nothing in the study, 0.9 asked",
    ]


def test_a_leaf_that_became_a_value_differs_in_all_its_keys() -> None:
    lines = changed(trial__method__alpha=0.5)
    assert "trial.method.alpha: nothing in the study, 0.5 asked" in lines
    assert "trial.method.alpha.low: 0.1 in the study, nothing asked" in lines


def test_trials_alone_is_free_not_what_is_named_like_it() -> None:
    assert changed(search__sampler__trials=3) == [
        "search.sampler.trials: nothing in the study, 3 asked"
    ]
