"""Learning from a trained classifier that is frozen and no part of what is trained."""

import torch
from torch import Tensor

from trainables import shipping
from trainables.losses import cross_entropy, distillation
from trainables.methods import Method, Task
from trainables.models import Classifier


class Teacher:
    """The model that `skdtune.train` or `shipping.save` left in a folder, read when it is first
    asked.

    It is no `nn.Module` on purpose: its weights are neither trained nor checkpointed nor shipped.
    place: a folder or a URI of one; None answers with a clear error."""

    def __init__(self, place: str | None):
        self.place = place
        self.task: Task | None = None
        self.shipped: shipping.Shipped | None = None

    def start_training(self, task: Task) -> None:
        """Takes note of how the images that it will be asked about are normalised."""
        self.task = task

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """# [B, C, H, W], normalised -> [B, K]

        Errors: ValueError without a teacher; OSError and ValueError for one that cannot be
        read."""
        if self.shipped is None:
            if self.place is None:
                raise ValueError("method.teacher: there is none; name a model's folder")
            with torch.random.fork_rng(devices=[]):  # its weights are drawn, then overwritten
                shipped = shipping.load(self.place).requires_grad_(False)
            place = {"device": images.device, "memory_format": _memory_format(images)}
            self.shipped = shipped.to(**place)
        if self.task is None:
            return self.shipped.network(images)
        mean, std = self.task.mean[:, None, None], self.task.std[:, None, None]
        return self.shipped((images * std + mean).contiguous(memory_format=_memory_format(images)))


class Taught(Method):
    """What the methods with a teacher share.

        L = (1 - alpha) * CE(z, y) + alpha * w * T^2 KL(softmax(t / T) || softmax(z / T))

    z: logits; t: the teacher's, of the same augmented images, in evaluation mode and without
    gradient. w = multiplier / K for K classes, as the released code of arXiv:1909.11723 has it,
    which averages the divergence over all N * K elements; without a multiplier w = 1, the mean
    over the batch."""

    def __init__(
        self,
        model: Classifier,
        teacher: str | None,
        alpha: float,
        temperature: float,
        multiplier: float | None,
    ):
        super().__init__(model)
        self.teacher = Teacher(teacher)
        self.alpha, self.temperature = alpha, temperature
        self.scale = 1.0 if multiplier is None else multiplier / model.classes

    def start_training(self, task: Task) -> None:
        self.teacher.start_training(task)

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        logits, taught = self(images), self.teacher.logits(images)
        divergence = distillation(logits, taught, self.temperature)
        return logits, {
            "ce": (1 - self.alpha) * cross_entropy(logits, labels),
            "kl": self.alpha * self.scale * divergence,
        }


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
