"""Command lines: every wrong flag is named at once, and `--set` edits any key of a space."""

import argparse
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from skdtune import credentials, strict_yaml
from skdtune.errors import ConfigError
from trainables.arguments import nearest

LONGEST_NAME = 100
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:]+):[0-9]{1,5}")
_CREDENTIALS = {  # where a password belongs instead of the URI
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "postgresql": "PGPASSWORD or ~/.pgpass",
    "mysql": "a file that the URI names, ?read_default_file=~/.my.cnf",
}
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


class Parser:
    """argparse that collects problems instead of stopping at the first."""

    def __init__(self, program: str, description: str):
        self.program = f"python -m {program}"
        self.parser = argparse.ArgumentParser(
            prog=self.program, description=description, exit_on_error=False, allow_abbrev=False
        )
        self.checks: dict[str, Callable[[str], Any]] = {}
        self.required: list[str] = []
        self.problems: list[str] = []

    def argument(self, name: str, help: str, required: bool = False) -> None:
        self.parser.add_argument(name, nargs="?", metavar=name.upper(), help=help)
        if required:
            self.required.append(name)

    def study(self, is_on_disk: bool = False) -> None:
        where, newest = "a name in ./studies", "the newest in ./studies"
        if not is_on_disk:
            where, newest = f"{where} or MLflow", f"{newest}, or of the MLflow that is named"
        self.argument("study", f"{where}, a folder or URI (default: {newest})")

    def tracking_uri(self) -> None:
        self.option(
            "--tracking-uri",
            "MLflow server or database (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
            check=tracking_uri,
        )

    def option(
        self,
        name: str,
        help: str,
        *,
        check: Callable[[str], Any] | None = None,
        choices: Iterable[str] | None = None,
        default: str | None = None,
        metavar: str | None = None,
        many: bool = False,
    ) -> None:
        """A flag with a value. check: text to value, ValueError for what it cannot be."""
        if choices:
            check = one_of(choices)
        if check:
            self.checks[name[2:].replace("-", "_")] = check
        self.parser.add_argument(
            name, help=help, default=default, metavar=metavar, action="append" if many else "store"
        )

    def switch(self, name: str, help: str) -> None:
        self.parser.add_argument(name, help=help, action="store_true")

    def help(self) -> None:
        """Prints it and ends the program when its command line asks for it."""
        if {"-h", "--help"} & set(sys.argv[1:]):
            self.parser.print_help()
            raise SystemExit(0)

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """The values by name. Errors: ConfigError with every problem."""
        values = self.read(arguments)
        if self.problems:
            raise ConfigError(self.program, self.problems)
        return values

    def read(self, arguments: list[str]) -> dict[str, Any]:
        """The values by name, None for a flag that is wrong; what is wrong is left in
        `problems`."""
        known, unknown = self._split(arguments)
        flags = [flag for action in self.parser._actions for flag in action.option_strings]
        for word in unknown:
            guess = nearest(word.split("=")[0], flags)
            if word.startswith("-") and not guess and "--set" in flags:
                guess = "; keys of the space are edited with --set PATH=VALUE"
            self.problems.append(
                f"{word}: no such {'flag' if word.startswith('-') else 'argument'}{guess}"
            )
        values = vars(known)
        self.problems += [f"{n.upper()} is missing" for n in self.required if values[n] is None]
        for name, check in self.checks.items():
            if values[name] is None:
                continue
            try:
                values[name] = check(values[name])
            except ValueError as error:
                self.problems.append(f"--{name.replace('_', '-')}: {error}")
                values[name] = None
        return values

    def _split(self, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """What argparse makes of them. A flag that it stumbles over is noted and left out, so that
        the others are looked at too."""
        while True:
            try:
                return self.parser.parse_known_args(arguments)
            except argparse.ArgumentError as error:
                flag = error.argument_name or ""
                self.problems.append(f"{flag}: {error.message}".strip(": "))
            kept = [
                word
                for word, after in zip(arguments, [*arguments[1:], "-"], strict=True)
                if not ((word == flag and after.startswith("-")) or word.startswith(f"{flag}="))
            ]
            arguments = kept if len(kept) < len(arguments) else []


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def study_name(text: str) -> str:
    """A name that is a folder of its own on any file system."""
    bad = [character for character in text if unicodedata.category(character) in ("Cc", "Cs")]
    if not text.strip() or bad or "/" in text or "\\" in text or text.startswith("."):
        raise ValueError(f"{text!r}: a name has no slash, no control character and no dot in front")
    if len(text) > LONGEST_NAME or len(text.encode()) > 240:
        raise ValueError(
            f"{text[:20]!r}…: a name has at most {LONGEST_NAME} characters and 240 bytes"
        )
    return text


def tracking_uri(text: str) -> str:
    """A database or server of MLflow's; no secrets, since it is stored with the study."""
    kind = text.lower().partition(":")[0].split("+")[0]
    credentials.refuse(text, _CREDENTIALS.get(kind, "what its driver reads"))
    scheme = urlsplit(text).scheme.split("+")[0]
    if scheme not in _STORES and text != "databricks":
        listed = ", ".join(_STORES)
        raise ValueError(
            f"{text!r}: a database or a server ({listed}), such as sqlite:///mlflow.db"
        )
    file = text.partition(":///")[2].partition("?")[0]
    if scheme == "sqlite" and file in ("", ":memory:"):  # SQLite would keep it in memory
        raise ValueError(f"{text!r} names no file; three slashes and a path, sqlite:///mlflow.db")
    return text


def storage(text: str) -> str:
    """A path or URI for a study; no secrets, since workers are told it."""
    if not text.strip() or "\0" in text:
        raise ValueError(f"{text!r} is not a path or URI")
    if text.startswith("file://") and urlsplit(text).netloc not in ("", "localhost"):
        raise ValueError(f"{text!r}: a full path has three slashes, file:///folder")
    return credentials.refuse(text, credentials.OF_A_FILE_SYSTEM)


def local_path(text: str) -> str:
    """A folder of this machine."""
    if "://" in text or not text.strip() or "\0" in text:
        raise ValueError(f"{text!r} is not a folder of this machine")
    return text


def address(text: str) -> str:
    """Where Ray is: `local`, `auto` or `HOST:PORT`."""
    if text not in ("local", "auto") and not _HOST_AND_PORT.fullmatch(text):
        raise ValueError(f"{text!r} is not local, auto or HOST:PORT")
    return text


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    allowed = tuple(choices)

    def check(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text!r} is not one of {', '.join(allowed)}{nearest(text, allowed)}")
        return text

    return check


def overrides(flags: list[str] | None) -> tuple[list[tuple[list[str], Any]], list[str]]:
    """`--set PATH=VALUE` as (path, value), and what is wrong with those that cannot be read."""
    edits, problems = [], []
    for flag in flags or []:
        path, equals, text = flag.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            problems.append(f"--set {flag}: expected PATH=VALUE, such as trial.optim.lr=0.1")
            continue
        try:
            edits.append((keys, strict_yaml.value(text, f"--set {path}")))
        except ConfigError as error:
            problems += [f"--set {path}: {problem}" for problem in error.problems]
    return edits, problems


def apply(data: Any, edits: list[tuple[list[str], Any]]) -> None:
    """Edits a document in place; sections that are missing are made. What a key may be is
    checked later. Errors: ConfigError for a path through something that is no section."""
    problems = []
    if not isinstance(data, dict):  # which is refused when it is checked
        return
    for keys, value in edits:
        place = data
        for depth, key in enumerate(keys[:-1], start=1):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                problems.append(
                    f"--set {'.'.join(keys)}: {'.'.join(keys[:depth])} is not a section"
                )
                break
        else:
            place[keys[-1]] = value
    if problems:
        raise ConfigError("--set", problems)
