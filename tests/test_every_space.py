"""Every space that ships runs on real images."""

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from subprocess import Popen

import pytest

from skdtune import records
from tests.programs import python, read_study, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HERE = Path(__file__)
SPACES = sorted(
    Path(entry.name).stem
    for entry in resources.files("search_spaces").iterdir()
    if entry.name.endswith(".yaml")
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real images of each class, since reading takes longer than training them."""
    whole = os.environ.get("SKDTUNE_CIFAR100_MINI")
    if not whole:
        pytest.skip("SKDTUNE_CIFAR100_MINI does not name the unpacked images; .ci/run sets it")
    few = tmp_path_factory.mktemp("images")
    for folder in Path(whole).glob("t*/*"):
        target = few / folder.relative_to(whole)
        target.mkdir(parents=True)
        for image in sorted(folder.iterdir())[:20]:
            (target / image.name).symlink_to(image)
    return few


SEARCHES = """
import sys, traceback
from pathlib import Path
from skdtune import search

images, *names = sys.argv[1:]
for name in names:
    edits = ["data.name=imagefolder", f"data.root={images}", "model.name=small_cnn"]
    flags = ["--trials=2", "--epochs=1", "--concurrency=1", f"--name={name}"]
    try:
        code = search.main([name, *flags, *(f"--set=trial.{edit}" for edit in edits)])
    except Exception:
        code = traceback.format_exc()
    Path(f"{name}.code").write_text(str(code))
"""


@pytest.fixture(scope="module")
def searching(
    images: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Popen, Path]]:
    """Searches of every space that is asked for, one after the other in one process, since most of
    a small one is imports; and their folder."""
    asked = {item.callspec.params["name"] for item in request.session.items if item.path == HERE}
    folder = tmp_path_factory.mktemp("searched")
    with python("-c", SEARCHES, images, *sorted(asked), folder=folder, out="log") as process:
        yield process, folder


@pytest.mark.parametrize("name", SPACES)
def test_it_searches_real_images(name: str, searching: tuple[Popen, Path]):
    process, folder = searching
    code, log = folder / f"{name}.code", folder / "log"

    def is_over() -> bool:
        return process.poll() is not None or (code.exists() and bool(code.read_text()))

    wait_for(is_over, 240, f"the search of {name}")
    assert code.exists(), log.read_text()
    assert code.read_text() == "0", code.read_text() + log.read_text()
    study = read_study(folder, name)
    first = study.records["0000"]
    assert first.status == records.FINISHED
    assert first.role in (records.DEFAULT, records.BASELINE, records.FIRST)
    assert {record.status for record in study.records.values()} <= {
        records.FINISHED,
        records.STOPPED,
    }
    assert sum(bool(record.params) for record in study.records.values()) >= 2
    assert all(0 <= record.last["val/accuracy"] <= 1 for record in study.records.values())
