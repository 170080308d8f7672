"""Ray's own node providers behind a look for the token: what `provider.module` of a cluster file
names, for `ray up` on a person's machine."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import click
from ray.autoscaler._private.providers import _get_node_provider, _get_node_provider_cls
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.node_provider import NodeProvider

_TOKEN = Path(".ray", "auth_token")  # below the home; Ray's own place for it
# what Ray gives a file of an external provider that names no kinds of machines
_PLACEHOLDERS = {"head_node_type": "ray.head.default", "head_node": {}, "worker_nodes": {}}


class _Guarded(NodeProvider):
    """Becomes Ray's provider `kind` as soon as Ray asks for it: everything that follows, on the
    head too, has a config of that type.

    Ray reads nothing that a cluster file mounts before there is a head, so without a token `ray up`
    would start one in the cloud and end with a traceback. An external provider is the one thing of
    a file that is called earlier."""

    kind: ClassVar[str]

    def __new__(cls, provider_config: dict[str, Any], cluster_name: str) -> NodeProvider:
        """Ray's own, for those of its commands that look at the file alone."""
        return _get_node_provider(_provider(cls.kind, provider_config), cluster_name)

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

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What the provider makes of it: a key, a subnet, an image."""
        return _get_node_provider_cls(cluster_config["provider"]).bootstrap_config(cluster_config)


class AWS(_Guarded):
    kind = "aws"


class GCP(_Guarded):
    kind = "gcp"


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
