"""What is wrong with a node, from what it answers; a node that is asked, in a Ray of one node."""

import time
from functools import partial
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import ray
import torch

from skdtune import capacity, cluster, inspection, nodes, preflight, provenance
from skdtune.errors import ConfigError
from skdtune.inspection import Inspection
from skdtune.settings import Resources
from tests.skdtune.builders import build_space
from trainables.storage import Folder

NODE = {"NodeID": "ab12", "NodeManagerAddress": "10.0.0.2"}


def found(monkeypatch, folder: Folder, arrived: bool = True, **answer) -> list[str]:
    """What is said of a node that answers so, and else as it should."""
    if arrived:
        folder.write("note/ab12", b"there")
    now = time.time()
    sound = {"versions": provenance.versions(), "fingerprint": "same", "problems": [], "time": now}
    whole = sound | answer
    monkeypatch.setattr(inspection.ray, "get", lambda task: whole)
    node = {**NODE, inspection._ASKED: now}
    return inspection._wrong(None, node, "same", folder, "note", "--storage")


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "study")


def test_a_node_like_this_machine_is_well(monkeypatch, folder):
    assert found(monkeypatch, folder) == []


def test_another_torch_is_named_with_both_versions(monkeypatch, folder):
    here = provenance.versions()
    (problem,) = found(monkeypatch, folder, versions=here | {"torch": "2.0"})
    assert problem.startswith(f"torch is 2.0, {here['torch']} on this machine")
    assert "requirements.lock" in problem


def test_another_skdtune_does_not_matter_for_ours_is_shipped(monkeypatch, folder):
    other = provenance.versions() | {"skdtune": "0.0"}
    assert found(monkeypatch, folder, versions=other) == []


def test_a_clock_that_is_off_is_named(monkeypatch, folder):
    assert found(monkeypatch, folder, time=time.time() + 50) == []
    (problem,) = found(monkeypatch, folder, time=time.time() + 3600)
    assert problem == "its clock is 3600 s ahead of this machine's: set both by NTP"
    (problem,) = found(monkeypatch, folder, time=time.time() - 900)
    assert problem.startswith("its clock is 900 s behind this")


def test_other_images_are_named(monkeypatch, folder):
    (problem,) = found(monkeypatch, folder, fingerprint="other")
    assert "images or labels" in problem


def test_what_a_node_says_itself_comes_first_and_alone(monkeypatch, folder):
    said = found(monkeypatch, folder, arrived=False, fingerprint=None, problems=["no images"])
    assert said == ["no images"]


def test_what_a_node_wrote_elsewhere_is_missed(monkeypatch, folder):
    (problem,) = found(monkeypatch, folder, arrived=False)
    assert "does not arrive here" in problem
    assert "a folder that all nodes share" in problem


def test_a_node_whose_process_dies_is_named(monkeypatch, folder):
    def get(task):
        raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(inspection.ray, "get", get)
    (problem,) = inspection._wrong(None, NODE, "same", folder, "note", "--storage")
    assert problem.startswith("cannot run our code")


def test_a_gpu_that_does_not_work_is_named_and_one_that_is_full_is_not(monkeypatch):
    said = {"cuda:0": None, "cuda:1": "CUDA error: out of memory", "cuda:2": "no kernel image"}
    said |= {"cuda:3": "CUDA-capable device(s) is/are busy or unavailable", "cuda:4": None}

    def ones(size: int, device: str):
        if said[device]:
            raise RuntimeError(said[device])
        return torch.zeros(size)

    fake = SimpleNamespace(is_available=lambda: True, device_count=lambda: 5)
    monkeypatch.setattr(inspection, "torch", SimpleNamespace(cuda=fake, ones=ones))
    assert inspection._gpu_problems(4) == ["its GPU 2 cannot be used: no kernel image"]
    short = "Ray counts 6 GPUs there, PyTorch finds 5"
    assert inspection._gpu_problems(6)[0] == short, "one has fallen off"
    fake.is_available = lambda: False
    (problem,) = inspection._gpu_problems(4)
    assert problem.startswith("Ray counts a GPU there, but PyTorch finds none")


@pytest.mark.slow
def test_trials_that_share_gpus_lie_on_all_of_them():
    """Which are none here: Ray counts what it is told. Its own way is to fill one first."""
    ray.init(address="local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        asked, _ = capacity.even_share(
            Resources(cpu=2, gpu=0.25), capacity.offered(), None, grows=False
        )
        trial = ray.remote(num_cpus=asked.cpu, num_gpus=asked.gpu)(Holder)
        holders = [trial.remote() for _ in range(4)]
        gpus = sorted(ray.get([holder.gpus.remote() for holder in holders]))
        assert gpus == [[0], [0], [1], [1]]
    finally:
        ray.shutdown()


class Holder:
    def gpus(self) -> list[int]:
        return ray.get_gpu_ids()


@pytest.fixture
def one_node():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def check(config: dict, fingerprint: str, folder: Folder, asked: Resources) -> None:
    nodes._check(partial(Inspection, config, fingerprint, folder, asked), folder, ray.nodes())


@pytest.fixture
def empty_cluster(monkeypatch) -> list[float]:
    """No node has room, and time flies. What a test puts into the list is when a node comes."""
    comes_after: list[float] = []
    clock = [0.0]

    def wait(tasks, timeout):
        clock[0] += timeout
        return (tasks if any(clock[0] > after for after in comes_after) else []), []

    monkeypatch.setattr(nodes.capacity, "offered", lambda: [{"cpu": 0.0, "gpu": 0.0}])
    monkeypatch.setattr(nodes.ray, "remote", MagicMock())
    monkeypatch.setattr(nodes.ray, "wait", wait)
    monkeypatch.setattr(nodes, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return comes_after


def test_who_waits_for_a_node_hears_of_it_and_of_where_to_look(empty_cluster):
    empty_cluster.append(1000.0)
    said = []
    nodes._wait_for_room(Resources(cpu=1), said.append)
    assert "waiting for the autoscaler" in said.pop(0)
    assert [line.partition(";")[0] for line in said] == [
        f"still waiting for a node, {minutes} minutes now" for minutes in (5, 10, 15)
    ]
    assert all("`ray status`" in line and "logs/monitor" in line for line in said)


def test_a_node_that_never_comes_is_waited_for_an_hour(empty_cluster):
    said = []
    with pytest.raises(ConfigError, match=r"come in 60 minutes; .*`ray status`.*logs/monitor"):
        nodes._wait_for_room(Resources(cpu=1), said.append)
    assert len(said) == 1 + 11


@pytest.mark.slow
@pytest.mark.usefixtures("one_node")
def test_a_node_is_asked_and_leaves_the_storage_as_it_was(tmp_path):
    space = build_space()
    config = space.config(space.first_values(space.first_trials()[0]))
    folder = Folder(tmp_path / "studies" / "study")
    with pytest.raises(ConfigError) as caught:
        check(config, "other images", folder, Resources(cpu=1))
    assert "images or labels" in str(caught.value)
    assert not folder.exists()
    folder.write("study.json", b"{}")
    fingerprint = preflight.load_data(config).fingerprint()
    asked, slots, note = nodes.prepare(space, folder, fingerprint, "auto", None, print)
    assert (asked, slots.now(), note) == (space.resources, 1, "")
    slots.close()  # what looks at newcomers would go on to the Ray of another test
    assert [path.name for path in (tmp_path / "studies" / "study").iterdir()] == ["study.json"]
    missing = {**config, "data": {"name": "imagefolder", "root": str(tmp_path / "nowhere")}}
    with pytest.raises(ConfigError, match="nowhere"):
        check(missing, "", folder, Resources(cpu=1))


@pytest.mark.slow
@pytest.mark.usefixtures("one_node")
def test_a_gpu_that_only_ray_believes_in_is_named(tmp_path):
    space = build_space()
    config = space.config(space.first_values(space.first_trials()[0]))
    fingerprint = preflight.load_data(config).fingerprint()
    ray.shutdown()
    ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
    with pytest.raises(ConfigError, match="PyTorch finds none") as caught:
        check(config, fingerprint, Folder(tmp_path), Resources(cpu=1, gpu=0.5))
    assert ray.util.get_node_ip_address() in str(caught.value)


def test_a_ray_of_ones_own_is_not_asked(tmp_path):
    space = build_space()
    folder = Folder(tmp_path / "study")
    _, slots, _ = nodes.prepare(space, folder, "", cluster.LOCAL, 1, print)
    assert slots.now() == 1
    assert not folder.exists()
