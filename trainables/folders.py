"""Which names a folder of extensions offers: every public module in it, or what those modules
list."""

import importlib
import pkgutil
from types import ModuleType


def modules(package: ModuleType) -> dict[str, ModuleType]:
    """The modules of a package by name, imported; a file dropped into its folder is enough to be
    found."""
    names = sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")
    )
    return {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
