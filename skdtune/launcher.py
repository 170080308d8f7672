"""Ray's own node providers behind a look for the token, and with a fallback for spot machines: what
`provider.module` of a cluster file names, on a person's machine and on the head."""

import logging
import sys
from pathlib import Path
from typing import Any, ClassVar

import click
from ray.autoscaler._private.providers import _get_node_provider_cls
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_provider import NodeProvider

from skdtune import spot

_TOKEN = Path(".ray", "auth_token")  # below the home; Ray's own place for it
# what Ray gives a file of an external provider that names no kinds of machines
_PLACEHOLDERS = {"head_node_type": "ray.head.default", "head_node": {}, "worker_nodes": {}}


class _Guarded(NodeProvider):
    """Becomes Ray's provider `kind`, with `additions` to it, as soon as Ray asks for one.

    Ray reads nothing that a cluster file mounts before there is a head, so without a token `ray up`
    would start one in the cloud and end with a traceback. An external provider is the one thing of
    a file that is called earlier, and the one way into the autoscaler on the head."""

    kind: ClassVar[str]
    additions: ClassVar[tuple[type[NodeProvider], ...]] = ()

    def __new__(cls, provider_config: dict[str, Any], cluster_name: str) -> NodeProvider:
        # Every few seconds Ray would tell that it drops fields that it puts in itself.
        logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)
        config = _provider(cls.kind, provider_config)
        own = _get_node_provider_cls(config)
        return type(own.__name__, (*cls.additions, own), {})(config, cluster_name)

    @classmethod
    def fillout_available_node_types_resources(cls, cluster_config: dict[str, Any]) -> dict:
        """The config as Ray prepares it for the provider. In place, since Ray goes on with what it
        handed in when the provider cannot be asked. Errors: SystemExit with a line."""
        if _is_up():
            _need_token()
        try:
            prepared = prepare_config(_for(cls.kind, cluster_config))
        except click.ClickException as error:  # Ray would go on as after a failed look-up
            error.show()
            sys.exit(error.exit_code)
        cluster_config.clear()
        cluster_config.update(prepared)
        own = _get_node_provider_cls(cluster_config["provider"])
        return own.fillout_available_node_types_resources(cluster_config)

    @classmethod
    def bootstrap_config(cls, cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What the provider makes of it: a key, a subnet, an image. Where there are additions the
        result names this class again: it is what the head gets."""
        own = _get_node_provider_cls(cluster_config["provider"])
        config = own.bootstrap_config(cluster_config)
        if cls.additions:
            module = f"{cls.__module__}.{cls.__name__}"
            config["provider"] |= {"type": "external", "module": module}
        return config


class AWS(_Guarded):
    kind = "aws"
    additions = (spot.AWS,)


class GCP(_Guarded):
    kind = "gcp"
    additions = (spot.GCP,)


class Local(_Guarded):
    """Machines of one's own, over SSH."""

    kind = "local"


def _is_up() -> bool:
    """Whether this is `ray up`: a cluster can be looked at and taken down without the token."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name == "up"


def _need_token() -> None:
    token = Path.home() / _TOKEN
    if not token.is_file() or not token.stat().st_size:
        sys.exit(
            f"ray up: no token at ~/{_TOKEN}, nothing was started; "
            "make it once: ray get-auth-token --generate"
        )
    token.chmod(0o600)  # Ray leaves it readable to all


def _for(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The file as it would be for the provider alone, without what Ray put in on the way here."""
    plain = {key: value for key, value in config.items() if _PLACEHOLDERS.get(key) != value}
    if "head_node_type" not in plain:
        del plain["available_node_types"]
    for place in ("head", "worker"):  # Ray has put the common ones in front, and does so again
        plain[f"{place}_setup_commands"] = config[f"{place}_setup_commands"][
            len(config["setup_commands"]) :
        ]
    provider = _provider(kind, config["provider"])
    if "worker_ips" in provider:  # else Ray warns of it
        plain["max_workers"] = min(config["max_workers"], len(provider["worker_ips"]))
    return {**plain, "provider": provider}


def _provider(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in config.items() if key != "module"}, "type": kind}
