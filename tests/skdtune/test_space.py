"""Search spaces: what a file becomes, that every searched value arrives in a trial's config, and
that no file, however broken, ends in anything but a space or a ConfigError."""

import copy
import inspect
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from skdtune import distributions, space, strict_yaml
from skdtune.errors import ConfigError
from skdtune.settings import LOWER_IS_BETTER
from skdtune.space import Parameter, SearchSpace
from tests.size import size
from tests.skdtune import builders
from trainables import sections
from trainables.methods.drg_dsr import DrgDsr

SHIPPED = sorted((Path(space.__file__).parents[1] / "search_spaces").glob("*.yaml"))
FIXED = """\
trial:
  data: {name: digits}
  model: {name: small_cnn}
  method: {name: cross_entropy}
  optim: {}
  epochs: 3
"""
# the defaults of LightSKD's released code, as trainables/methods/drg_dsr.py cites them
AUTHORS = {"alpha": 0.2, "drg_temperature": 4.0, "aux_weight": 1.0, "stage": 2, "beta": 1.0}
AUTHORS |= {"dsr_temperature": 4.0, "variant": "drg_dsr", "carry_across_epochs": False}


def read(text: str) -> SearchSpace:
    return space.build(strict_yaml.parse(text, "tiny.yaml"), "tiny", "tiny.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(text)
    return refused.value.problems


def drawn(wanted: SearchSpace, seed: int) -> dict[str, Any]:
    generator = random.Random(seed)

    def value(parameter: Parameter) -> Any:
        kind = parameter.distribution
        if isinstance(kind, CategoricalDistribution):
            return generator.choice(kind.choices)
        if isinstance(kind, IntDistribution):
            return generator.randint(kind.low, kind.high)
        return generator.uniform(kind.low, kind.high)

    return wanted.suggest(value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
class TestEveryShippedSpace:
    def test_is_found_by_its_name_and_loads(self, path: Path) -> None:
        assert space.locate(path.stem).samefile(path)
        wanted = space.load(path)
        assert wanted.name == path.stem
        assert wanted.parameters
        assert wanted.search.trials > len(wanted.first_trials()) >= 1

    def test_first_trial_is_the_authors_default_which_the_signatures_hold(self, path: Path) -> None:
        wanted = space.load(path)
        given_values = wanted.first_values(wanted.first_trials()[0])
        by_signature = wanted.first_values({})
        assert set(given_values) == set(by_signature)
        assert wanted.moved() == []
        config = wanted.config(given_values)
        assert sections.problems(config) == []
        method = config["method"]
        known = sections.parameters("method", method["name"])
        for key, value in method.items():
            if key != "name":
                assert value == known[key].default, key
                assert type(value) is type(known[key].default), key

    def test_every_searched_value_arrives_in_the_config(self, path: Path) -> None:
        wanted = space.load(path)
        for seed in range(6):
            values = drawn(wanted, seed)
            config = wanted.config(values)
            assert sections.problems(config) == []
            for parameter, value in values.items():
                section, key = parameter.split("/")
                assert config[section][key] == value
            off = set(wanted.parameters) - set(values)
            for parameter in off:
                section, key = parameter.split("/")
                assert key not in config[section]

    def test_conditions_hold_exactly_when_they_should(self, path: Path) -> None:
        wanted = space.load(path)
        for seed in range(30):
            values = drawn(wanted, seed)
            for name, parameter in wanted.parameters.items():
                should = all(values.get(p) in allowed for p, allowed in parameter.when.items())
                assert (name in values) == should

    def test_baseline_is_cross_entropy_with_all_else_equal(self, path: Path) -> None:
        wanted = space.load(path)
        baseline = wanted.baseline_config()
        first = wanted.config(wanted.first_values(wanted.first_trials()[0]))
        assert baseline.pop("method") == {"name": "cross_entropy"}
        first.pop("method")
        assert baseline == first
        assert sections.problems({**baseline, "method": {"name": "cross_entropy"}}) == []

    def test_building_configs_leaves_the_space_as_it_was(self, path: Path) -> None:
        wanted = space.load(path)
        before = copy.deepcopy((wanted.document, wanted.fixed))
        config = wanted.config(drawn(wanted, 0))
        wanted.baseline_config()["data"]["name"] = config["method"]["name"] = "changed"
        assert (wanted.document, wanted.fixed) == before

    def test_survives_being_written_and_read_again(self, path: Path) -> None:
        wanted = space.load(path)
        again = read(strict_yaml.dump(wanted.document))
        assert again.document == wanted.document
        assert (again.fixed, again.search, again.resources, again.parameters) == (
            wanted.fixed,
            wanted.search,
            wanted.resources,
            wanted.parameters,
        )


def test_a_folder_does_not_hide_a_shipped_space_and_a_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert space.locate("quickstart").name == "quickstart.yaml"
    (tmp_path / "drg_dsr").write_text(FIXED)
    assert space.locate("drg_dsr") == Path("drg_dsr")


def test_the_signature_has_the_authors_defaults() -> None:
    signature = inspect.signature(DrgDsr.__init__).parameters
    found = {key: p.default for key, p in signature.items() if p.kind is p.KEYWORD_ONLY}
    assert found == AUTHORS


def test_the_shipped_first_trial_of_lightskd_is_written_out() -> None:
    first = space.load(space.locate("drg_dsr")).search.first_trials[0]
    searched = {key: value for key, value in AUTHORS.items() if key != "carry_across_epochs"}
    assert first == {f"method/{key}": value for key, value in searched.items()}


def test_a_shipped_space_keeps_the_ranges_of_the_survey() -> None:
    found = {
        name: distributions.describe(parameter.distribution)
        for name, parameter in space.load(space.locate("drg_dsr")).parameters.items()
    }
    assert found == {
        "method/variant": "drg | dsr | drg_dsr",
        "method/alpha": "0.02 to 2 (log)",
        "method/drg_temperature": "1 to 10 (log)",
        "method/aux_weight": "0.1 to 2 (log)",
        "method/stage": "1 | 2 | 3",
        "method/beta": "0.05 to 5 (log)",
        "method/dsr_temperature": "1 to 10 (log)",
    }


def test_which_parameters_count_for_each_variant() -> None:
    wanted = builders.build_space()
    always = {"method/variant", "method/drg_temperature"}
    for variant, more in {
        "drg": {"method/alpha"},
        "dsr": {"method/beta"},
        "drg_dsr": {"method/alpha", "method/beta"},
    }.items():
        values = wanted.suggest(
            lambda p, variant=variant: variant if p.path == "method/variant" else 1.0
        )
        assert set(values) == always | more
        assert next(iter(values)) in always  # parents before children


def test_a_condition_may_rest_on_a_fixed_value_and_on_a_conditional_one() -> None:
    text = """\
trial:
  data: {name: digits}
  model: {name: small_cnn}
  method:
    name: drg_dsr
    beta: {type: float, low: 0.1, high: 1.0, when: {method/stage: [2], method/name: [drg_dsr]}}
    stage: {type: categorical, choices: [1, 2], when: {method/variant: [drg_dsr]}}
    variant: {type: categorical, choices: [dsr, drg_dsr]}
    alpha: {type: float, low: 0.1, high: 1.0, when: {method/name: [cross_entropy]}}
  optim: {}
  epochs: 3
"""
    wanted = read(text)
    assert list(wanted.parameters) == [
        *("method/variant", "method/alpha", "method/stage", "method/beta")
    ]

    def on(**values: Any) -> set[str]:
        pick = {f"method/{key}": value for key, value in values.items()}
        found = wanted.suggest(lambda p: pick.get(p.path, 0.5))
        return {path.partition("/")[2] for path in found}

    assert on(variant="dsr", stage=2) == {"variant"}
    assert on(variant="drg_dsr", stage=1) == {"variant", "stage"}
    assert on(variant="drg_dsr", stage=2) == {"variant", "stage", "beta"}


@pytest.mark.parametrize("names", ["[cross_entropy, drg_dsr]", "[drg_dsr, cross_entropy]"])
def test_a_method_may_be_searched_itself(names: str) -> None:
    wanted = read(f"""\
trial:
  data: {{name: digits}}
  model: {{name: {{type: categorical, choices: [small_cnn, resnet20]}}}}
  method:
    name: {{type: categorical, choices: {names}}}
    alpha: {{type: float, low: 0.1, high: 2.0, when: {{method/name: [drg_dsr]}}}}
  optim: {{}}
  epochs: 3
""")
    with_method = wanted.first_values({"method/name": "drg_dsr"})
    assert with_method["method/alpha"] == 0.2  # the signature's, though the range's centre is 1.05
    assert "method/alpha" not in wanted.first_values({"method/name": "cross_entropy"})
    assert wanted.first_values({})["model/name"] == "small_cnn"
    for seed in range(10):
        assert sections.problems(wanted.config(drawn(wanted, seed))) == []


def test_a_default_outside_the_range_gives_way_to_its_centre() -> None:
    text = FIXED.replace("optim: {}", "optim: {lr: {type: float, low: 0.2, high: 0.4}}")
    assert read(text).first_values({}) == {"optim/lr": pytest.approx(0.3)}
    text = FIXED.replace("optim: {}", "optim: {lr: {type: float, low: 0.01, high: 1.0, log: true}}")
    assert read(text).first_values({}) == {"optim/lr": 0.1}


def test_a_default_that_its_range_leaves_out_is_told() -> None:
    lower = "optim: {lr: {type: float, low: 0.01, high: 0.03}, momentum: 0.5}"
    text = FIXED.replace("optim: {}", lower)
    assert read(text).moved() == [
        "optim/lr: its range leaves out the default, 0.1; first trial and baseline: 0.02"
    ]
    assert read(text.replace("0.03", "0.3")).moved() == []
    assert read(text + "search: {first_trials: [{optim/lr: 0.01}]}\n").moved() == []
    method = "{name: drg_dsr, alpha: {type: float, low: 3, high: 5}}"
    (line,) = read(FIXED.replace("{name: cross_entropy}", method)).moved()
    assert line == "method/alpha: its range leaves out the default, 0.2; first trial: 4.0"


def test_a_space_with_nothing_to_search_is_one_trial() -> None:
    wanted = read(FIXED)
    assert (wanted.parameters, wanted.search.trials) == ({}, 1)
    assert wanted.config({}) == wanted.fixed == strict_yaml.parse(FIXED, "").data["trial"]


@pytest.mark.parametrize("metric", ["val/accuracy", "val/top5", "val/loss", "val/ece"])
def test_the_mode_follows_from_the_metric(metric: str) -> None:
    better = "min" if metric in LOWER_IS_BETTER else "max"
    assert read(f"{FIXED}search: {{metric: {metric}}}\n").search.mode == better
    assert read(f"{FIXED}search: {{metric: {metric}, mode: {better}}}\n").search.mode == better


def test_what_is_not_said_has_a_default() -> None:
    wanted = read(FIXED.replace("optim: {}", "optim: {lr: {type: float, low: 0.1, high: 0.2}}"))
    search = wanted.search
    assert (search.trials, search.metric, search.sampler.name, search.sampler.seed) == (
        *(16, "val/accuracy", "tpe", 0),
    )
    assert (search.scheduler.name, search.scheduler.grace_period) == ("asha", 1)
    assert (wanted.resources.cpu, wanted.resources.gpu) == (1, 0)


def test_a_grace_period_counts_only_for_a_scheduler() -> None:
    search = "search: {scheduler: {name: none, grace_period: 50}}\n"
    assert read(FIXED + search).search.scheduler.grace_period == 50


def test_a_problem_of_a_leaf_is_said_once() -> None:
    leaf = "{type: float, low: -1, high: bad, when: {method/nothing: [1]}}"
    text = FIXED.replace("optim: {}", f"optim: {{lr: {leaf}}}")
    assert problems(text) == ["line 5: trial.optim.lr.high: 'bad' is not a number"]


def test_many_choices_are_all_looked_at() -> None:
    rates = ", ".join(f"0.{n:03d}" for n in range(1, 200))
    text = FIXED.replace(
        "optim: {}", f"optim: {{lr: {{type: categorical, choices: [{rates}, -1]}}}}"
    )
    assert problems(text) == ["line 5: trial.optim.lr: -1 is not above 0"]


# --- the fuzz: whatever a file holds, it is a space or a ConfigError -----------------------------

TOKENS = ["!!python/object:os.system", "&a", "*a", "{", "}", "[", "]", ": ", "- ", "\t", "\n", "\0"]
TOKENS += ["1e5", "-1", "0", ".nan", ".inf", "1e400", "9" * 400, "null", "~", "true", "no", "''"]
TOKENS += ["type: float", "type: int", "when: {method/alpha: [1]}", "{type: categorical}", "<<: *a"]
TOKENS += ["choices: [1, {a: 2}]", "low: 2", "step: 1e-320", "name: resnet20", "²: 1", "é", "\x85"]
TOKENS += [
    "'5': 1",
    "stage: 9",
    "trial:",
    "search:",
    "? [a]",
    "--- a",
    "%YAML 1.1",
    "#",
    '"\\e[2J"',
]
LEAVES = st.sampled_from(
    [None, True, 0, -1, 3, 2.5, 1e308, "x", "", [], {}, [[]], {"a": 1}, {"type": "float"}, "drg"]
    + [{"type": "int", "low": 1, "high": 3}, {"type": "categorical", "choices": [1, "a", None]}]
    + [{"type": "float", "low": 0.1, "high": 1.0, "when": {"method/name": ["drg_dsr"]}}]
    + [{"type": "categorical", "choices": ["cross_entropy", "drg_dsr"]}, {"name": "resnet20"}]
    + [{"type": "float", "low": -1e308, "high": 1e308, "step": 1}, [{"method/alpha": 0.2}], 10**18]
)


@st.composite
def broken_bytes(draw: st.DrawFn) -> bytes:
    """A shipped file with bytes flipped, cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(SHIPPED)).read_bytes())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "truncate", "insert", "double"]))
        if kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place : place + draw(st.integers(1, 60))]
        elif kind == "truncate":
            del data[place:]
        elif kind == "insert":
            data[place:place] = draw(st.sampled_from(TOKENS)).encode()
        else:
            data[place:place] = data[place : place + 80]
    return bytes(data)


@st.composite
def broken_structure(draw: st.DrawFn) -> bytes:
    """A shipped file whose values were replaced, moved, renamed or taken away."""
    data = strict_yaml.read(draw(st.sampled_from(SHIPPED))).data
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(data))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        other, moved = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "swap", "rename", "drop", "add"]))
        if kind == "replace":
            holder[key] = copy.deepcopy(draw(LEAVES))
        elif kind == "swap":
            value = copy.deepcopy(other[moved])
            other[moved] = copy.deepcopy(holder[key])
            if key in holder if isinstance(holder, dict) else key < len(holder):
                holder[key] = value
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            name = draw(st.sampled_from(["name", "type", "when", "stage", "x", "lr", "²", "a.b"]))
            holder[name] = holder.pop(key) if kind == "rename" else copy.deepcopy(draw(LEAVES))
    return strict_yaml.dump(data).encode() if isinstance(data, dict) else b""


def _places(value: Any):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@pytest.mark.slow
@pytest.mark.timeout(size(240, 1200))
@settings(
    max_examples=size(150, 2000),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(broken_bytes() | broken_structure())
def test_whatever_a_file_holds_it_is_a_space_or_a_config_error(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        wanted = space.load(path)
    except ConfigError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.problems
        assert all(isinstance(problem, str) and problem for problem in refused.problems)
        return
    event("accepted")
    entries = [{}, *wanted.first_trials()]
    for values in [*(wanted.first_values(entry) for entry in entries), drawn(wanted, 1)]:
        assert sections.problems(wanted.config(values)) == []
    assert read(strict_yaml.dump(wanted.document)).parameters == wanted.parameters
