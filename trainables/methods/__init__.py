"""Self-distillation methods, one a file; the file's name is the method's."""

import inspect
import sys
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from trainables.folders import modules, refuse
from trainables.models import Classifier

# What stands beside each image of a batch: another augmented view of it, or another image of its
# class.
Companion = Literal["view", "class"]


@dataclass(frozen=True)
class Task:
    """What a method may know of the training it is part of.

    images: how many are trained on. epochs: how many in all. mean, std: [C], by which images in
    [0, 1] are normalised."""

    images: int
    epochs: int
    mean: Tensor
    std: Tensor


class Method(nn.Module):
    """What a batch is trained on. A method wraps the classifier, may add parts of its own that only
    training needs, and names its loss terms; the loop sums them and knows nothing else about it.

    Hyperparameters are keyword-only arguments with the authors' defaults: the signature is the
    schema that a search space is checked against. State to resume from belongs in `state_dict`.

    companion: None, or what `losses` gets beside each image: then images and labels are twice as
    long, row `B + i` the companion of row `i`, and the logits returned are those of the first B.
    has_authors_defaults: False where a default is ours, or a deviation gives the authors' values
    another meaning; a run with them is not called the authors'.
    """

    companion: Companion | None = None
    has_authors_defaults: bool = True

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and the weighted loss terms; their sum is trained. A term's name becomes the
        metric `loss/NAME`; one is `ce`; each is a scalar of at least float32. Logits come back as
        the network gave them, and within two batches every parameter gets a gradient.
        # [B, C, H, W], [B] -> [B, K], {name: scalar}"""
        raise NotImplementedError  # the contract: every method says what it trains on

    def forward(self, images: Tensor) -> Tensor:
        """The logits that are evaluated and shipped.  # [B, C, H, W] -> [B, K]"""
        return self.model(images)

    def start_training(self, task: Task) -> None:
        """Called once, before the first epoch and before a state is loaded to go on from."""

    def start_epoch(self) -> None:
        """Drops whatever memory must not cross from one epoch to the next."""

    def start_batch(self, indices: Tensor) -> None:
        """Says which training images the next call of `losses` gets, row for row.
        # [B], each in [0, task.images); [2 * B] with a companion"""

    def deploy(self) -> nn.Module:
        """The plain model that ships: no part of it serves training alone."""
        return self.model


def classes() -> dict[str, type[Method]]:
    """Every method by name: the one subclass of `Method` that each file of this folder defines.
    Errors: BrokenFile."""
    found = {}
    for name, module in modules(sys.modules[__name__]).items():
        own = [
            kind
            for kind in vars(module).values()
            if isinstance(kind, type)
            and issubclass(kind, Method)
            and kind.__module__ == module.__name__
        ]
        if len(own) != 1:
            raise refuse(module, f"it must define one Method, not {len(own)}")
        _, *others = inspect.signature(own[0]).parameters.values()
        if any(other.kind is not other.KEYWORD_ONLY for other in others):
            raise refuse(module, "behind the model its arguments must be keyword-only: after a `*`")
        found[name] = own[0]
    return found


def build(name: str, model: Classifier, **hyperparameters) -> Method:
    """The method `name` around `model`. Errors: TypeError for a hyperparameter it does not have."""
    return classes()[name](model, **hyperparameters)
