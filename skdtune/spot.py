"""What `skdtune.launcher` adds to Ray's own providers: a spot machine that the cloud refuses is
asked for again without spot, in the same call.

Ray's autoscaler would ask for it as spot for ever: it turns to another type of machine when one
does not come in time, but not when one is refused."""

import logging
from typing import Any, ClassVar

from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

_TAG = "skdtune-bought"  # on every machine of a spot type: as what it came
_log = logging.getLogger(__name__)  # goes into monitor.log of the head


class _Spot(NodeProvider):
    """Stands before a provider of Ray's in the order of classes."""

    _one_by_one: ClassVar[bool]  # where one refusal hides what became of the others

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any] | None:
        """As Ray's own for a machine that is not spot. Every call tries spot first."""
        plain = self._on_demand(node_config)
        if plain == node_config:
            return super().create_node(node_config, tags, count)
        made = {}
        spot = 0
        try:
            while (left := count - len(made)) > 0:  # a cloud may give fewer than it is asked for
                asked = 1 if self._one_by_one else left
                given = super().create_node(node_config, {**tags, _TAG: "spot"}, asked)
                if not given:  # nor refused: the autoscaler asks again
                    break
                made |= given
                spot = len(made)
        except Exception as error:
            if not self._is_refusal(error):
                raise
            _log.warning("%d of %d spot machines refused, now on demand: %s", left, count, error)
            made |= super().create_node(plain, {**tags, _TAG: "on-demand"}, left)
        kind = tags.get(TAG_RAY_USER_NODE_TYPE)
        _log.info("machines of type %s: %d spot, %d on demand", kind, spot, len(made) - spot)
        return made

    def _on_demand(self, node_config: dict[str, Any]) -> dict[str, Any]:
        """The same machine without what makes it spot."""
        raise NotImplementedError

    def _is_refusal(self, error: Exception) -> bool:
        """Whether it is sure that the machine was not made."""
        raise NotImplementedError


class AWS(_Spot):
    _one_by_one = False

    def _on_demand(self, node_config: dict[str, Any]) -> dict[str, Any]:
        if node_config.get("InstanceMarketOptions", {}).get("MarketType") != "spot":
            return node_config
        return {k: value for k, value in node_config.items() if k != "InstanceMarketOptions"}

    def _is_refusal(self, error: Exception) -> bool:
        return isinstance(error, NodeLaunchException)


class GCP(_Spot):
    _one_by_one = True

    def _on_demand(self, node_config: dict[str, Any]) -> dict[str, Any]:
        scheduling = node_config.get("scheduling", {})
        if scheduling.get("provisioningModel") != "SPOT":
            return node_config
        of_spot = {"provisioningModel", "instanceTerminationAction"}
        plain = {key: value for key, value in scheduling.items() if key not in of_spot}
        return {**node_config, "scheduling": plain}

    def _is_refusal(self, error: Exception) -> bool:
        """No quota at once, no capacity by the operation; Ray has no type of its own for that."""
        from googleapiclient.errors import HttpError  # not there for who uses AWS alone

        if isinstance(error, HttpError):
            return error.status_code < 500
        return type(error) is Exception
