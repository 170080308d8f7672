"""Mistakes on a command line, alone and beside those in a file: all of them are named at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from skdtune import errors, search, train
from tests import programs
from tests.skdtune.breakable import FIXED, SPACE, STAGE, Refuse, content, edited

SPACES = sorted(path.stem for path in (Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))

# Flags of the search, and all that the message must hold
FLAGS = {
    "--trials 0": (["--trials", "0"], ["--trials: '0' is not a whole number of at least 1"]),
    "--trials abc": (["--trials", "abc"], ["--trials: 'abc' is not a whole number of at least 1"]),
    "--trials -3": (["--trials", "-3"], ["--trials: '-3' is not a whole number of at least 1"]),
    "--trials 1e3": (["--trials=1e3"], ["--trials: '1e3' is not a whole number of at least 1"]),
    "--trials of 10 digits": (["--trials=9999999999"], ["--trials: '9999999999' is not a whole"]),
    "--epochs 2.5": (["--epochs", "2.5"], ["--epochs: '2.5' is not a whole number of at least 1"]),
    "--epochs in Arabic": (["--epochs", "٣"], ["--epochs: '٣' is not a whole number"]),
    "--concurrency 0": (["--concurrency=0"], ["--concurrency: '0' is not a whole number"]),
    "fewer trials than first ones": (
        ["--set=search.first_trials=[{}, {}]", "--trials=1"],
        ["search.first_trials: 2 entries, but search.trials is 1"],
    ),
    "--set without =": (
        ["--set", "trial.optim.lr"],
        ["--set trial.optim.lr: expected PATH=VALUE, such as trial.optim.lr=0.1"],
    ),
    "--set without a path": (["--set", "=3", "--set=a..b=1"], ["--set =3: exp", "--set a..b=1: e"]),
    "--set through a scalar": (
        ["--set=trial.epochs.more=1", "--set=trial.optim.lr=fast"],
        ["--set trial.epochs.more: trial.epochs is not a section"]
        + ["trial.optim.lr: 'fast' is not a number"],
    ),
    "--set of keys that there are not": (
        ["--set=trial.optim.lrr=1", "--set=trial.methd.alpha=1", "--set=serch.trials=3"],
        [
            "trial.optim.lrr: optim has no such setting",
            "did you mean lr?",
            "trial.methd: a trial has no such section",
            "did you mean method?",
            "serch: no such section",
            "did you mean search?",
        ],
    ),
    "--set of what is no YAML": (
        ["--set=trial.optim.lr=[1", "--set=trial.seed=!!python/name:os.system x"],
        ["--set trial.optim.lr: line 1, column 3: expected ',' or ']'"]
        + ["--set trial.seed: line 1: tag tag:yaml.org,2002:python/name:os.system"],
    ),
    "--set of a broken leaf": (
        ["--set=trial.optim.lr={type: float, low: 1, high: 0}"],
        ["trial.optim.lr: low (1) must be below high (0)"],
    ),
    "--name with a slash": (["--name", "a/b"], ["--name: 'a/b': a name has no slash"]),
    "--name with two dots": (["--name", ".."], ["--name: '..': a name has no slash"]),
    "--name with a control character": (["--name", "a\nb"], ["--name: 'a\\nb': a name has no"]),
    "--name of bytes": (["--name", "a\udcff"], ["--name: 'a\\udcff': a name has no"]),
    "--name of nothing": (["--name", " "], ["--name: ' ': a name has no slash"]),
    "--name too long": (["--name", "x" * 101], ["a name has at most 100 characters and 240 bytes"]),
    "--name of too many bytes": (["--name", "実験" * 49], ["at most 100 characters and 240 bytes"]),
    "--storage with a scheme that there is not": (
        ["--storage", "bogus://bucket/study"],
        ["--storage: 1 problem\n  bogus://bucket/study: Unrecognized filesystem type"],
    ),
    "--storage with a password": (
        ["--storage", "s3://key:S3CRET@bucket/study"],
        ["--storage: a password does not belong in a URI"],
    ),
    "--storage of nothing": (["--storage", ""], ["--storage: '' is not a path or URI"]),
    "--storage that cannot be parsed": (["--storage", "s3://[x/y"], ["--storage: not a URI"]),
    "--tracking-uri file:": (
        ["--tracking-uri", "file:/x"],
        ["--tracking-uri: 'file:/x': a database or a server (sqlite, postgresql, mysql, mssql, "],
    ),
    "--tracking-uri ./mlruns": (
        ["--tracking-uri", "./mlruns"],
        ["--tracking-uri: './mlruns': a database or a server", "such as sqlite:///mlflow.db"],
    ),
    "--tracking-uri with a password": (
        ["--tracking-uri", "https://me:S3CRET@mlflow.example"],
        ["--tracking-uri: a password does not belong in a URI; give it in MLFLOW_TRACKING_USERNAM"],
    ),
    "--tracking-uri with a password and a wrong scheme": (
        ["--tracking-uri", "ftp://me:S3CRET@mlflow.example"],
        ["--tracking-uri: a password does not belong in a URI"],
    ),
    "--tracking-uri that cannot be parsed": (
        ["--tracking-uri", "http://[::1"],
        ["--tracking-uri: not a URI: Invalid IPv6 URL"],
    ),
    "--address nonsense": (
        ["--address", "nonsense"],
        ["--address: 'nonsense' is not local, auto or HOST:PORT"],
    ),
    "--address with a scheme": (["--address", "ray://h:10001"], ["is not local, auto or HOST:PO"]),
    "an unknown flag": (["--resme"], ["--resme: no such flag; did you mean --resume?"]),
    "an abbreviated flag": (["--track=sqlite:///x"], ["--track=sqlite:///x: no such flag"]),
    "a flag without its value": (
        ["--trials", "--epochs", "x", "--name"],
        ["--trials: expected one argument", "--name: expected one argument"]
        + ["--epochs: 'x' is not a whole number"],
    ),
    "a switch with a value": (
        ["--check=yes", "--trials=0"],
        ["--check: ignored explicit argument 'yes'", "--trials: '0' is not"],
    ),
    "an argument too many": (["other"], ["other: no such argument"]),
    "--resume with no study": (
        ["--resume"],
        ["--resume: 1 problem\n  no study of the space quickstart in ./studies"],
    ),
    "--resume of a name that there is not": (
        ["--resume", "--name=mine", "--set=trial.epochs=0"],
        ["--resume: no study mine in ./studies to resume", "trial.epochs: 0 is not at least 1"],
    ),
    "--resume of a folder that is no study": (
        ["--resume", "--storage=here"],
        ["here: 1 problem", "there is no study here (study.json is missing)"],
    ),
    "resources of no machine": (
        ["--check", "--set=resources={cpu: 4000}"],
        ["resources.cpu: a trial asks for 4000, this machine has "],
    ),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_mistake_in_a_flag_is_named(case: str, refuse: Refuse) -> None:
    flags, expected = FLAGS[case]

    said = refuse(search.main, "quickstart", *flags)

    assert [text for text in expected if text not in said] == [], said
    assert "S3CRET" not in said


def test_wrong_flags_and_a_broken_file_are_named_together(refuse: Refuse, tmp_path: Path) -> None:
    broken = edited(("lr: 0.05", "lr: fast"), (STAGE, "{type: int, low: 3, high: 1}"))
    (tmp_path / "mine.yaml").write_text(broken)

    flags = ["--trials", "0", "--epoch=3", "--name=a/b", "--set=nothing", "--storage=bogus://x"]
    said = refuse(search.main, "mine.yaml", *flags, "--address=mars")

    assert said.startswith("skdtune: 8 problems\n")
    for part in (
        "--trials: '0' is not",
        "--epoch=3: no such flag; did you mean --epochs?",
        "--name: 'a/b': a name has no slash",
        "--set nothing: expected PATH=VALUE",
        "--storage: bogus://x",
        "--address: 'mars' is not",
        "mine.yaml: line 9: trial.optim.lr: 'fast' is not a number",
        "mine.yaml: line 8: trial.method.stage: low (3) must be below high (1)",
    ):
        assert part in said


def test_a_misspelt_space_is_told_the_nearest(refuse: Refuse) -> None:
    said = refuse(search.main, "quikstart")

    assert said == (
        "quikstart: 1 problem\n  no such file, and no such name in search_spaces (it has "
        f"{', '.join(SPACES)}); did you mean quickstart?\n"
    )


def test_nothing_is_searched_but_many_trials_are_asked_for(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "fixed.yaml").write_text(FIXED + "search: {trials: 8}\n")

    said = refuse(search.main, "fixed.yaml")
    assert "line 7: search.trials: 8: nothing is searched, so there is one trial" in said

    (tmp_path / "fixed.yaml").write_text(FIXED)
    said = refuse(search.main, "fixed.yaml", "--trials", "8")
    assert "search.trials: 8: nothing is searched, so there is one trial" in said


TRAIN = {
    "no config": ([], ["CONFIG is missing"]),
    "no config, wrong flags": (
        ["--seeds", "--output", "x", "--sedes=3"],
        ["--seeds: expected one argument", "--sedes=3: no such flag; did you mean --seeds?"]
        + ["CONFIG is missing"],
    ),
    "--seeds 0": (["fixed.yaml", "--seeds", "0"], ["--seeds: '0' is not a whole number of at l"]),
    "--seeds many": (["fixed.yaml", "--seeds=many"], ["--seeds: 'many' is not a whole number"]),
    "--output that is a URI": (
        ["fixed.yaml", "--output=s3://b/x"],
        ["--output: 's3://b/x' is not a folder of this machine"],
    ),
    "--tracking-uri ./mlruns": (["fixed.yaml", "--tracking-uri=./mlruns"], ["--tracking-uri: './"]),
    "a config that is missing": (["best.yaml"], ["best.yaml: 1 problem", "No such file or direct"]),
    "leaves that are still searched": (
        ["mine.yaml", "--seeds=0"],
        [
            "--seeds: '0' is not a whole number",
            "mine.yaml: trial.method.variant is still searched",
            "mine.yaml: trial.method.stage is still searched",
            "mine.yaml: trial.method.alpha is still searched; fix each with --set, or train what "
            "skdtune.export writes",
        ],
    ),
    "a broken file and a broken edit": (
        ["fixed.yaml", "--set=trial.epochs=0", "--set=trial.epochs.x=1", "--seeds=x"],
        ["--set trial.epochs.x: trial.epochs is not a section", "--seeds: 'x' is not"]
        + ["trial.epochs: 0 is not at least 1"],
    ),
    "--set without =": (["fixed.yaml", "--set=x"], ["--set x: expected PATH=VALUE"]),
}


@pytest.mark.parametrize("case", TRAIN)
def test_a_mistake_in_a_training_is_named(case: str, refuse: Refuse, tmp_path: Path) -> None:
    arguments, expected = TRAIN[case]
    (tmp_path / "fixed.yaml").write_text(FIXED)
    (tmp_path / "mine.yaml").write_text(SPACE)

    said = refuse(train.main, *arguments)

    assert [text for text in expected if text not in said] == [], said


@pytest.mark.slow
def test_the_same_as_processes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(edited(("lr: 0.05", "lr: fast"), ("trials: 4", "trials:")))
    (tmp_path / "tagged.yaml").write_text("!!python/object/apply:os.mkdir [studies]")
    before = content(tmp_path)
    commands = {
        ("search", "mine.yaml", "--trails=3"): ["--trails=3: no such flag", "'fast' is not a numb"],
        ("train", "tagged.yaml", "--seeds=0"): ["tags are not allowed", "--seeds: '0' is not"],
        ("leaderboard", "mine"): ["no such study in ./studies or in sqlite:///mlflow.db"],
        ("search", "/dev/zero", "--name=\n"): ["it is not a regular file", "--name: '\\n'"],
    }
    processes = {
        command: subprocess.Popen(
            [sys.executable, "-m", f"skdtune.{command[0]}", *command[1:]],
            cwd=tmp_path,
            env=programs.environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    }
    for command, process in processes.items():
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out) == (errors.USAGE, ""), (command, said)
        assert "Traceback" not in said
        assert [text for text in commands[command] if text not in said] == [], said
    assert content(tmp_path) == before
