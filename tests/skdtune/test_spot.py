"""Spot machines that are refused come on demand: both of Ray's autoscalers, as the head of our
cluster files has them, against clouds that have few."""

import contextlib
import json
import logging
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import botocore
import googleapiclient
import pytest
import yaml
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import (
    CloudInstanceUpdater,
)
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import autoscaler_pb2 as messages

from skdtune import spot
from tests.skdtune.clouds import HEAD, Amazon, Cloud, Google

ROOT = Path(__file__).parents[2]
CLOUDS = {"cluster.yaml": Amazon, "docs/cluster/gcp.yaml": Google}
GPUS = 8  # a machine has one, and there may be eight


@pytest.fixture(params=CLOUDS)
def setup(request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A cloud, and what `ray up` of a file leaves on the head: a config file and its provider."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    cloud = CLOUDS[request.param](monkeypatch)
    config = prepare_config(yaml.safe_load((ROOT / request.param).read_text()))
    guard = load_function_or_class(config["provider"]["module"])
    with contextlib.suppress(botocore.exceptions.BotoCoreError):  # no look at a machine's size
        config = guard.fillout_available_node_types_resources(config)
    config = guard.bootstrap_config(config)
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps({**config, "file_mounts": {}}))
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    return SimpleNamespace(cloud=cloud, config=config, file=file, provider=provider)


def _create(setup: SimpleNamespace, count: int, kind: str = "gpu") -> dict[str, Any]:
    """As both autoscalers call it."""
    machine = setup.config["available_node_types"][kind]["node_config"]
    tags = {"ray-user-node-type": kind, "ray-node-name": "ray-worker", "ray-launch-config": "h"}
    return setup.provider.create_node_with_resources_and_labels(machine, tags, count, {}, {})


def _bought(cloud: Cloud) -> list[str | None]:
    """What each machine's tag says."""
    return [machine["tags"].get("skdtune-bought") for machine in cloud.machines]


@pytest.mark.parametrize("spot", [0, 3])
def test_the_second_autoscaler_gets_all_machines_on_a_night_of_few_spot_ones(
    setup: SimpleNamespace, spot: int
) -> None:
    setup.cloud.spot = spot
    reader = FileConfigReader(str(setup.file))
    adapter = NodeProviderAdapter(setup.provider, reader)
    monitor = CloudResourceMonitor()
    storage = InstanceStorage("cluster", InMemoryStorage())
    manager = InstanceManager(storage, [CloudInstanceUpdater(adapter), monitor])
    scheduler = ResourceDemandScheduler(MagicMock())
    for turn in range(1, 100):
        Reconciler.reconcile(
            manager,
            scheduler,
            adapter,
            monitor,
            _wanting_gpus(turn),
            adapter.get_non_terminated(),
            reader.get_cached_autoscaling_config(),
            cloud_provider_errors=adapter.poll_errors(),
        )
        time.sleep(0.05)
        if turn > 20 and len(setup.cloud.machines) >= GPUS:
            break
    assert Counter(setup.cloud.made) == Counter(spot=spot, plain=GPUS - spot)
    assert Counter(_bought(setup.cloud)) == Counter({"spot": spot, "on-demand": GPUS - spot})


def _wanting_gpus(version: int) -> messages.ClusterResourceState:
    """What the autoscaler reads of a Ray with a head alone, and trials for every GPU."""
    state = messages.ClusterResourceState(cluster_resource_state_version=version)
    state.node_states.append(
        messages.NodeState(
            node_id=b"h" * 28,
            instance_id=HEAD,
            ray_node_type_name="head",
            status=messages.NodeStatus.RUNNING,
            total_resources={"node:__internal_head__": 1},
            available_resources={"node:__internal_head__": 1},
        )
    )
    request = ResourceRequestUtil.make({"CPU": 2, "GPU": 0.25})
    wanted = messages.ResourceRequestByCount(request=request, count=4 * GPUS)
    state.pending_resource_requests.append(wanted)
    return state


def test_the_first_autoscaler_gets_them_too(setup: SimpleNamespace) -> None:
    setup.cloud.spot = 3
    launcher = BaseNodeLauncher(setup.provider, MagicMock(), MagicMock(), MagicMock(), "session")
    launcher.launch_node(setup.config, GPUS, "gpu")
    assert Counter(setup.cloud.made) == Counter(spot=3, plain=GPUS - 3)


def test_spot_is_the_first_choice_every_time(setup: SimpleNamespace) -> None:
    _create(setup, 2)
    setup.cloud.spot = 4
    assert len(_create(setup, 4)) == 4
    assert setup.cloud.made == ["plain"] * 2 + ["spot"] * 4
    assert setup.cloud.asked[-1] == "spot"


def test_the_log_says_what_came_and_why(
    setup: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    setup.cloud.spot = 1
    with caplog.at_level(logging.INFO, "skdtune.spot"):
        assert len(_create(setup, 3)) == 3
    refused, came = (line for name, _, line in caplog.record_tuples if name == "skdtune.spot")
    assert refused.startswith("2 of 3 spot machines refused, now on demand: ")
    assert "InsufficientInstanceCapacity" in refused or "POOL_EXHAUSTED" in refused
    assert came == "machines of type gpu: 1 spot, 2 on demand"


def test_a_spot_request_without_quota_comes_on_demand(setup: SimpleNamespace) -> None:
    setup.cloud.has_quota = False
    setup.cloud.spot = 3 if isinstance(setup.cloud, Google) else 0  # to Amazon it is all one
    _create(setup, 3)
    assert setup.cloud.made == ["plain"] * 3


def test_a_cloud_that_has_nothing_says_so(setup: SimpleNamespace) -> None:
    setup.cloud.plain = 0
    with pytest.raises(Exception, match=r"no plain machine|POOL_EXHAUSTED"):
        _create(setup, 2)
    assert setup.cloud.made == []


def test_what_may_have_made_a_machine_is_not_asked_for_again(setup: SimpleNamespace) -> None:
    setup.cloud.is_down = True
    errors = (botocore.exceptions.BotoCoreError, googleapiclient.errors.HttpError)
    with pytest.raises(errors, match=r"Could not connect|not now"):
        _create(setup, 2)
    assert setup.cloud.asked == []


def test_a_machine_that_is_not_spot_is_left_to_ray(setup: SimpleNamespace) -> None:
    setup.cloud.spot = 1
    _create(setup, 1, kind="head")
    assert setup.cloud.made == ["plain"]
    assert _bought(setup.cloud) == [None]


def test_a_cloud_that_neither_gives_nor_refuses_is_asked_once() -> None:
    asked = []

    class Silent(NodeProvider):
        def create_node(self, node_config, tags, count):
            asked.append(count)
            return {}

    provider = type("Silent", (spot.AWS, Silent), {})({}, "a cluster")
    assert provider.create_node({"InstanceMarketOptions": {"MarketType": "spot"}}, {}, 4) == {}
    assert asked == [4]
