"""docs/cluster/slurm.sh with stand-ins for SLURM, Ray and the search: what the job calls."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "cluster" / "slurm.sh"


def _job(folder: Path, *arguments: str) -> list[str]:
    """Runs it on two machines; what it called, in order of time but for srun, which goes beside."""
    tools, checkout = folder / "tools", folder / "checkout" / "docs" / "cluster"
    for path in (tools, checkout):
        path.mkdir(parents=True, exist_ok=True)
    log = f'echo "${{0##*/}} $*" >>{folder}/calls'
    stand_ins = {
        checkout / "node.sh": log,
        tools / "python": log,
        tools / "srun": log,
        tools / "scontrol": "printf 'one\\ntwo\\n'",
        tools / "hostname": "echo 10.0.0.1",
    }
    for path, text in stand_ins.items():
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        env={
            "HOME": str(folder),
            "PATH": f"{tools}:{os.defpath}",
            "SLURM_SUBMIT_DIR": str(folder / "checkout"),
            "SLURM_JOB_NODELIST": "x",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "4",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "calls").read_text().splitlines()


def _search(calls: list[str]) -> str:
    (call,) = (line for line in calls if line.startswith("python "))
    return call


def test_a_job_starts_a_head_and_workers_and_cleans_up(tmp_path: Path) -> None:
    calls = _job(tmp_path, "quickstart")
    assert calls[0] == "node.sh head --node-ip-address=10.0.0.1 --num-cpus=4"
    assert calls[-1] == "node.sh leave"
    assert _search(calls) == "python -m skdtune.search quickstart --address auto"


def test_the_job_has_all_of_its_machines_and_outlives_one() -> None:
    text = SCRIPT.read_text()
    given = {line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH ")}
    assert {"--exclusive", "--mem=0", "--no-kill", "--requeue"} <= given
    assert "srun --no-kill " in text  # of the step, as that one is of the job


@pytest.mark.parametrize("form", ["--storage {}", "--storage={}"])
def test_a_study_that_is_there_is_gone_on_with_and_nothing_else(tmp_path: Path, form: str) -> None:
    """An empty folder is not one; `--resume` would end with status 2."""
    place = tmp_path / "night"
    given = form.format(place)
    for state in ("none", "empty", "study"):
        if state == "empty":
            place.mkdir()
        if state == "study":
            (place / "study.json").touch()
        (tmp_path / "calls").unlink(missing_ok=True)
        called = _search(_job(tmp_path, "quickstart", *given.split(), "--trials=2"))
        resume = " --resume" if state == "study" else ""
        expected = f"python -m skdtune.search quickstart {given} --trials=2 --address auto{resume}"
        assert called == expected, state
