"""The MPS daemon is started, named to the processes of the block, and ended; by a stand-in for
NVIDIA's program, since this is no test of the driver."""

import math
import os

import pytest

from skdtune import dry_run, mps
from trainables.calibration import Load

USE = mps._USE
STAND_IN = """#!/bin/sh
echo "$* $(cat) $CUDA_MPS_PIPE_DIRECTORY $CUDA_VISIBLE_DEVICES" >> {log}
exit {code}
"""


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch, tmp_path):
    for place in mps._PLACES:
        monkeypatch.delenv(place, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def usable(monkeypatch):
    monkeypatch.setattr(mps, "_USE", "pass")


def stand_in(tmp_path, code: int):
    path = tmp_path / mps._CONTROL
    path.write_text(STAND_IN.format(log=tmp_path / "log", code=code))
    path.chmod(0o755)


def test_a_daemon_is_started_for_the_block_and_ended(tmp_path, monkeypatch):
    stand_in(tmp_path, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")  # for its clients, not for the daemon
    with mps.serving(True) as served:
        folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert served
        assert os.path.isdir(folder)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split() for line in lines] == [["-d", folder], ["quit", "-t", "5", folder]]
    assert not os.path.exists(folder)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_one_that_no_process_can_use_is_ended_before_anything_starts(tmp_path, monkeypatch):
    stand_in(tmp_path, 0)
    monkeypatch.setattr(mps, "_USE", "raise SystemExit(1)")
    with mps.serving(True) as served:
        assert not served
        assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
        lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["-d", "quit"]


def test_a_server_that_is_not_ready_is_asked_again(tmp_path, monkeypatch):
    """As the process that uses the GPU is, whom the daemon must name a server."""
    place, count = tmp_path / mps._CONTROL, tmp_path / "count"
    answer = (
        '[ "$(cat)" = get_server_list ] && echo x >> {0} && [ $(wc -l < {0}) -gt 1 ] && echo 42'
    )
    place.write_text(f"#!/bin/sh\n{answer.format(count)}\ntrue\n")
    place.chmod(0o755)
    monkeypatch.setattr(mps, "_PAUSE_S", 0.0)
    on_cpu = USE.replace('torch.ones(8, device="cuda").sum().item()', "")
    monkeypatch.setattr(mps, "_USE", on_cpu.replace(", torch", ""))
    with mps.serving(True) as served:
        assert served
    assert count.read_text() == "x\n" * 2


def test_an_error_in_the_block_ends_it_too(tmp_path):
    stand_in(tmp_path, 0)
    with pytest.raises(KeyError), mps.serving(True):
        raise KeyError
    assert "quit" in (tmp_path / "log").read_text()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_one_that_does_not_start_is_done_without(tmp_path):
    stand_in(tmp_path, 1)
    with mps.serving(True) as served:
        assert not served
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["-d", "quit"]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_without_a_driver_or_a_wish_there_is_none(tmp_path, monkeypatch):
    stand_in(tmp_path, 0)
    with mps.serving(False) as served:
        assert not served
    assert not (tmp_path / "log").exists()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with mps.serving(True) as served:
        assert not served
    assert "in turns" in mps.note(served)


def test_one_that_runs_already_is_used(tmp_path, monkeypatch):
    stand_in(tmp_path, 0)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somewhere")
    with mps.serving(True) as served:
        assert served
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/somewhere"
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(("code", "asked"), [(0, ["-d"]), (1, ["-d", "quit"])])
def test_on_a_node_of_a_cluster_it_is_left_running_where_it_is_of_use(tmp_path, code, asked):
    stand_in(tmp_path, code)
    assert mps.main([str(tmp_path / "here")]) == code
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == asked
    assert {line.split()[-1] for line in lines} == {str(tmp_path / "here")}
    for place in mps._PLACES:
        os.environ.pop(place, None)
    assert mps.main([]) == 2


def test_an_empty_name_of_its_directory_is_a_no(tmp_path, monkeypatch):
    stand_in(tmp_path, 0)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "")
    with mps.serving(True) as served:
        assert not served
    assert not (tmp_path / "log").exists()


def test_what_check_says_of_several_trials():
    loads = [Load(1, 1000.4, 2.04), Load(2, 1900, 3.0), Load(4, math.nan, math.nan, "no memory")]
    assert dry_run.advice(loads, 3600 * 1900 * 25) == [
        "  1 at once: 1,000 images/s in sum, 2.0 GiB",
        "  2 at once: 1,900 images/s in sum, 3.0 GiB",
        "  4 at once: no memory",
        "recommended: --set resources.gpu=0.5",
        "the steps of all trials, none stopped early, then take about 25.0 GPU-hours",
    ]
    assert dry_run.advice(loads[2:], 1) == ["  4 at once: no memory"]


def test_no_more_trials_at_once_are_measured_than_there_are_cpus_for(monkeypatch):
    monkeypatch.setattr(dry_run.os, "cpu_count", lambda: 16)
    assert dry_run._together(2) == [1, 2, 4, 8]
    assert dry_run._together(4) == [1, 2, 4]
    assert dry_run._together(32) == [1], "a trial of its own machine takes what there is"
