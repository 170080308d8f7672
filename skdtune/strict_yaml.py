"""Reads YAML without its traps: what it cannot mean for certain is an error with a line number."""

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from skdtune.errors import ConfigError

LARGEST_FILE_BYTES = 256 * 1024
_DEEPEST = 50
_MOST_ALIASES = 100
_MOST_NODES = 10_000
_ODD_BREAKS = "\r\x85\u2028\u2029"
_LARGEST_INTEGER = 2**63 - 1


@dataclass
class Document:
    """data: plain dicts, lists and scalars. lines: 1-based line of each key or item, by its
    path."""

    data: Any
    lines: dict[tuple, int] = field(default_factory=dict)


def read(path: Path) -> Document:
    """The document in a file. Errors: ConfigError for anything but one readable, plain YAML
    document."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(str(path), ["it is not a regular file"])
        if status.st_size > LARGEST_FILE_BYTES:
            raise ConfigError(
                str(path), [f"{status.st_size} bytes: a file has at most {LARGEST_FILE_BYTES}"]
            )
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), [f"it is not UTF-8 text: {error.reason} at byte {error.start}"]
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [getattr(error, "strerror", None) or str(error)]) from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Document:
    """The document in a text; `source` is what errors call it."""
    reader = _Reader()
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = None if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, [f"{line}{error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError(source, [" ".join(str(error).split())]) from None
    except RecursionError:
        raise ConfigError(source, [f"nested deeper than {_DEEPEST} levels"]) from None
    if reader.problems:
        raise ConfigError(source, reader.problems)
    return Document(data, reader.lines)


def value(text: str, source: str) -> Any:
    """The value of a `--set PATH=VALUE` flag, read by the same rules."""
    return parse(text, source).data


def dump(content: dict) -> str:
    """YAML in the order given, which `parse` reads back to the same values."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Loader(yaml.SafeLoader):
    """SafeLoader's grammar with YAML 1.2's core scalars: `no`, `1:30`, `012` and dates stay
    text, `1e-4` is a number."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def __init__(self, stream):
        super().__init__(stream)
        self.depth = self.aliases = self.count = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > _MOST_ALIASES:
                raise yaml.MarkedYAMLError(problem=f"more than {_MOST_ALIASES} aliases")
        self.count += 1
        if self.count > _MOST_NODES:
            raise _too_many(self.peek_event().start_mark)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which `_Loader` would read as something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        odd = any(character in data for character in _ODD_BREAKS)  # folded unless escaped
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if odd else None)


_Dumper.add_representer(str, _Dumper.represent_str)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9]*\.[0-9]+|[0-9]+\.)(?:[eE][-+]?[0-9]+)?|[1-9][0-9]*[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )


def _too_many(mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"more than {_MOST_NODES} values", problem_mark=mark)


class _Reader:
    """Nodes to plain data, every problem noted."""

    def __init__(self):
        self.problems: list[str] = []
        self.lines: dict[tuple, int] = {}
        self.open: set[int] = set()
        self.count = 0

    def value(self, node: yaml.Node, path: tuple) -> Any:
        self.count += 1
        if self.count > _MOST_NODES:
            raise _too_many(node.start_mark)
        if id(node) in self.open:
            raise yaml.MarkedYAMLError(
                problem="an alias to what holds it", problem_mark=node.start_mark
            )
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node)
            if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
                return self._note(node, f"tag {node.tag}: tags are not allowed")
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: tuple) -> dict:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                self._note(key_node, "a key must be text")
                continue
            if key in result:
                first = self.lines[(*path, key)]
                self.problems.append(f"line {line}: {key} is given twice (first on line {first})")
            self.lines[(*path, key)] = line
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix("tag:yaml.org,2002:")
        try:
            if kind == "int":
                value = int(text)
                if abs(value) > _LARGEST_INTEGER:
                    return self._note(node, f"{text[:40]} is too large a whole number")
                return value
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return self._note(node, f"{text[:40]!r} is not a number that can be read")
        if kind == "bool" and text.lower() in ("true", "false"):  # else a tag claims that it is one
            return text.lower() == "true"
        if kind == "null" and text.lower() in ("null", "~", ""):
            return None
        return text if kind == "str" else self._note(node, f"tag {node.tag}: tags are not allowed")

    def _note(self, node: yaml.Node, problem: str) -> None:
        self.problems.append(f"line {node.start_mark.line + 1}: {problem}")
