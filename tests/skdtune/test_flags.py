"""Command lines: what each flag takes, and how `--set` edits a document."""

import copy
from typing import Any

import pytest

from skdtune import flags
from skdtune.errors import ConfigError


@pytest.fixture
def parser() -> flags.Parser:
    made = flags.Parser("skdtune.made", "for tests")
    made.argument("space", "a file")
    made.option("--trials", "how many", check=flags.count, default="3")
    made.option("--format", "of the output", choices=("table", "json"))
    made.option("--set", "an edit", many=True)
    made.switch("--resume", "go on")
    return made


def test_values_are_checked_and_absent_ones_are_none(parser: flags.Parser) -> None:
    assert parser.parse([]) == {
        **{"space": None, "trials": 3, "format": None, "set": None, "resume": False}
    }
    arguments = ["x", "--trials=7", "--set", "a=1", "--set=b=2", "--resume", "--format", "json"]
    assert parser.parse(arguments) == {
        **{"space": "x", "trials": 7, "format": "json", "set": ["a=1", "b=2"], "resume": True}
    }


def test_all_problems_are_found_and_the_sound_flags_still_read(parser: flags.Parser) -> None:
    arguments = ["x", "y", "--trials", "--format", "jason", "--resum", "--set"]
    values = parser.read([*arguments, "--resume=1"])

    assert sorted(parser.problems) == [
        "--format: 'jason' is not one of table, json; did you mean json?",
        "--resum: no such flag; did you mean --resume?",
        "--resume: ignored explicit argument '1'",
        "--set: expected one argument",
        "--trials: expected one argument",
        "y: no such argument",
    ]
    assert values["space"] == "x"
    assert values["format"] is None


def test_a_flag_that_may_be_a_key_of_the_space_is_told_how_to_set_it(parser: flags.Parser) -> None:
    parser.read(["--batch-size=64"])
    hint = "keys of the space are edited with --set PATH=VALUE"
    assert parser.problems == [f"--batch-size=64: no such flag; {hint}"]


def test_a_flag_without_its_value_does_not_take_the_next_one_of_its_kind(
    parser: flags.Parser,
) -> None:
    values = parser.read(["--set", "a=1", "--trials", "5", "--set"])

    assert parser.problems == ["--set: expected one argument"]
    assert (values["set"], values["trials"], values["space"]) == (["a=1"], 5, None)


def test_a_required_argument_is_missed(parser: flags.Parser) -> None:
    parser.argument("config", "needed", required=True)
    with pytest.raises(ConfigError) as refused:
        parser.parse(["a", "--trials=x"])
    assert refused.value.problems == [
        *("CONFIG is missing", "--trials: 'x' is not a whole number of at least 1")
    ]


def test_help_is_no_mistake(parser: flags.Parser, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ending:
        parser.parse(["--help"])
    assert ending.value.code == 0
    assert "python -m skdtune.made" in capsys.readouterr().out


def accepts(check: Any, text: str) -> bool:
    try:
        check(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (
            flags.count,
            ["1", "007", "999999999"],
            ["0", "-1", "1.0", "1e3", "", " 1", "1\n", "٣", "²", "0x1", "1_0", "1" * 10],
        ),
        (
            flags.study_name,
            ["a", "my study", "実験", "x" * 100, "a.b", "#%?", "[b]"],
            ["", "  ", "a/b", "a\\b", ".hidden", "..", ".", "a\tb", "a\0", "x" * 101, "実" * 81],
        ),
        (
            flags.tracking_uri,
            ["sqlite:///mlflow.db", "http://127.0.0.1:5000", "postgresql+psycopg://me@h/db"]
            + ["https://me@h", "databricks://profile", "databricks", "HTTP://h:5000"],
            [
                "",
                "mlruns",
                "./mlruns",
                "http",
                "postgresql",
                "file:///x",
                "/abs",
                "C:\\x",
                "https://me:pw@h",
                "http://[:",
            ]
            + ["postgresql://me:pw@h/db", "https://me:@h", "s3://bucket"],
        ),
        (
            flags.storage,
            ["studies/a", "~/x", "s3://bucket/x", "file:///x", "a b", "gs://me@bucket"],
            ["", " ", "a\0b", "s3://k:pw@bucket/x", "s3://["],
        ),
        (flags.local_path, ["x", "~/x", "/x", "a b"], ["", " ", "s3://b/x", "file:///x", "a\0"]),
        (
            flags.address,
            ["local", "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"],
            ["", "head", "ray://head:10001", "head:", ":6379", "head:port", "a b:1", "h:1:2"],
        ),
    ],
)
def test_what_a_flag_takes(check: Any, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not accepts(check, text)] == []
    assert [text for text in bad if accepts(check, text)] == []


@pytest.mark.parametrize("check", [flags.tracking_uri, flags.storage])
@pytest.mark.parametrize("scheme", ["https", "ftp", "s3", "postgresql+psycopg"])
def test_a_password_is_refused_and_not_repeated(check: Any, scheme: str) -> None:
    with pytest.raises(ValueError, match="a password does not belong in a URI") as refused:
        check(f"{scheme}://me:S3CRET@host/x")
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize("check", [flags.tracking_uri, flags.storage])
@pytest.mark.parametrize("option", ["password", "PWD", "sslpassword", "account_key", "sas_token"])
def test_a_password_among_the_options_of_a_uri_is_one_too(check: Any, option: str) -> None:
    with pytest.raises(ValueError, match="a password does not belong in a URI") as refused:
        check(f"postgresql://host/x?sslmode=require&{option}=S3CRET")
    assert "S3CRET" not in str(refused.value)
    with pytest.raises(ValueError, match="a password does not belong in a URI"):
        check("mssql+pyodbc:///?odbc_connect=DRIVER%3D{x}%3BUID%3Dme%3BPWD%3DS3CRET")
    check("postgresql://host/x?passfile=/home/me/.pgpass&sslkey=/home/me/key&region=r")


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("https://me:pw@host", "MLFLOW_TRACKING_PASSWORD"),
        ("postgresql+psycopg://me:pw@host/x", "PGPASSWORD or ~/.pgpass"),
        ("mysql+pymysql://me:pw@host/x", "read_default_file"),
    ],
)
def test_where_a_password_belongs_is_said(uri: str, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        flags.tracking_uri(uri)


def test_edits_are_read_as_yaml() -> None:
    words = ["a.b=1e-3", "c=no", "d=[1, {x: 2}]", "e=", "f=x=y", "g=~/data"]
    assert flags.overrides(words)[0] == [
        (["a", "b"], 0.001),
        (["c"], "no"),
        (["d"], [1, {"x": 2}]),
        (["e"], None),
        (["f"], "x=y"),
        (["g"], "~/data"),
    ]
    assert flags.overrides(words)[1] == []
    assert flags.overrides(None) == ([], [])


def test_every_edit_that_cannot_be_read_is_named() -> None:
    edits, problems = flags.overrides(["a", "b=1", "c.=1", "d=[", "=1", "e=!x 1"])
    assert edits == [(["b"], 1)], "the others are looked at all the same"
    assert [problem.partition(":")[0] for problem in problems] == [
        *("--set a", "--set c.=1", "--set d", "--set =1", "--set e")
    ]


def edited(document: Any, *edits: str) -> Any:
    document = copy.deepcopy(document)
    flags.apply(document, flags.overrides(list(edits))[0])
    return document


def test_edits_change_add_and_make_sections() -> None:
    before = {"trial": {"optim": {"lr": 0.1}, "augment": None}}

    assert edited(before, "trial.optim.lr=0.2", "trial.optim.momentum=0", "trial.seed=3") == {
        "trial": {"optim": {"lr": 0.2, "momentum": 0}, "augment": None, "seed": 3}
    }
    assert edited(before, "trial.augment.flip=false")["trial"]["augment"] == {"flip": False}
    assert edited(before, "search.sampler.seed=1")["search"] == {"sampler": {"seed": 1}}
    assert edited(before, "trial={}", "trial.x=1", "trial.x=2") == {"trial": {"x": 2}}


def test_an_edit_through_a_scalar_is_refused_and_the_others_are_made() -> None:
    document = {"trial": {"epochs": 3, "milestones": [1]}}
    with pytest.raises(ConfigError) as refused:
        flags.apply(
            document,
            flags.overrides(["trial.epochs.x=1", "trial.milestones.0=1", "trial.seed=1"])[0],
        )
    assert refused.value.problems == [
        "--set trial.epochs.x: trial.epochs is not a section",
        "--set trial.milestones.0: trial.milestones is not a section",
    ]
    assert document == {"trial": {"epochs": 3, "milestones": [1], "seed": 1}}


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_what_is_no_document_is_left_to_its_own_error(document: Any) -> None:
    assert edited(document, "trial.seed=1", "x=2") == document


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://mlflow.db", "sqlite:///?a=1"]
)
def test_a_database_that_would_keep_nothing_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        flags.tracking_uri(uri)


def test_a_file_uri_with_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="three slashes"):
        flags.storage("file://studies/night")
    assert flags.storage("file:///studies/night")
