"""Which names a folder of extensions offers: every public module in it, or what those modules
list."""

import importlib
import pkgutil
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


class BrokenFile(ImportError):
    """A file of an extension folder that cannot be used. source: the file. problem: its line, where
    one is known, and what is wrong."""

    def __init__(self, source: str, problem: str):
        super().__init__(f"{source}: {problem}")
        self.source, self.problem = source, problem


def modules(package: ModuleType) -> dict[str, ModuleType]:
    """The modules of a package by name, imported; a file dropped into its folder is enough to be
    found. Errors: BrokenFile."""
    names = sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")
    )
    return {name: _imported(package, name) for name in names}


def listed(package: ModuleType) -> dict[str, Any]:
    """Whatever the modules of a package list in their `__all__`, by name. Errors: BrokenFile."""
    found = {}
    for module in modules(package).values():
        if not hasattr(module, "__all__"):
            raise refuse(module, "it must list what it offers in __all__")
        for name in module.__all__:
            if not hasattr(module, name):
                raise refuse(module, f"__all__ lists {name}, which it does not define")
            found[name] = getattr(module, name)
    return found


def refuse(module: ModuleType, problem: str) -> BrokenFile:
    """The error for a module that is sound in itself but not what its folder asks for."""
    return BrokenFile(module.__name__.replace(".", "/") + ".py", problem)


def _imported(package: ModuleType, name: str) -> ModuleType:
    full = f"{package.__name__}.{name}"
    try:
        return importlib.import_module(full)
    except Exception as error:
        source = full.replace(".", "/") + ".py"
        inside = [
            line for line in traceback.extract_tb(error.__traceback__) if _is_of(line, source)
        ]
        line = getattr(error, "lineno", None) or (inside[-1].lineno if inside else None)
        place = f"line {line}: " if line else ""
        text = getattr(error, "msg", None) or str(error)
        raise BrokenFile(source, f"{place}{type(error).__name__}: {text}") from error


def _is_of(line: traceback.FrameSummary, source: str) -> bool:
    return Path(line.filename).as_posix().endswith(source)
