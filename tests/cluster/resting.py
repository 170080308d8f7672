"""A trial that rests instead of training, for tests of what lies around it."""

import time

import ray

from trainables import metrics
from trainables.classifier import FINISHED, OUTCOME, ClassifierTrial

EPOCH_S = 2.0


class Resting(ClassifierTrial):
    """Reports as a trial that trains does; says as its host which node of Ray it was on."""

    def step(self) -> dict:
        time.sleep(EPOCH_S)
        epoch = self.iteration + 1
        report = {metrics.EPOCH: epoch, "val/accuracy": 0.5, metrics.TIMESTAMP: time.time()}
        done = epoch >= self.trial["epochs"]
        outcome = {OUTCOME: FINISHED} if done else {}
        place = {"host": ray.get_runtime_context().get_node_id(), "checkpoint": ""}
        return {"report": list(report.items()), **report, **outcome, **place, "done": done}
