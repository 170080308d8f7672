"""docs/cluster/onprem.yaml for real: `ray up` over SSH to three hosts, a search on them, hosts
lost and brought back, and nothing left behind."""

import json
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skdtune import records
from tests.cluster.hosts import ADDRESSES, SHARED, Hosts, lacking
from tests.cluster.onprem import (
    CHECKOUT,
    FILE,
    SHOWN,
    ended,
    head,
    laptop,
    output,
    prepare,
    ray_nodes,
    read,
    search,
    space,
    tunnel,
    up,
    where_ended,
)
from tests.programs import wait_for
from tests.skdtune.test_launcher import NO_TOKEN
from trainables.storage import Folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(lacking()), reason=f"hosts: {lacking()}"),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Four hosts that have what docs/cluster/README.md asks for; the laptop has our checkout."""
    with Hosts(SHOWN) as hosts:
        prepare(hosts)
        yield hosts


@pytest.fixture(scope="module")
def cluster(hosts) -> Hosts:
    """The same with Ray on three of them."""
    up(hosts)
    return hosts


def test_without_a_token_nothing_is_started_and_one_line_says_so(hosts):
    done = laptop(hosts, f"ray up {FILE} -y", check=False)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert [line for line in said.splitlines() if "token" in line] == [NO_TOKEN]
    assert "Traceback" not in said
    assert hosts.processes("head") == []


def test_three_nodes_come_up(cluster):
    assert ray_nodes(cluster) == 3
    assert laptop(cluster, f"ray get-head-ip {FILE}").stdout.split()[-1] == ADDRESSES["head"]


def test_the_token_is_its_owners_alone(cluster):
    for name in ADDRESSES:
        mode = (cluster.home(name) / ".ray" / "auth_token").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name


@pytest.mark.parametrize("path", ["/api/version", "/api/jobs/", "/api/cluster_status"])
def test_dashboard_and_jobs_refuse_who_has_no_token(cluster, path):
    look = f"curl -s -o /dev/null -w %{{http_code}} http://127.0.0.1:8265{path}"
    refused = cluster.run("head", "bash", "-c", look).stdout
    assert refused == "401"
    token = "$(cat ~/.ray/auth_token)"
    allowed = f'{look} -H "Authorization: Bearer {token}"'
    assert cluster.run("head", "bash", "-c", allowed).stdout == "200"


@pytest.mark.parametrize("name", ["head", "worker1"])
def test_a_job_from_another_host_is_refused(cluster, name):
    """The agent's port listens between nodes, so the token alone keeps strangers out."""
    send = (
        "curl -s -o /dev/null -w %{http_code} -X POST -H 'Content-Type: application/json' "
        f'-d \'{{"entrypoint": "true"}}\' http://{ADDRESSES[name]}:52365/api/job_agent/jobs/'
    )
    assert cluster.run("laptop", "bash", "-c", send).stdout == "401"


def test_what_people_use_listens_on_loopback_alone(cluster):
    lines = cluster.run("head", "ss", "-ltnH").stdout.splitlines()
    bound = {line.split()[3].rpartition(":")[::2] for line in lines}
    assert {place for place, port in bound if port == "5000"} == {"127.0.0.1"}
    assert {place for place, port in bound if port == "8265"} == {"127.0.0.1"}
    for port in (5000, 8265):
        knock = f"exec 3<>/dev/tcp/{ADDRESSES['head']}/{port}"
        assert cluster.run("worker1", "bash", "-c", knock, check=False).returncode != 0


@pytest.mark.parametrize("name", ["head", "worker1"])
def test_what_listens_on_the_network_is_ray_and_ssh(cluster, name):
    for line in cluster.run(name, "ss", "-ltnpH").stdout.splitlines():
        place, owner = line.split()[3], re.search(r"pid=(\d+)", line)
        if place.startswith(("127.", "[::1]", "[::ffff:127.")):
            continue
        command = cluster.run(name, "ps", "-o", "args=", "-p", owner[1]).stdout
        assert re.search(r"/ray/|-m ray\.|ray::|raylet|gcs_server|sshd", command), line


def test_a_storage_that_is_not_shared_is_refused_with_the_nodes_named(cluster):
    done = head(cluster, f"python -m skdtune.search {space()} --storage /root/mine --name mine")
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stdout + done.stderr
    for name in ("worker1", "worker2"):
        assert f"{ADDRESSES[name]}: does not see --storage /root/mine" in said
    assert "Traceback" not in said
    assert not (cluster.home("head") / "mine" / "study.json").exists()


def test_images_that_a_node_lacks_are_refused_with_the_node_named(cluster):
    for name in ("head", "worker1"):
        _tiny_images(cluster.home(name) / "images")
    done = head(
        cluster,
        "python -m skdtune.search cross_entropy --check --set trial.data.name=imagefolder "
        f"--set trial.data.root=/root/images --set trial.model.name=small_cnn "
        f"--set resources.gpu=0 --set resources.cpu=1 --storage {SHARED}/studies/x",
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert f"{ADDRESSES['worker2']}: data set imagefolder: /root/images" in said
    assert ADDRESSES["worker1"] not in said


def test_a_search_spreads_and_outlives_a_host_that_is_cut_off(cluster):
    with search(cluster, "night", epochs=12) as process:
        both = {"worker1", "worker2"}
        wait_for(lambda: where_ended(cluster, "night") >= both, 180, "trials to end on both")
        cluster.cut("worker2")
        assert process.wait(300) == 0, output(cluster)
    study = read(cluster, "night")
    found = study.records.values()
    assert len(found) == 9  # the baseline beside 8
    assert {record.status for record in found} <= {records.FINISHED, records.STOPPED}
    assert {record.host for record in found} == both
    moved = [record for record in found if record.attempts > 1]
    assert moved, "none was on the host that was cut off"
    assert "on the Ray cluster at 10.88.0.1:6379" in output(cluster)
    cluster.join("worker2")
    wait_for(lambda: ray_nodes(cluster) == 3, 120, "worker2 to be taken up again")


def test_mlflow_on_the_head_has_it_all_through_the_tunnel(cluster):
    ask = (
        "import json; from mlflow import MlflowClient; c = MlflowClient('http://127.0.0.1:5000');"
        "e = [x.experiment_id for x in c.search_experiments()];"
        "print(json.dumps([[r.info.status, r.data.tags] for r in c.search_runs(e)]))"
    )
    with tunnel(cluster, 5000):
        answer = cluster.run("laptop", "python", "-c", ask).stdout
    runs = json.loads(answer.splitlines()[-1])
    assert len(runs) == 10  # and the study's own
    assert all(status in {"FINISHED", "KILLED"} for status, _ in runs)


def test_a_final_training_spreads_over_the_hosts(cluster):
    train = (
        f"python -m skdtune.train {SHARED}/studies/night/best.yaml --seeds 2 --set trial.epochs=2"
    )
    refused = head(cluster, train)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "does not see --output /root/trained/night as this machine does" in refused.stderr
    assert not (cluster.home("head") / "trained/night/study.json").exists()
    done = head(cluster, f"{train} --output {SHARED}/trained")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "at a time on the Ray cluster at 10.88.0.1:6379" in done.stdout
    study = records.load(Folder(cluster.shared / "trained"))
    found = study.records.values()
    assert {record.status for record in found} == {records.FINISHED}
    assert {record.host for record in found} == {"worker1", "worker2"}
    assert study.tracking_uri == "http://127.0.0.1:5000"
    assert (cluster.shared / "trained/models/seed-1/model.safetensors").is_file()


def test_a_search_is_sent_from_the_laptop_as_a_job(cluster):
    with tunnel(cluster, 8265):
        short = f"{space()} --trials=1 --epochs=1 --storage={SHARED}/studies/job"
        submit = (
            f"ray job submit --address http://127.0.0.1:8265 -- python -m skdtune.search {short}"
        )
        said = laptop(cluster, submit, timeout_s=180).stdout
    assert "on the Ray cluster at 10.88.0.1:6379" in said
    study = read(cluster, "job")
    assert {record.status for record in study.records.values()} == {records.FINISHED}
    assert study.tracking_uri == "http://127.0.0.1:5000"


def test_a_script_is_sent_from_the_laptop(cluster):
    script = "import subprocess, sys\nsys.exit(subprocess.call([sys.executable, '-m', "
    script += f"'skdtune.leaderboard', '{SHARED}/studies/night', '--format', 'csv']))\n"
    (cluster.home("laptop") / "mine.py").write_text(script)
    said = laptop(cluster, f"ray submit {FILE} /root/mine.py").stdout
    assert "0008" in said


def test_the_ui_is_open_on_the_laptop_while_it_is_attached(cluster):
    attach = f"cd {CHECKOUT} && RAY_AUTH_MODE=token ray attach {FILE} -p 5000"
    process = subprocess.Popen(
        cluster.command("laptop", "script", "-qec", f"bash -c '{attach}'", "/dev/null"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    look = "curl -s -o /dev/null -w %{http_code} http://localhost:5000/"
    try:
        wait_for(
            lambda: cluster.run("laptop", "bash", "-c", look, check=False).stdout == "200",
            60,
            "the UI on the laptop",
        )
    finally:
        process.stdin.close()
        process.kill()
        process.wait(20)


def test_the_head_dies_and_the_search_goes_on(cluster):
    with search(cluster, "dawn", epochs=16) as process:
        wait_for(lambda: len(ended(cluster, "dawn")) >= 3, 240, "three trials to end")
        cluster.off("head")
        before = ended(cluster, "dawn")
        process.kill()
        process.wait(20)
    cluster.boot("head")
    up(cluster)
    with search(cluster, "dawn", "--resume") as process:
        assert process.wait(300) == 0, output(cluster)
    study = read(cluster, "dawn")
    assert len(study.records) == 9
    assert {r.status for r in study.records.values()} <= {records.FINISHED, records.STOPPED}
    after = ended(cluster, "dawn")
    assert {key: after[key] for key in before} == before, "one that had ended was trained again"


def test_one_command_leaves_nothing(cluster):
    laptop(cluster, f"bash docs/cluster/down.sh {FILE}", timeout_s=180)
    for name in ("head", "worker1", "worker2"):
        wait_for(lambda name=name: cluster.processes(name) == [], 20, f"{name} to be quiet")


def _tiny_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for index in range(8):
                pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{index}.png")
