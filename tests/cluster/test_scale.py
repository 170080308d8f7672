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
from skdtune.cluster import disconnect
from skdtune.interrupt import Interrupt
from skdtune.plan import Plan
from skdtune.records import Record
from skdtune.settings import Resources
from skdtune.writer import Writer
from tests.cluster.resting import Resting
from tests.programs import at_once
from tests.size import size
from tests.skdtune.builders import build_space, new_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FEW, MANY = size(2, 3), size(6, 10)
TRIALS = {FEW: 2 * FEW, MANY: 2 * MANY}  # by the number of nodes
ASKED = Resources(cpu=1, gpu=1)


def searched(folder: Path, count: int) -> list[Record]:
    """The records of a search on so many nodes."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, num_gpus=1, wait=False)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        wanted = build_space(trials=TRIALS[count] - 1, scheduler={"name": "none"})
        study = new_study(folder, wanted)
        offered = capacity.offered()
        slots = Slots(ASKED, offered, follow=capacity.Nodes())
        assert slots.now() == count
        writer = Writer(study)
        console = Console(file=io.StringIO())
        plan = Plan(study, wanted, ASKED)
        tuning.run(plan, ASKED, slots, writer, Interrupt(), console, Resting)
        writer.close()
        return list(study.records.values())
    finally:
        disconnect()
        cluster.shutdown()


def test_many_nodes_are_all_used_and_a_trial_takes_as_long_as_on_few(tmp_path):
    seconds = {}
    for count, trials in TRIALS.items():
        found = searched(tmp_path / str(count), count)
        assert len(found) == trials
        assert {record.status for record in found} == {records.FINISHED}
        assert {record.attempts for record in found} == {1}
        assert len({record.host for record in found}) == count
        assert at_once(found) == count
        seconds[count] = statistics.median(record.ended - record.started for record in found)
    assert seconds[MANY] <= 1.3 * seconds[FEW]
