"""What YAML text means here, and that what is written is read back as it was."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skdtune import strict_yaml
from skdtune.errors import ConfigError

AWKWARD = ["1e5", "1E5", "no", "on", "0x1", "012", "1:30", "null", "~", "", " ", "true", "True"]
AWKWARD += ["1_000", "-", "?", ":", "# no", "a: b", "- a", "'", '"', "[a]", "{a}", "&a", "*a", "!a"]
AWKWARD += ["%a", "@a", "`a", "|", ">", "2020-01-01", ".inf", "-.inf", ".nan", "+1", "1.", ".5"]
AWKWARD += ["<<", "=", "---", "...", "a\nb", "a\n", "\na", " a", "a ", "\t", "a\r\nb", "\x85", "\0"]
AWKWARD += [
    "\r",
    "a\u2029b",
    "\u2028",
    "\ufeff",
    "\x1b[31m",
    "実験",
    "é",
    "😀",
    "0",
    "-0",
    "x" * 300,
]
AWKWARD += ["two words " * 30]

TEXT = st.one_of(st.sampled_from(AWKWARD), st.text(max_size=40))
SCALAR = st.one_of(
    TEXT,
    st.floats(allow_nan=False),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.booleans(),
    st.none(),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def meaning(text: str) -> Any:
    return strict_yaml.parse(text, "here").data


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        strict_yaml.parse(text, "here")
    assert refused.value.source == "here"
    return "\n".join(refused.value.problems)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(TEXT, VALUE, max_size=5))
@example({text: text for text in AWKWARD})
@example({"a": 1e-05, "b": 1e16, "c": 5e-324, "d": 1.7976931348623157e308, "e": -0.0, "f": 1e22})
@example({"a": math.inf, "b": -math.inf, "c": {}, "d": [], "e": [[], {}]})
def test_what_is_dumped_is_read_back(content: dict) -> None:
    back = meaning(strict_yaml.dump(content))

    assert back == content
    assert _types(back) == _types(content)


def _types(value: Any) -> Any:
    """1, 1.0 and True are equal; their types tell them apart. The order of keys counts too."""
    if isinstance(value, dict):
        return [(key, _types(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [_types(item) for item in value]
    return (type(value), repr(value))


def test_a_value_used_twice_is_written_twice() -> None:
    shared = {"lr": 0.1}
    assert strict_yaml.dump({"a": shared, "b": shared}) == "a:\n  lr: 0.1\nb:\n  lr: 0.1\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("5.0e-4", 0.0005),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_numbers_and_words_that_mean_something(text: str, value: Any) -> None:
    assert meaning(text) == value
    assert type(meaning(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "y",
        "n",
        "1:30",
        "012",
        "0o12",
        "0x1F",
        "1_000",
        "2020-01-01",
        "tRUE",
    ]
    + [
        "2020-01-01T10:00:00Z",
        "1e",
        "e5",
        "0e5x",
        ".",
        "-",
        "NaN",
        "inf",
        "nil",
        "None",
        "0b1",
        "<<",
    ],
)
def test_everything_else_stays_text(text: str) -> None:
    assert meaning(f"a: {text}" if text != "-" else "a: '-'") == {"a": text}


def test_quotes_and_blocks_make_text_of_everything() -> None:
    assert meaning("[\"1e5\", 'true', '', \"null\"]") == ["1e5", "true", "", "null"]
    assert meaning("a: |\n  1\nb: >-\n  true\n") == {"a": "1\n", "b": "true"}
    assert meaning("!!str 5") == "5"


def test_nan_is_a_number() -> None:
    assert math.isnan(meaning(".nan"))


def test_windows_editors_are_understood() -> None:
    assert meaning("\ufefftrial:\r\n  seed: 1\r\n") == {"trial": {"seed": 1}}


def test_an_alias_stands_for_its_anchor() -> None:
    assert meaning("a: &x {lr: 0.1}\nb: *x\n") == {"a": {"lr": 0.1}, "b": {"lr": 0.1}}


def test_a_merge_key_merges_nothing() -> None:
    assert meaning("a: &x {lr: 0.1}\nb: {<<: *x}\n")["b"] == {"<<": {"lr": 0.1}}


def test_lines_are_those_of_keys_and_items() -> None:
    document = strict_yaml.parse("# a\ntrial:\n  optim:\n    lr: 1\n    m: [1,\n      2]\n", "here")

    assert document.lines == {
        ("trial",): 2,
        ("trial", "optim"): 3,
        ("trial", "optim", "lr"): 4,
        ("trial", "optim", "m"): 5,
        ("trial", "optim", "m", 0): 5,
        ("trial", "optim", "m", 1): 6,
    }


def test_every_duplicate_is_named_with_both_lines() -> None:
    assert problem("a: 1\nb: {c: 1,\n  c: 2}\na: 3\n'a': 4\n") == (
        "line 3: c is given twice (first on line 2)\n"
        "line 4: a is given twice (first on line 1)\n"
        "line 5: a is given twice (first on line 4)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/name:os.system", "line 1: tag tag:yaml.org,2002:python/name:os.system: tags"),
        ("!!omap [a: 1]", "line 1: tag tag:yaml.org,2002:omap: tags are not allowed"),
        ("a: !!bool no", "line 1: tag tag:yaml.org,2002:bool: tags are not allowed"),
        ("a: !!int 1.5", "line 1: '1.5' is not a number that can be read"),
        ("!k a: 1", "line 1: tag !k: tags are not allowed\nline 1: a key must be text"),
        ("? [a]\n: b", "line 1: a key must be text"),
        ("1: b", "line 1: a key must be text"),
        ("9223372036854775808", "line 1: 9223372036854775808 is too large a whole number"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a: [\n", "line 2, column 1: expected the node content, but found '<stream end>'"),
        ("a: 'b", "line 1, column 6: found unexpected end of stream"),
        ("a: @b", "line 1, column 4: found character '@' that cannot start any token"),
        ("&x [*x]", "line 1, column 1: an alias to what holds it"),
        ("a: \x07", "special characters are not allowed"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, expected: str) -> None:
    assert expected in problem(text)


def test_depth_and_count_have_limits_that_real_files_are_far_from() -> None:
    assert meaning("[" * 49 + "]" * 49) is not None
    assert "nested deeper than 50" in problem("[" * 51 + "]" * 51)
    assert len(meaning(f"[{'a,' * 9000}a]")) == 9001
    assert "more than 10000 values" in problem(f"[{'a,' * 10000}a]")
    assert "more than 10000 values" in problem(f"a: &a [{'x,' * 3000}]\nb: [*a, *a, *a, *a]")


def test_a_file_is_read_as_the_text_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("name: 実験\n".encode())
    assert strict_yaml.read(path).data == {"name": "実験"}

    path.write_bytes(b"#" * strict_yaml.LARGEST_FILE_BYTES)
    assert strict_yaml.read(path).data is None
    path.write_bytes(b"#" * (strict_yaml.LARGEST_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="262145 bytes: a file has at most 262144"):
        strict_yaml.read(path)


def test_a_flag_is_read_by_the_same_rules() -> None:
    assert strict_yaml.value("1e-3", "--set") == 0.001
    assert strict_yaml.value("no", "--set") == "no"
    assert strict_yaml.value("[0.3, 0.6]", "--set") == [0.3, 0.6]
    assert strict_yaml.value("~/data", "--set") == "~/data"
    assert strict_yaml.value("", "--set") is None
