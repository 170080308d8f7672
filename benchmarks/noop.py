"""Trials that train nothing: what is left of a search is what surrounds the training steps."""

import random
import time
from collections.abc import Iterator

from ray import tune

from trainables import metrics
from trainables.classifier import ClassifierTrial

REPORTS = 2


class BareTrial(tune.Trainable):
    """The least that Ray Tune can run and reuse: two reports of one number."""

    def setup(self, config: dict) -> None:
        self.epoch = 0

    def reset_config(self, new_config: dict) -> bool:
        self.epoch = 0
        return True

    def step(self) -> dict:
        self.epoch += 1
        value = random.random()
        return {metrics.EPOCH: self.epoch, "val/accuracy": value, "done": self.epoch >= REPORTS}


class NoOpTrial(ClassifierTrial):
    """A ClassifierTrial in everything but the training and its checkpoints: it counts attempts on
    disk and reports every metric that a real epoch has."""

    def _epochs(self) -> Iterator[dict]:
        for epoch in range(1, self.trial["epochs"] + 1):
            names = [
                metrics.LOSS_TOTAL,
                *map(metrics.loss_name, ("ce", "drg", "dsr")),
                metrics.TRAIN_ACCURACY,
                metrics.LEARNING_RATE,
                *metrics.score_names(metrics.VALIDATION),
                metrics.EPOCH_SECONDS,
                metrics.IMAGES_PER_SECOND,
                metrics.PEAK_MEMORY,
            ]
            report = {name: random.random() for name in names}
            yield {metrics.EPOCH: epoch, **report, metrics.TIMESTAMP: time.time()}
