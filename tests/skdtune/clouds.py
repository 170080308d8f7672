"""Two clouds that have few spot machines, behind the clients that Ray's own providers use."""

import json
import threading
from importlib import resources
from typing import Any

import httplib2
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from googleapiclient import discovery
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.gcp import node_provider as gcp
from ray.autoscaler._private.gcp.node import GCPCompute

HEAD = "head-compute"
_TAGS = {"ray-node-type": "head", "ray-user-node-type": "head", "ray-node-status": "up-to-date"}


class Cloud:
    """Has so many machines to give; without a bound of those on demand when `plain` is None.

    made, asked: how each was bought, one for each machine and one for each request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.spot = 0
        self.plain: int | None = None
        self.is_down = False  # before a request has been answered
        self.asked: list[str] = []
        self.machines: list[dict[str, Any]] = []  # tags and how each was bought
        self._lock = threading.Lock()
        for provider in (AWSNodeProvider, gcp.GCPNodeProvider):
            monkeypatch.setattr(provider, "bootstrap_config", staticmethod(dict))

    @property
    def made(self) -> list[str]:
        return [machine["bought"] for machine in self.machines]

    def buy(self, bought: str, tags: dict[str, str], least: int, most: int) -> list[int]:
        """The numbers of the machines; none when there are fewer than `least`."""
        with self._lock:
            self.asked.append(bought)
            left = getattr(self, bought)
            given = most if left is None else min(left, most)
            if given < least:
                return []
            if left is not None:
                setattr(self, bought, left - given)
            first = len(self.machines)
            self.machines += [{"tags": tags, "bought": bought} for _ in range(given)]
            return list(range(first, first + given))


class Amazon(Cloud):
    """In place of the one method through which boto3 sends everything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__(monkeypatch)
        monkeypatch.setattr(
            BaseClient, "_make_api_call", lambda _, name, arguments: self._call(name, arguments)
        )

    def _call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "DescribeInstances":
            machines = [self._shown(HEAD, _TAGS)]
            machines += [self._shown(f"i-{n}", m["tags"]) for n, m in enumerate(self.machines)]
            return {"Reservations": [{"Instances": machines}]}
        if name != "RunInstances" or self.is_down:
            raise EndpointConnectionError(endpoint_url="https://ec2")
        market = arguments.get("InstanceMarketOptions", {}).get("MarketType", "plain")
        tags = {tag["Key"]: tag["Value"] for tag in arguments["TagSpecifications"][0]["Tags"]}
        numbers = self.buy(market, tags, arguments["MinCount"], arguments["MaxCount"])
        if not numbers:
            error = {"Code": "InsufficientInstanceCapacity", "Message": f"no {market} machine"}
            raise ClientError({"Error": error}, name)
        return {"Instances": [self._shown(f"i-{number}", tags) for number in numbers]}

    @staticmethod
    def _shown(name: str, tags: dict[str, str]) -> dict[str, Any]:
        shown = [{"Key": key, "Value": value} for key, value in tags.items()]
        state = {"Name": "running"}
        return {"InstanceId": name, "State": state, "StateReason": None, "Tags": shown}


class Google(Cloud):
    """In place of the connection below Google's own client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__(monkeypatch)
        self.has_quota = True  # for spot; without it a request is refused before it is begun
        self.credentials = None
        self._refused: set[str] = set()
        file = resources.files("googleapiclient.discovery_cache.documents") / "compute.v1.json"
        compute = discovery.build_from_document(file.read_text(), http=self)
        clients = (None, None, compute, None)
        monkeypatch.setattr(gcp, "construct_clients_from_provider_config", lambda _: clients)
        monkeypatch.setattr(GCPCompute, "get_new_authorized_http", lambda _, http: http)

    def request(self, uri: str, method: str = "GET", body: str | None = None, **_: Any) -> tuple:
        status, answer = self._answer(uri, json.loads(body) if body else None)
        return httplib2.Response({"status": status}), json.dumps(answer).encode()

    def _answer(self, uri: str, machine: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        if machine is None and "/operations/" in uri:
            name = uri.split("/operations/")[1].partition("?")[0]
            error = {"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]}
            return 200, {"status": "DONE"} | ({"error": error} if name in self._refused else {})
        if machine is None:
            machines = [self._shown(HEAD, _TAGS)]
            for number, made in enumerate(self.machines):
                machines.append(self._shown(f"ray-worker-{number}-compute", made["tags"]))
            return 200, {"items": machines}
        if self.is_down:
            return 503, {"error": {"message": "not now"}}
        is_spot = machine.get("scheduling", {}).get("provisioningModel") == "SPOT"
        if is_spot and not self.has_quota:
            return 403, {"error": {"message": "Quota 'PREEMPTIBLE_NVIDIA_L4_GPUS' exceeded"}}
        if not self.buy("spot" if is_spot else "plain", machine["labels"], 1, 1):
            self._refused.add(machine["name"])
        return 200, {"name": machine["name"]}

    @staticmethod
    def _shown(name: str, tags: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "labels": tags, "status": "RUNNING"}
