"""A cluster that has no workers yet: Ray's own autoscaler adds them for the search, and takes them
away. Its fake provider starts each node as processes of this machine."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from skdtune import records
from tests.programs import FAST, at_once, environment, killed_after, program, read_study, wait_for
from tests.skdtune.builders import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MOST_WORKERS = 2
EPOCHS = 200  # a trial lasts until the second node is there


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a head that runs no trials and may have two workers."""
    port = free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    file = tmp_path / "ray_bootstrap_config.yaml"  # where `ray up` leaves it
    file.write_text(yaml.safe_dump(_config(address)))
    with (tmp_path / "ray.out").open("wb") as out:
        head = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("ray"), "start", "--head", "--block"),
                *(f"--port={port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"),
                *("--object-store-memory=100000000", f"--autoscaling-config={file}"),
            ],
            env={
                **environment(tmp_path),
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "0",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            },
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        with killed_after(head):
            wait_for(
                lambda: b"Ray runtime started" in (tmp_path / "ray.out").read_bytes(), 60, "Ray"
            )
            yield address


def _config(address: str) -> dict:
    kind = {"node_config": {}, "min_workers": 0}
    parts = ["initialization", "setup", "head_setup", "worker_setup"]
    parts += ["head_start_ray", "worker_start_ray"]
    return {
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{part}_commands": [] for part in parts},
        "cluster_name": "from-zero",
        "max_workers": MOST_WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # all are at one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {**kind, "resources": {"CPU": 0}, "max_workers": 0},
            "spot": {**kind, "resources": {"CPU": 1}, "max_workers": MOST_WORKERS},
        },
    }


def test_a_cluster_of_no_workers_grows_for_the_search_and_shrinks_after_it(
    address: str, tmp_path: Path
) -> None:
    found = program(
        "search",
        *FAST,
        "--trials=4",
        f"--epochs={EPOCHS}",
        "--set=search.scheduler={name: none}",
        "--name=zero",
        f"--address={address}",
        folder=tmp_path,
        timeout_s=250,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "waiting for the autoscaler" in found.stdout
    trials = read_study(tmp_path, "zero").records.values()
    assert {trial.status for trial in trials} <= {records.FINISHED, records.STOPPED}
    assert {trial.attempts for trial in trials} == {1}
    assert at_once(trials) == MOST_WORKERS, "the second was used too"
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        wait_for(lambda: _alive() == 1, 60, "the workers to be taken away")
        assert len(ray.nodes()) == 1 + MOST_WORKERS
    finally:
        ray.shutdown()


def _alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())
