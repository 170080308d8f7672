"""Nodes that join a search that runs and cannot run its trials: left out, and the search loses
nothing."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from skdtune import newcomers, preflight, records
from skdtune.inspection import Inspection
from skdtune.newcomers import Newcomers
from skdtune.settings import Resources
from tests.programs import epochs_on_disk, read_study, started, wait_for
from tests.trainables.layouts import folder
from trainables.storage import Folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SEARCH = ["drg_dsr", "--name=study", "--trials=5", "--epochs=120", "--set=resources.gpu=0"]
SEARCH += ["--set=trial.data={name: imagefolder, root: ~/images, batch_size: 16, image_size: 32}"]
SEARCH += ["--set=trial.model={name: small_cnn, width: 4}", "--set=resources.cpu=1"]
SEARCH += ["--set=search.scheduler={name: none}"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that runs no trials and a node with the images in its home."""
    folder(tmp_path / "images", each=30)
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def home(place: Path, images: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started from now on has another home, with these images in it."""
    place.mkdir()
    if images:
        shutil.copytree(images, place / "images")
        cats, dogs = sorted((place / "images").iterdir())[:2]
        next(cats.iterdir()).rename(dogs / "moved.png")
    monkeypatch.setenv("HOME", str(place))


def test_a_node_without_the_images_or_with_others_is_left_out(cluster, tmp_path, monkeypatch):
    with started("search", *SEARCH, "--address", cluster.address, folder=tmp_path) as process:
        out = tmp_path / "search.out"
        wait_for(lambda: epochs_on_disk(tmp_path, "study") > 3, 120, "the search to train")
        home(tmp_path / "bare", None, monkeypatch)
        cluster.add_node(num_cpus=1)
        home(tmp_path / "other", tmp_path / "images", monkeypatch)
        cluster.add_node(num_cpus=1)
        wait_for(lambda: out.read_text().count("left out") == 2, 120, "both to be left out")
        assert process.wait(200) == 0, out.read_text()
    text = " ".join(out.read_text().split())
    assert "bare/images: no such folder" in text
    assert "its images or labels are not those that this machine has" in text
    study = read_study(tmp_path, "study")
    assert {trial.status for trial in study.records.values()} == {records.FINISHED}
    assert len(study.records) == 6
    assert not list((tmp_path / "studies" / "study").glob(".nodes-*"))


def test_a_node_that_is_mended_is_used_again(cluster, tmp_path, monkeypatch):
    images = {"name": "imagefolder", "root": "~/images", "batch_size": 16, "image_size": 32}
    fingerprint = preflight.load_data({"data": images}).fingerprint()
    asked, said = Resources(cpu=1), []
    monkeypatch.setattr(newcomers, "_ASK_AGAIN_S", 1.0)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    known = {node["NodeID"] for node in ray.nodes()}
    home(tmp_path / "bare", None, monkeypatch)
    cluster.add_node(num_cpus=2)
    inspect = partial(Inspection, {"data": images}, fingerprint, Folder(tmp_path / "s"), asked)
    watched = Newcomers(inspect, asked, known, said.append)
    try:
        assert sum(node["cpu"] for node in watched.usable()) == 1 + 2
        wait_for(lambda: said, 60, "the node to be left out")
        assert "bare/images: no such folder" in said[0]
        assert sum(node["cpu"] for node in watched.usable()) == 1
        wait_for(lambda: ray.available_resources().get("CPU") == 1, 60, "its room to be taken")
        shutil.copytree(tmp_path / "images", tmp_path / "bare" / "images")
        wait_for(lambda: len(said) > 1, 90, "the node to be used again")
        assert said[1].endswith("is well now and used again")
        assert sum(node["cpu"] for node in watched.usable()) == 1 + 2
        wait_for(lambda: ray.available_resources().get("CPU") == 3, 60, "its room to be free")
        shutil.rmtree(tmp_path / "bare" / "images")  # as when a share is lost
        watched.doubt()  # as when a trial has failed there
        wait_for(lambda: len(said) > 2, 90, "the node to be looked at once more")
        assert "is left out: " in said[2]
        assert "bare/images: no such folder" in said[2]
    finally:
        watched.close()
        ray.shutdown()
    assert not list((tmp_path / "s").glob(".nodes-*"))
