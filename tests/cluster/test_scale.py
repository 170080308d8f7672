"""Many nodes of fake GPUs on this machine: all of them are used, and a trial takes no longer."""

import io
import statistics
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from skdtune import capacity, records, tuning
from skdtune.capacity import Slots
from skdtune.interrupt import Interrupt
from skdtune.plan import Plan
from skdtune.records import Record, Writer
from skdtune.settings import Resources
from tests.cluster.resting import Resting
from tests.skdtune.builders import build_space, new_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRIALS_A_NODE = 4
ASKED = Resources(cpu=1, gpu=1)


def searched(folder: Path, count: int, joining: int = 0) -> list[Record]:
    """The records of a search on so many nodes; `joining` more come when it has begun."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, num_gpus=1, wait=False)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        wanted = build_space(
            trials=(count + joining) * TRIALS_A_NODE - 1, scheduler={"name": "none"}
        )
        study = new_study(folder, wanted)
        offered = capacity.offered()
        slots = Slots(ASKED, offered, follow=True)
        assert slots.now() == count
        writer = Writer(study)
        console = Console(file=io.StringIO())
        plan = Plan(study, wanted, ASKED)
        for _ in range(joining):
            cluster.add_node(num_cpus=1, num_gpus=1, wait=False)
        tuning.run(plan, ASKED, slots, writer, Interrupt(), console, Resting)
        writer.close()
        return list(study.records.values())
    finally:
        ray.shutdown()
        cluster.shutdown()


def at_once(found: list[Record]) -> int:
    """How many of the trials ran at the same time, at most."""
    changes = sorted([(r.started, 1) for r in found] + [(r.ended, -1) for r in found])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def test_sixteen_nodes_are_all_used_and_a_trial_takes_as_long_as_on_four(tmp_path):
    seconds = {}
    for count in (4, 16):
        found = searched(tmp_path / str(count), count)
        assert len(found) == count * TRIALS_A_NODE
        assert {record.status for record in found} == {records.FINISHED}
        assert {record.attempts for record in found} == {1}
        assert len({record.host for record in found}) == count
        assert at_once(found) == count
        seconds[count] = statistics.median(record.ended - record.started for record in found)
    assert seconds[16] <= 1.3 * seconds[4]


def test_nodes_that_join_are_used_at_once(tmp_path):
    found = searched(tmp_path, 1, joining=3)
    assert {record.status for record in found} == {records.FINISHED}
    assert len({record.host for record in found}) == 4
    assert at_once(found) == 4
