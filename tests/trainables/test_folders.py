"""What is said of a file in an extension folder that cannot be used."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from skdtune import errors
from trainables import methods, models, sources
from trainables.folders import BrokenFile, modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An extension folder of its own, with one sound file."""
    name = f"extensions_{tmp_path.name}".replace("[", "_").replace("]", "_")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "sound.py").write_text("x = 1\n")
    (tmp_path / name / "_hidden.py").write_text("x = (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(name)
    for loaded in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[loaded]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import os\ndef x(:\n", "line 2: SyntaxError: invalid syntax"),
        ("\n\nimport nothere\n", "line 3: ModuleNotFoundError: No module named 'nothere'"),
        ("def f():\n    return 1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(
    folder: ModuleType, text: str, problem: str
) -> None:
    (Path(folder.__path__[0]) / "broken.py").write_text(text)
    with pytest.raises(BrokenFile) as refused:
        modules(folder)
    assert refused.value.source == f"{folder.__name__}/broken.py"
    assert refused.value.problem == problem


def test_sound_files_are_found_and_hidden_ones_left_alone(folder: ModuleType) -> None:
    assert list(modules(folder)) == ["sound"]


@pytest.mark.parametrize(
    ("package", "find", "text", "problem"),
    [
        (methods, methods.classes, "x = 1\n", "it must define one Method, not 0"),
        (models, models.builders, "x = 1\n", "it must list what it offers in __all__"),
        (sources, sources.readers, "x = 1\n", "it must list what it offers in __all__"),
        (models, models.builders, "__all__ = ['a']\n", "__all__ lists a, which it does not define"),
    ],
)
def test_a_file_without_what_its_folder_asks_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType, find, text, problem
) -> None:
    (tmp_path / "zz_mine.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    with pytest.raises(BrokenFile, match="zz_mine") as refused:
        find()
    assert refused.value.problem == problem
    del sys.modules[f"{package.__name__}.zz_mine"]


def test_a_program_says_so_in_a_line(capsys: pytest.CaptureFixture) -> None:
    def main(arguments: list[str]) -> int:
        raise BrokenFile("trainables/methods/mine.py", "line 3: SyntaxError: invalid syntax")

    with pytest.raises(SystemExit) as ended:
        errors.run(main)
    assert ended.value.code == errors.USAGE
    said = "trainables/methods/mine.py: 1 problem\n  line 3: SyntaxError: invalid syntax\n"
    assert capsys.readouterr().err == said
