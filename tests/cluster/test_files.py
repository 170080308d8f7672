"""The files that bring a cluster up are valid, safe, and one content in different clothes. Nothing
is started here: Ray's own schema, the clouds' own descriptions of a machine, and the scripts."""

import contextlib
import copy
import json
import re
from importlib import resources
from pathlib import Path

import botocore
import pytest
import yaml
from botocore import session
from botocore.validate import ParamValidator
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.util import prepare_config, validate_config

from skdtune import launcher
from tests.cluster.test_kubernetes import FOLDER, KUBERNETES, ROOT

LAUNCHER = {
    "aws": ROOT / "cluster.yaml",
    "gcp": FOLDER / "gcp.yaml",
    "local": FOLDER / "onprem.yaml",
}
SCRIPTS = sorted(FOLDER.glob("*.sh"))
NODE = "bash ~/skdtune/docs/cluster/node.sh"
PROVIDER_KEYS = {
    "aws": {"region", "cache_stopped_nodes"},
    "gcp": {"project_id", "region", "availability_zone"},
    "local": {"head_ip", "worker_ips"},
}
CLASSES = {"aws": launcher.AWS, "gcp": launcher.GCP, "local": launcher.Local}
launcher_files = pytest.mark.parametrize("provider", LAUNCHER)


def _launcher(provider: str) -> dict:
    return yaml.safe_load(LAUNCHER[provider].read_text())


def _plain(provider: str) -> dict:
    """The file with Ray's own provider."""
    config = _launcher(provider)
    del config["provider"]["module"]
    if provider == "local":
        config["max_workers"] = len(config["provider"]["worker_ips"])
    return {**config, "provider": {**config["provider"], "type": provider}}


def _commands(config: dict) -> list[str]:
    return [line for key, value in config.items() if key.endswith("_commands") for line in value]


def test_the_files_are_found() -> None:
    assert {path.name for path in SCRIPTS} == {"node.sh", "install.sh", "down.sh", "slurm.sh"}
    assert [path.name for path in KUBERNETES] == ["kuberay-cluster.yaml", "kuberay-job.yaml"]
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}`" in readme for path in (*FOLDER.glob("*.yaml"), *SCRIPTS))


@launcher_files
def test_ray_accepts_the_file(provider: str) -> None:
    config = _launcher(provider)
    prepared = prepare_config(copy.deepcopy(_plain(provider)))
    validate_config(prepared)
    # what Ray's defaults would add to a file that does not say
    for key in ("head_setup_commands", "worker_setup_commands"):
        assert prepared[key] == config["setup_commands"], key


@launcher_files
def test_a_misspelt_key_of_the_provider_is_seen(provider: str) -> None:
    config = _launcher(provider)
    assert set(config["provider"]) == {"type", "module"} | PROVIDER_KEYS[provider]
    assert config["provider"]["type"] == "external"
    assert load_function_or_class(config["provider"]["module"]) is CLASSES[provider]
    assert config["auth"]["ssh_user"]


@launcher_files
def test_a_guarded_provider_is_the_same_as_rays_own(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that Ray knows and fills in for its own provider holds behind the look for the token."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    guarded = prepare_config(_launcher(provider))
    with contextlib.suppress(
        botocore.exceptions.BotoCoreError
    ):  # nobody to ask for a machine's size
        CLASSES[provider].fillout_available_node_types_resources(guarded)
    plain = prepare_config(_plain(provider))
    assert guarded == plain
    validate_config(guarded)


def test_aws_accepts_every_machine() -> None:
    machine = session.get_session().get_service_model("ec2").operation_model("RunInstances")
    for name, kind in _launcher("aws")["available_node_types"].items():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        asked["SubnetId"] = asked.pop("SubnetIds")[0]  # as Ray does
        report = ParamValidator().validate(asked, machine.input_shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_google_knows_every_key_of_a_machine() -> None:
    documents = resources.files("googleapiclient.discovery_cache.documents")
    schemas = json.loads(documents.joinpath("compute.v1.json").read_text())["schemas"]

    def check(value: object, schema: dict, where: str) -> None:
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema
        kind = {dict: "object", list: "array", bool: "boolean"}.get(type(value), schema["type"])
        assert schema["type"] == kind, f"{where}: {schema['type']} is wanted"
        if "enum" in schema:
            assert value in schema["enum"], where
        for key, item in value.items() if isinstance(value, dict) else ():
            assert key in schema["properties"], f"{where}.{key}"
            check(item, schema["properties"][key], f"{where}.{key}")
        for item in value if isinstance(value, list) else ():
            check(item, schema["items"], f"{where}[]")

    for name, kind in _launcher("gcp")["available_node_types"].items():
        check(kind["node_config"], {"$ref": "Instance"}, name)


def test_a_disk_on_google_cloud_is_one_that_gpu_machines_take() -> None:
    config = _launcher("gcp")
    zone = config["provider"]["availability_zone"]
    for kind in config["available_node_types"].values():
        (disk,) = kind["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_a_cheap_head_and_spot_workers(provider: str) -> None:
    config = _launcher(provider)
    kinds = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert set(kinds) == {"head", "gpu"}
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert [name for name, kind in kinds.items() if "spot" in str(kind).lower()] == ["gpu"]
    assert config["idle_timeout_minutes"] == 15
    assert config["max_workers"] <= config["upscaling_speed"]


@launcher_files
def test_rented_workers_end_themselves_without_a_head(provider: str) -> None:
    config = _launcher(provider)
    (start,) = config["worker_start_ray_commands"]
    prefix = "" if provider == "local" else "SKDTUNE_WITHOUT_RAY='sudo shutdown -h now' "
    assert start == f"{prefix}{NODE} worker"
    assert "SKDTUNE_WITHOUT_RAY" not in "".join(config["head_start_ray_commands"])
    if provider == "aws":  # a shutdown would stop the machine, and its disk would go on costing
        kinds = config["available_node_types"]
        ends = [k for k in kinds if "InstanceInitiatedShutdownBehavior" in kinds[k]["node_config"]]
        assert ends == ["gpu"]
        for name in ends:
            asked = kinds[name]["node_config"]["InstanceInitiatedShutdownBehavior"]
            assert asked == "terminate"


def test_machines_on_aws_are_closed() -> None:
    config = _launcher("aws")
    for kind in config["available_node_types"].values():
        machine = kind["node_config"]
        assert machine["SecurityGroupIds"] == ["sg-00000000"]  # the user's, never Ray's
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
    assert "security_group" not in config["provider"]


@launcher_files
def test_the_launcher_files_are_one_content(provider: str) -> None:
    config, aws = _launcher(provider), _launcher("aws")
    for key in ("file_mounts", "rsync_exclude", "setup_commands"):
        assert config[key] == aws[key], key
    assert config["setup_commands"] == [f"{NODE} install"]
    (start,) = config["head_start_ray_commands"]
    assert start.endswith(f"; {NODE} head")
    # the first autoscaler where the second one loses workers, and nowhere else
    assert ("export RAY_enable_autoscaler_v2=0;" in start) == (provider == "local")


@launcher_files
def test_ray_up_sees_what_it_would_warn_of(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private import commands

    warned = []
    monkeypatch.setattr(commands.cli_logger, "warning", lambda *text: warned.append(text))
    commands.warn_about_bad_start_command(_launcher(provider)["head_start_ray_commands"])
    assert warned == []


def test_the_mounts_are_what_an_installation_needs() -> None:
    mounts = _launcher("aws")["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert mounts == {f"~/skdtune/{path}": path for path in mounts.values()}
    assert all((ROOT / path).exists() for path in mounts.values())
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.findall(r'"(\w+)\*"', re.search(r"^include = (.*)$", project, re.M)[1])
    needed = {*packages, "pyproject.toml", "requirements.lock", "README.md", "LICENSE"}
    assert needed | {"docs/cluster"} == set(mounts.values())
    copied = re.findall(r"^COPY --chown=ray (.*) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    assert set(mounts.values()) == {path for line in copied for path in line.split()}


def test_the_readme_names_the_driver_that_the_locked_torch_needs() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(r"^cuda-toolkit==(\d+)\.", lock, re.M)[1] == "13", (
        "another CUDA, another driver"
    )
    readme = (FOLDER / "README.md").read_text()
    assert "NVIDIA driver 580 or newer" in readme
    assert "built for CUDA 13." in readme


def test_the_readme_names_the_right_to_give_workers_a_role() -> None:
    """Ray's own role for the head has it not for a role of the user's."""
    assert "iam:PassRole" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    "path", [*LAUNCHER.values(), *KUBERNETES, FOLDER / "slurm.sh"], ids=lambda path: path.name
)
def test_at_most_five_lines_are_to_be_changed(path: Path) -> None:
    text = path.read_text()
    words = {4: "four", 5: "five"}
    assert 4 <= text.count("# change: ") <= 5
    if path.suffix == ".yaml":
        assert f"{words[text.count('# change: ')]} lines marked so" in text


@pytest.mark.parametrize(
    "path", [*LAUNCHER.values(), *SCRIPTS, *KUBERNETES], ids=lambda path: path.name
)
def test_nothing_is_open_and_no_token_is_in_a_command(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"0\.0\.0\.0|IpPermissions|ray://|AUTH_TOKEN=|auth_token=", text)
    assert not re.search(r"(cat|<) *\S*auth_token", text)
    if path in LAUNCHER.values():
        assert not any("token" in command for command in _commands(yaml.safe_load(text)))


def test_the_head_listens_on_loopback_and_asks_for_the_token() -> None:
    node = (FOLDER / "node.sh").read_text()
    assert "--dashboard-host=127.0.0.1" in node
    assert "mlflow server --host 127.0.0.1 --port 5000" in node
    assert '--allowed-hosts "localhost:*,127.0.0.1:*"' in node
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in node
    assert "export RAY_AUTH_MODE=token" in node
    for command in ("head", "worker"):
        body = re.search(rf"^start_{command}\(\) {{\n(.*?)^}}", node, re.M | re.S)[1]
        assert "need_token" in body.split("ray start")[0]
        assert "set_environment" in body.split("ray start")[0]


def test_slurm_and_the_image_call_the_same_script() -> None:
    slurm = (FOLDER / "slurm.sh").read_text()
    for path in (FOLDER / "slurm.sh", *KUBERNETES):  # these end their machines themselves
        assert "SKDTUNE_WITHOUT_RAY" not in path.read_text()
    assert re.findall(r'bash "\$node_sh" (\w+)', slurm) == ["leave", "head", "worker"]
    assert 'python -m skdtune.search "$@" --address auto' in slurm
    assert "RUN bash docs/cluster/node.sh install" in (FOLDER / "Dockerfile").read_text()
