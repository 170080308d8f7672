"""The Kubernetes manifests: valid by the schemas of Kubernetes and KubeRay, and the same content as
the files of the other clusters. No Kubernetes is needed."""

import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "cluster"
KUBERNETES = sorted(FOLDER.glob("kuberay-*.yaml"))
CLAIM = FOLDER / "kubernetes-claim.yaml"
KUBERAY = Path(__file__).with_name("kuberay.yaml")
VERSION = "1.33"  # of Kubernetes
manifests = pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)


def _manifests(path: Path) -> dict[str, dict]:
    return {entry["kind"]: entry for entry in yaml.safe_load_all(path.read_text())}


def _ray_cluster(path: Path) -> dict:
    """The description of a Ray cluster in either manifest."""
    found = _manifests(path)
    return found["RayCluster"]["spec"] if "RayCluster" in found else _job(path)["rayClusterSpec"]


def _job(path: Path) -> dict:
    return _manifests(path)["RayJob"]["spec"]


def _groups(path: Path) -> list[dict]:
    cluster = _ray_cluster(path)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _check_template(template: dict) -> None:
    whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "it"}}
    kubernetes_validate.validate({**whole, "template": template}, VERSION, strict=True)


@manifests
def test_ray_resources_have_the_fields_of_kuberay(path: Path) -> None:
    schema = yaml.safe_load(KUBERAY.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    (kind,) = _manifests(path)  # nothing else that a deletion of the file would take along
    assert kind == ("RayCluster" if "cluster" in path.name else "RayJob")
    jsonschema.validate(_manifests(path)[kind], schema)
    assert _ray_cluster(path)["authOptions"] == {"mode": "token"}


@manifests
def test_the_rest_is_valid_kubernetes(path: Path) -> None:
    for group in _groups(path):
        _check_template(group["template"])


def test_the_studies_are_in_a_file_of_their_own() -> None:
    (kind,) = claims = _manifests(CLAIM)
    assert kind == "PersistentVolumeClaim"
    kubernetes_validate.validate(claims[kind], VERSION, strict=True)
    assert claims[kind]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert CLAIM.read_text().count("# change: ") == 1
    wanted = {"persistentVolumeClaim": {"claimName": claims[kind]["metadata"]["name"]}}
    for path in KUBERNETES:
        for group in _groups(path):
            assert {"name": "shared", **wanted} in group["template"]["spec"]["volumes"]
    readme = (FOLDER / "README.md").read_text()
    name = _manifests(KUBERNETES[0])["RayCluster"]["metadata"]["name"]
    assert f"kubectl delete raycluster {name}" in readme
    assert "kubectl delete -f" not in readme


def test_a_wrong_field_would_be_found() -> None:
    schema = yaml.safe_load(KUBERAY.read_text())
    manifest = _manifests(KUBERNETES[0])["RayCluster"]
    manifest["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError, match="not of type 'string'"):
        jsonschema.validate(manifest, schema)
    template = _groups(KUBERNETES[0])[0]["template"]
    template["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        _check_template(template)


@manifests
def test_every_container_has_the_shared_folder(path: Path) -> None:
    for group in _groups(path):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert "/shared" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_a_container_finds_the_driver_and_owns_its_checkout() -> None:
    image = (FOLDER / "Dockerfile").read_text().replace("\\\n", "")
    environment, user, checkout = (
        re.search(rf"^{word} (.*)$", image, re.M) for word in ("ENV", "USER", "WORKDIR")
    )
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in environment[1].split()
    assert f"install -d -o ray -g ray {checkout[1]}\n" in image[: user.start()]
    assert user.start() < checkout.start()


def test_kubernetes_and_the_machines_do_the_same() -> None:
    node = (FOLDER / "node.sh").read_text()
    locked = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)[1]
    defaults = dict(re.findall(r"^  export (RAY_\w+)=\$\{\1:-(\d+)\}$", node, re.M))
    assert len(defaults) == 5
    for path in KUBERNETES:
        cluster = _ray_cluster(path)
        assert cluster["rayVersion"] == locked
        assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 15 * 60
        head, worker = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
        flags = {**head["rayStartParams"], **worker["rayStartParams"]}
        assert all(f"--{key}={value}" in node for key, value in flags.items())
        ray, mlflow = head["template"]["spec"]["containers"]
        assert mlflow["command"] == ["bash", "docs/cluster/node.sh", "mlflow"]
        for container in (ray, *worker["template"]["spec"]["containers"]):
            given = {entry["name"]: entry["value"] for entry in container["env"]}
            assert given == {**defaults, "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
        for size in worker["template"]["spec"]["containers"][0]["resources"].values():
            # fits on a machine of 8 CPUs and 32 GB beside what Kubernetes keeps: there some 28 Gi
            # and 7.9 CPUs are left, less what runs on every machine
            assert int(size["cpu"]) <= 6
            assert int(size["memory"].removesuffix("Gi")) <= 24
        keys = {entry["key"] for entry in worker["template"]["spec"]["tolerations"]}
        assert {"nvidia.com/gpu", *worker["template"]["spec"]["nodeSelector"]} == keys
    first, second = (_ray_cluster(path) for path in KUBERNETES)
    # whoever submits a job speaks to the dashboard from another pod
    assert first["headGroupSpec"]["rayStartParams"].pop("dashboard-host") == "127.0.0.1"
    assert first == second
