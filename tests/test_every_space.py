"""Every space that ships runs on real images, as README's commands do."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from skdtune import records
from tests.programs import program, read_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

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


@pytest.fixture(scope="module")
def searched(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future]:
    """A search of every space in a folder of its own, two at a time: most of one is waiting."""

    def search(name: str) -> tuple[CompletedProcess, Path]:
        folder = tmp_path_factory.mktemp(name)
        edits = ["name=imagefolder", f"root={images}"]
        done = program(
            *("search", name, "--trials=2", "--epochs=1", "--concurrency=1", "--name=real"),
            *(f"--set=trial.data.{edit}" for edit in edits),
            "--set=trial.model.name=small_cnn",
            folder=folder,
        )
        return done, folder

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(search, name) for name in SPACES}


@pytest.mark.parametrize("name", SPACES)
def test_it_searches_real_images(name: str, searched: dict[str, Future]):
    done, folder = searched[name].result()
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(folder, "real")
    first = study.records["0000"]
    assert first.status == records.FINISHED
    assert first.role in (records.DEFAULT, records.BASELINE, records.FIRST)
    assert {record.status for record in study.records.values()} <= {
        records.FINISHED,
        records.STOPPED,
    }
    searched = [record for record in study.records.values() if record.params]
    assert len(searched) >= 2
    assert all(0 <= record.last["val/accuracy"] <= 1 for record in study.records.values())
