"""The rules of the design that no other test would miss: who imports whom, what an import does,
how long a file is, what a wheel and the lock file hold."""

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from skdtune import commands
from tests import programs
from tests.skdtune.builders import mixed_study

ROOT = Path(__file__).parents[1]
PACKAGES = ("skdtune", "trainables", "search_spaces")
LONGEST_FILE = 350
PROGRAMS = ("search", "train", "leaderboard", "export", "sync")


def _modules(*packages: str) -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules(*PACKAGES)


def _imports(name: str) -> set[str]:
    """Everything a module imports, at its top, in a function or for type checkers: `a.b` for
    `import a.b`, and both `a` and `a.b` for `from a import b`."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _roots(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in _imports(name)}


def test_the_modules_are_found() -> None:
    assert len(MODULES) > 45
    assert {"skdtune.search", "trainables.methods.drg_dsr", "search_spaces"} <= set(MODULES)


@pytest.mark.parametrize("name", _modules("trainables"))
def test_trainables_knows_no_other_part(name: str) -> None:
    forbidden = {"mlflow", "optuna", "yaml", "skdtune", "search_spaces", "tests"}
    if name != "trainables.classifier":
        forbidden.add("ray")
    assert not _roots(name) & forbidden


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_a_program_that_runs_things(name: str) -> None:
    assert not _imports(name) & {"skdtune.search", "skdtune.train", "tests", "pytest"}


@pytest.mark.parametrize("name", _modules("trainables/methods"))
def test_a_method_imports_no_method_and_neither_data_nor_loop(name: str) -> None:
    others = {other for other in MODULES if other.startswith("trainables.methods.")}
    unwanted = others | {
        "trainables.data",
        "trainables.sources",
        "trainables.training",
        "trainables.classifier",
        "trainables.augment",
        "trainables.optim",
    }
    assert not _imports(name) & unwanted


def test_only_one_file_of_a_method_names_it() -> None:
    """The loop knows no method: outside its own file none is compared with or imported."""
    methods = {
        name.rpartition(".")[2] for name in MODULES if name.startswith("trainables.methods.")
    }
    assert {"cross_entropy", "drg_dsr"} <= methods
    for name, path in MODULES.items():
        if not name.startswith("trainables.") or name.startswith("trainables.methods."):
            continue
        words = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & methods, f"{name} names a method"


@pytest.mark.parametrize("name", ["skdtune.space", "skdtune.errors", "skdtune.export"])
def test_a_file_can_be_checked_without_ray_and_mlflow(name: str) -> None:
    assert not _roots(name) & {"ray", "mlflow"}


SLOW_TO_IMPORT = ("torchvision", "torch._dynamo", "scipy.stats", "sklearn", "mlflow")


def test_a_search_and_a_worker_begin_without_what_takes_seconds_to_import(tmp_path: Path) -> None:
    """Each takes 1 to 3 s, in every process: who uses it imports it."""
    code = f"""
import json, sys
import skdtune.search, torch, trainables.classifier
from pathlib import Path
from skdtune import space
from trainables import optim
weight = torch.ones(1, requires_grad=True)
optim.build([weight], 1, clip_norm=1.0).step(weight.sum(), 0.0)
space.load(Path({str(ROOT / "search_spaces" / "quickstart.yaml")!r}))
print(json.dumps([name for name in {SLOW_TO_IMPORT} if name in sys.modules]))
"""
    assert json.loads(_python(code, tmp_path)) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_waits_for_no_heavy_import(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", f"skdtune.{name}", "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert "--tracking-uri" in done.stdout
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "skdtune" in imported
    assert not imported & {"torch", "ray", "mlflow", "optuna", "pandas"}


@pytest.mark.parametrize("name", ["leaderboard", "export"])
def test_a_study_is_looked_at_without_what_trains_and_searches(name: str, tmp_path: Path) -> None:
    mixed_study(tmp_path / "study")
    heavy = ("torch", "ray", "mlflow", "optuna", "pandas")
    code = f"""
import json, sys
from skdtune import {name}
assert {name}.main([{str(tmp_path / "study")!r}]) == 0
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""
    assert json.loads(_python(code, tmp_path).splitlines()[-1]) == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_named_for_its_job_and_like_no_library(name: str) -> None:
    word = name.rpartition(".")[2]
    assert not re.fullmatch(r".*(utils?|common|helpers?|misc|base|core|manager)", word)
    if "." in name:
        assert word not in _libraries() | sys.stdlib_module_names


def test_every_file_is_short_and_says_its_job() -> None:
    for name, path in MODULES.items():
        text = path.read_text()
        lines = text.splitlines()
        assert len(lines) <= LONGEST_FILE, f"{name} has {len(lines)} lines"
        summary = ast.get_docstring(ast.parse(text))
        assert summary, f"{name} has no docstring"
        assert len(summary.splitlines()) <= 12, f"{name}: its docstring says more than one job"


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("skdtune.errors", ["ConfigError", "Refusals", "begin", "run"]),
        ("skdtune.strict_yaml", ["read", "parse", "value", "dump", "Document"]),
        ("skdtune.space", ["SearchSpace", "Parameter", "load", "build", "locate"]),
        ("skdtune.leaderboard", ["Row", "Board", "rank", "gain", "why"]),
        ("skdtune.formats", ["as_table", "as_json", "as_csv", "show", "summary"]),
        ("skdtune.export", ["document", "text"]),
        ("skdtune.finding", ["find", "on_disk", "newest"]),
        ("skdtune.records", ["Record", "Study", "load"]),
        ("skdtune.writer", ["Writer"]),
        ("trainables.methods", ["Method", "classes", "build"]),
        ("trainables.models", ["Classifier", "builders", "build"]),
        ("trainables.training", ["Training", "Diverged"]),
        ("trainables.shipping", ["load", "save", "ship"]),
        ("trainables.data", ["Sets", "build"]),
    ],
)
def test_what_other_code_uses_has_a_docstring(module: str, named: list[str]) -> None:
    defined = {
        node.name: ast.get_docstring(node)
        for node in ast.parse(MODULES[module].read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert [name for name in named if not defined.get(name)] == []


def test_every_setting_of_a_method_and_a_section_is_a_keyword() -> None:
    """The signature is the schema: what a file may say is keyword-only, annotated, and after the
    model has a default."""
    for name, path in _modules("trainables/methods").items():
        for node in ast.walk(ast.parse(path.read_text())):
            if name == "trainables.methods" or not isinstance(node, ast.FunctionDef):
                continue
            if node.name == "__init__":
                assert [argument.arg for argument in node.args.args] == ["self", "model"]
                assert None not in node.args.kw_defaults
                assert all(argument.annotation for argument in node.args.kwonlyargs)


EACH_ALONE = """
import importlib, json, os, sys, threading
for library in LIBRARIES:  # what they do when they are imported is not ours
    importlib.import_module(library)
ours = ("skdtune", "trainables", "search_spaces")
before, threads = dict(os.environ), threading.active_count()
for name in NAMES:
    for loaded in [m for m in sys.modules if m.partition(".")[0] in ours]:
        del sys.modules[loaded]
    importlib.import_module(name)
    assert dict(os.environ) == before, name
    assert threading.active_count() == threads, name
    assert not os.listdir(), name
print(json.dumps(len(NAMES)))
"""
LIBRARIES = {
    "trainables": ["torch", "torchvision", "ray.tune", "filelock", "pyarrow.fs", "PIL.Image"],
    "skdtune": ["torch", "torchvision", "ray.tune", "mlflow", "optuna", "scipy.stats", "yaml"]
    + ["rich.table", "filelock", "pyarrow.fs"],
}


@pytest.mark.slow
@pytest.mark.parametrize("package", LIBRARIES)
def test_every_module_can_be_imported_first_and_does_nothing_then(
    package: str, tmp_path: Path
) -> None:
    names = list(_modules(package))
    code = f"LIBRARIES = {LIBRARIES[package]!r}\nNAMES = {names!r}\n{EACH_ALONE}"

    assert json.loads(_python(code, tmp_path)) == len(names)


def test_every_program_can_be_run_as_a_module() -> None:
    for name in PROGRAMS:
        body = ast.parse(MODULES[f"skdtune.{name}"].read_text()).body
        assert "main" in {node.name for node in body if isinstance(node, ast.FunctionDef)}
        first = "if __name__ == '__main__':\n    from skdtune import errors\n    errors.begin()"
        if hasattr(commands, name):
            first = first.replace("errors", "commands, errors", 1)
            first += f"\n    commands.{name}(__doc__).help()"
        assert ast.unparse(body[1]) == first
        assert ast.unparse(body[-1]) == "if __name__ == '__main__':\n    run(main)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "build", "dist")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target)]
    built = subprocess.run(
        [*command, str(source)], capture_output=True, text=True, timeout=120, check=False
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = target.glob("*.whl")
    return path


def test_the_wheel_holds_the_code_and_the_spaces_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    ours = {str(path.relative_to(ROOT)) for path in MODULES.values()}
    spaces = {f"search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert len(spaces) >= 3
    assert names == ours | spaces


@pytest.mark.slow
def test_the_wheel_reads_its_spaces_without_checkout_ray_and_mlflow(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
from skdtune import errors, export, space
path = space.locate("quickstart")
print(path, space.load(path).search.trials, sorted({{"ray", "mlflow"}} & set(sys.modules)))
"""
    out = _python(code, tmp_path / "work")

    assert out == f"{tmp_path}/site/search_spaces/quickstart.yaml 16 []\n"


def test_every_locked_requirement_has_hashes_and_comes_from_the_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    requirements = [line for line in lines if not line.lstrip().startswith("#")]

    assert len(requirements) > 50
    for line in requirements:
        assert re.match(r"[a-zA-Z0-9._-]+(\[[a-z,-]+\])?==[^\s;]+", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line[:80]
        assert not re.search(r"--hash=(?!sha256:)", line), line[:80]
    assert "://" not in text
    assert " @ " not in text
    locked = {re.split(r"[=\[]", line)[0].lower().replace("_", "-") for line in requirements}
    for requirement in metadata.requires("skdtune") or []:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower()
        if "extra ==" not in requirement:
            assert name in locked, f"{name} is required but not locked"


@functools.cache
def _libraries() -> set[str]:
    return {library.partition(".")[0] for library in metadata.packages_distributions()}


def _python(code: str, folder: Path) -> str:
    """What a fresh interpreter prints that runs the code in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**programs.environment(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
