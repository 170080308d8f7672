"""Faults at random for as long as is asked: a night on spot machines, in short.

    python -m tests.soak [--minutes 120] [--seed 0] [--round N]

A round searches one method on digits, every other one with finalists, with an MLflow server of its
own, while processes of trials, the driver, parts of Ray and the server are killed, signals come and
newest checkpoints are damaged. It is resumed until it is done, then must be what a search without a
fault would be: every trial has ended, what had ended is untouched, trials trained again at one go
have the same metrics to the bit, and MLflow equals the records. Then its best config is trained in
the same way. The seed chooses space and faults, the machine their moments, so that a round is never
quite the same again.
Exit code 1 when a promise was broken; the folder of the round is left.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from subprocess import Popen

import torch

from skdtune import ranking, records, teachers
from skdtune.records import Record, Study
from tests.programs import alive, descendants, program, started, title, trial_workers, wait_for
from tests.skdtune.builders import assert_mirrored
from tests.skdtune.proxy import Server
from tests.trainables.tiny import repeated
from trainables.storage import Folder
from trainables.training import Training

SPACES = ["quickstart", "drg_dsr", "tf_kd_self", "kd", "ps_kd", "rsd", "byot", "dlb", "cs_kd"]
TRIALS, EPOCHS, SEEDS = 4, 24, 2
SETTINGS = [f"--trials={TRIALS}", f"--epochs={EPOCHS}", "--set=resources.cpu=1"]
SETTINGS += [
    f"--set=trial.{name}"
    for name in ("data.name=digits", "model.name=small_cnn", "model.width=16", "augment.flip=false")
]
FINALISTS = ["--set=search.finalists={trials: 1, seeds: 1}"]
MOST_KILLS = 3  # of trials' processes in a session: a trial may fail four times in one epoch
MOST_SESSIONS = 6  # the last one is left alone
ENDS = {  # what may come of each way to end a driver
    "SIGKILL": (-signal.SIGKILL,),
    "SIGINT": (128 + signal.SIGINT,),
    "SIGTERM": (128 + signal.SIGTERM,),
    "SIGHUP": (128 + signal.SIGHUP,),
    "raylet": (1, 0),  # 0: all trials had ended before it was seen
    "gcs_server": (1, 0),
    "nothing": (0,),
}


class Round:
    """One study and its faults, which `faults` counts."""

    def __init__(self, folder: Path, seed: str):
        self.folder, self.chance = folder, random.Random(seed)
        self.server = Server(folder)
        self.faults: Counter[str] = Counter()
        self.kept: dict[Path, bytes] = {}  # records of trials that have ended
        self.family: set[int] = set()  # processes of all drivers
        self.space = self.chance.choice(SPACES)
        self.finalists = FINALISTS if self.chance.random() < 0.5 else []

    def run(self) -> None:
        try:
            asked = [self.space, *SETTINGS, *self.finalists, "--name=study"]
            asked.append(f"--tracking-uri={self.server.uri}")
            self._until_done("search", asked, ["--resume"], self.folder / "studies/study")
            self._check_search()
            best, output = self.folder / "studies/study/best.yaml", self.folder / "trained"
            asked = [str(best), f"--seeds={SEEDS}", f"--output={output}"]
            self._until_done("train", [*asked, f"--tracking-uri={self.server.uri}"], [], output)
            self._check_training(output)
        finally:
            self.server.kill()

    def _until_done(self, name: str, asked: list[str], again: list[str], study: Path) -> None:
        """One driver after another, each but the last with its faults."""
        for session in range(MOST_SESSIONS):
            self._serve(True)
            begun = (study / records.STUDY_FILE).exists()
            with started(name, *asked, *(again if begun else []), folder=self.folder) as process:
                end = "nothing"
                if session < MOST_SESSIONS - 1:
                    end = self._disturb(process)
                code = self._wait(process)
            text = (self.folder / f"{name}.out").read_text()
            assert code in (*ENDS[end], 0), f"{name} ended with {code} after {end}"
            assert "Traceback" not in text, "a traceback was printed"
            wait_for(lambda: not any(map(alive, self.family)), 120, "what it had started to go")
            self._look(study)
            if code == 0:
                return
            self._damage(study)
        raise AssertionError(f"{name} was not done after {MOST_SESSIONS} drivers")

    def _disturb(self, process: Popen) -> str:
        """Faults until the driver is told to end; how."""
        kills = 0
        for _ in range(self.chance.randint(0, 8)):
            time.sleep(self.chance.uniform(0.2, 6))
            if process.poll() is not None:
                return "nothing"
            if self.chance.random() < 0.3:
                self._serve(self.server.process is None)
            elif kills < MOST_KILLS and (workers := trial_workers(process.pid)):
                kills += 1
                self._kill(self.chance.choice(workers), "a trial's process")
        end = self.chance.choice(list(ENDS))
        time.sleep(self.chance.uniform(1, 12))
        self.family.update(descendants(process.pid))
        if end.startswith("SIG"):
            self._kill(process.pid, end, signal.Signals[end])
        elif end != "nothing":
            parts = [p for p in descendants(process.pid) if f"/{end}" in title(p).split(" ")[0]]
            if not parts:
                return "nothing"
            self._kill(parts[0], end)
        return end

    def _wait(self, process: Popen) -> int:
        end = time.monotonic() + 300
        while process.poll() is None:
            self.family.update(descendants(process.pid))
            assert time.monotonic() < end, "it did not end"
            time.sleep(0.2)
        return process.returncode

    def _kill(self, pid: int, what: str, number: int = signal.SIGKILL) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        self.faults[what] += 1

    def _serve(self, on: bool) -> None:
        if on and self.server.process is None:
            self.server.start()
        elif not on and self.server.process is not None:
            self.server.kill()
            self.faults["MLflow's server"] += 1

    def _look(self, study: Path) -> None:
        """What had ended is as it was."""
        for path, data in self.kept.items():
            assert path.read_bytes() == data, f"{path.name}, which had ended, was touched"
        for path in (study / records.TRIALS).glob("[!.]*.json"):
            data = path.read_bytes()
            if json.loads(data)["status"] in (records.FINISHED, records.STOPPED):
                self.kept[path] = data

    def _damage(self, study: Path) -> None:
        """The newest checkpoint of a trial that goes on: cut, or a byte turned."""
        if not (study / records.STUDY_FILE).exists() or self.chance.random() < 0.5:
            return
        for record in _load(study).unfinished:
            states = sorted((study / "checkpoints" / record.key).glob("epoch_*/state.pt"))
            if not states or self.chance.random() < 0.5:
                continue
            data = bytearray(states[-1].read_bytes())
            place = self.chance.randrange(len(data))
            data[place] ^= 0xFF
            states[-1].write_bytes(data if self.chance.random() < 0.5 else data[:place])
            self.faults["a checkpoint"] += 1

    def _check_search(self) -> None:
        self._serve(True)
        done = program("sync", "study", f"--tracking-uri={self.server.uri}", folder=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        study = _load(self.folder / "studies/study")
        roles = Counter(record.role for record in study.records.values())
        assert roles[records.SEARCH] + roles[records.DEFAULT] + roles[records.FIRST] == TRIALS
        _assert_ended(study)
        standing = ranking.standing(study)
        assert (standing is not None and standing.is_complete) == bool(self.finalists)
        assert_mirrored(self.server.uri, study)
        for record in self.chance.sample(sorted(study.records.values(), key=_key), 2):
            _assert_unbroken(study, record)

    def _check_training(self, output: Path) -> None:
        study = _load(output)
        _assert_ended(study)
        seeds = [r for r in study.records.values() if r.role == records.SEED]
        assert len(seeds) == SEEDS
        assert all((output / records.MODELS / r.key / "model.json").exists() for r in seeds)
        assert (output / "result.json").exists()


def _load(study: Path) -> Study:
    return records.load(Folder(study))


def _key(record: Record) -> str:
    return record.key


def _assert_ended(study: Study) -> None:
    for record in study.records.values():
        ended = (records.FINISHED, records.STOPPED)
        assert record.status in ended, f"{record.key} is {record.status}: {record.error}"
        epochs = [report["epoch"] for report in record.epochs]
        assert epochs == list(range(1, record.epoch + 1)), f"{record.key} has epochs {epochs}"
        assert record.status == records.STOPPED or record.epoch == record.config["epochs"]


def _assert_unbroken(study: Study, record: Record) -> None:
    """The trial trained again, at one go, has the same metrics."""
    torch.set_num_threads(math.ceil(study.space["resources"]["cpu"]))
    trial = teachers.equipped(record.config, study.folder)
    training, again = Training(**trial, device=torch.device("cpu")), []
    for report in training.epochs():
        again.append(report)
        if report["epoch"] == record.epoch:
            break
    assert repeated(record.epochs) == repeated(again), f"{record.key} is not what one run gives"


def play(seed: int, number: int) -> bool:
    """One round; whether all promises were kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-{number}-"))
    now, one = time.monotonic(), Round(folder, f"{seed}/{number}")
    try:
        one.run()
    except Exception:  # noqa: BLE001 - the next round may tell more
        traceback.print_exc()
        verdict = f"BROKEN, see {folder}"
    else:
        verdict = "kept"
        shutil.rmtree(folder)
    faults = ", ".join(f"{what} {times}" for what, times in sorted(one.faults.items()))
    seconds = time.monotonic() - now
    print(
        f"round {number}: {one.space}, {seconds:.0f} s; {faults or 'no fault'}: {verdict}",
        flush=True,
    )
    return verdict == "kept"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--round", type=int, help="this one alone")
    asked = parser.parse_args()
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    if asked.round is not None:
        return 0 if play(asked.seed, asked.round) else 1
    end, number, broken = time.monotonic() + 60 * asked.minutes, 0, 0
    while time.monotonic() < end:
        broken += not play(asked.seed, number)
        number += 1
    print(f"{number} rounds with seed {asked.seed}, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
