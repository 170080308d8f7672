"""Every space that ships runs on real images, as README's commands do."""

import os
from importlib import resources
from pathlib import Path

import pytest

from skdtune import records
from tests.programs import program, read_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SPACES = sorted(
    Path(entry.name).stem
    for entry in resources.files("search_spaces").iterdir()
    if entry.name.endswith(".yaml")
)


@pytest.mark.parametrize("name", SPACES)
def test_it_searches_real_images(name: str, tmp_path: Path):
    images = os.environ.get("SKDTUNE_CIFAR100_MINI")
    if not images:
        pytest.skip("SKDTUNE_CIFAR100_MINI does not name the unpacked images; .ci/run sets it")
    done = program(
        "search",
        name,
        "--trials=2",
        "--epochs=1",
        "--set=trial.data.name=imagefolder",
        f"--set=trial.data.root={images}",
        "--set=trial.model.name=small_cnn",
        "--name=real",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = read_study(tmp_path, "real")
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
