"""A sound space and a sound config for tests to break, and what a folder holds before and after."""

from collections.abc import Callable
from pathlib import Path

SPACE = """\
trial:
  data: {name: digits, batch_size: 64, validation_fraction: 0.25}
  model: {name: small_cnn, width: 8}
  method:
    name: drg_dsr
    variant: {type: categorical, choices: [drg, dsr, drg_dsr]}
    alpha: {type: float, low: 0.02, high: 2.0, log: true, when: {method/variant: [drg, drg_dsr]}}
    stage: {type: int, low: 1, high: 3}
  optim: {lr: 0.05}
  epochs: 9
search:
  trials: 4
  sampler: {name: tpe, seed: 0}
  scheduler: {name: asha, grace_period: 3}
  first_trials:
    - {method/alpha: 0.2}
resources: {cpu: 1}
"""
FIXED = """\
trial:
  data: {name: digits}
  model: {name: small_cnn}
  method: {name: cross_entropy}
  optim: {lr: 0.05}
  epochs: 2
"""
ALPHA = "{type: float, low: 0.02, high: 2.0, log: true, when: {method/variant: [drg, drg_dsr]}}"
STAGE = "{type: int, low: 1, high: 3}"

Main = Callable[[list[str]], int]
Refuse = Callable[..., str]


def content(folder: Path) -> dict[str, bytes]:
    """Every path below a folder, with what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def edited(*edits: tuple[str, str]) -> str:
    """The space with each of the old texts replaced by its new one."""
    text = SPACE
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} must be in the space once"
        text = text.replace(old, new)
    return text


def assert_said(said: str, expected: list[str]) -> None:
    """What is said of the space in `mine.yaml` begins with its name and holds all that is
    expected."""
    assert said.startswith("mine.yaml: ")
    assert [text for text in expected if text not in said] == [], said
