"""Progressive self-knowledge distillation: each image's target learns from what the network said
about it an epoch ago."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.bounds import Fraction
from trainables.losses import cross_entropy
from trainables.methods import Method, Task
from trainables.models import Classifier
from trainables.precision import full_precision


class PsKd(Method):
    """arXiv:2006.12000, as its released code computes it (main.py and pskd_loss.py).

        L = CE(z, (1 - a_t) * onehot(y) + a_t * P_{t-1}(x)),  a_t = alpha * (t + 1) / E

    z: logits; y: label; t: epoch from 0; E: epochs in all; P_{t-1}(x): the softmax of the logits
    that image x had when it was last trained on, in that augmentation and by batch statistics;
    onehot(y) for an image that has not been trained on yet, hence in all of epoch 0. The two
    parts of the cross entropy are reported as terms of their own.

    The predictions are part of the state, in the precision of the weights: images * classes
    numbers (18 MB for 45,000 images of 100 classes in float32). They have their size from
    `start_training`; a state for other images or classes is refused by `load_state_dict`.
    Without a task nothing is remembered and every image counts as new.

    Deviations: an image that an earlier epoch left out (its last batch is dropped when incomplete)
    keeps its older prediction, or has onehot(y) where the code would have zeros.

    alpha: weight of the past at the end of training."""

    predictions: Tensor | None  # [images, K]; a row of zeros: not trained on yet

    def __init__(self, model: Classifier, *, alpha: Fraction = 0.8):
        super().__init__(model)
        self.alpha = alpha
        self.register_buffer("predictions", None)
        self.epochs = 1
        self.epochs_begun = 0
        self.indices: Tensor | None = None  # of the next batch

    def start_training(self, task: Task) -> None:
        weights = next(self.model.parameters())
        self.predictions = weights.new_zeros(task.images, self.model.classes)
        self.epochs = task.epochs

    def start_epoch(self) -> None:
        self.epochs_begun += 1

    def start_batch(self, indices: Tensor) -> None:
        self.indices = indices

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        logits = self(images)
        past = F.one_hot(labels, self.model.classes).to(full_precision(logits).dtype)
        if self.predictions is not None and self.indices is not None:
            kept = self.predictions[self.indices]
            past = torch.where(kept.any(dim=1, keepdim=True), kept, past)
            now = full_precision(logits.detach()).softmax(dim=1)
            self.predictions[self.indices] = now.to(kept.dtype)
        self.indices = None
        share = self.alpha * self.epochs_begun / self.epochs
        return logits, {
            "ce": (1 - share) * cross_entropy(logits, labels),
            "past": share * cross_entropy(logits, past),
        }

    def get_extra_state(self) -> dict:
        return {"epochs_begun": self.epochs_begun}

    def set_extra_state(self, state: dict) -> None:
        self.epochs_begun = state["epochs_begun"]
