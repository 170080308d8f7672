"""LightSKD: reverse guidance from a shallow head (DRG) and shape-wise regularization (DSR)."""

from typing import Literal

from torch import Tensor

from trainables.auxiliary import AuxiliaryHead
from trainables.bounds import Count, NonNegative, Positive
from trainables.losses import cross_entropy, distillation
from trainables.methods import Method
from trainables.models import Classifier


class DrgDsr(Method):
    """arXiv:2305.09183, as its released code computes it (train.py, lines 85 to 106).

        L = CE(z, y)
            + aux_weight * CE(a, y) + alpha * T^2 KL(softmax(a / T) || softmax(z / T))      [DRG]
            + beta * T^2 KL(softmax(sort(z') / T) || softmax(sort(z) / T))                  [DSR]

    z: final logits; a: logits of an auxiliary head on the map after `stage`; z': final logits of
    the previous batch of the same epoch, row by row. Teachers (a, z') carry no gradient; CE(a, y)
    trains the head and the stages up to its tap. The head is dropped for inference.

    Deviations from the released code, each a mended bug: DRG and DSR have temperatures of their
    own and use the one they are given (there: 4, whatever was asked); the constant 100 is not
    added to the loss; variant `dsr` trains no auxiliary head (there its CE stays on, so "both
    off" is deep supervision and not cross entropy); DSR keeps the sorted logits, detached;
    batches of unequal size are compared on the rows they share.

    alpha: weight of the guidance. beta: weight of the shape term. aux_weight: weight of the
    auxiliary cross entropy (1, hard-coded, in the code). stage: 1-based, the map that the head
    taps (the authors use 2 in every backbone). carry_across_epochs: the first batch of an epoch
    follows the last batch of the one before it (the authors: not). Errors: ValueError for a
    stage that the backbone has not."""

    def __init__(
        self,
        model: Classifier,
        *,
        variant: Literal["drg", "dsr", "drg_dsr"] = "drg_dsr",
        alpha: NonNegative = 0.2,
        drg_temperature: Positive = 4.0,
        aux_weight: NonNegative = 1.0,
        stage: Count = 2,
        beta: NonNegative = 1.0,
        dsr_temperature: Positive = 4.0,
        carry_across_epochs: bool = False,
    ):
        super().__init__(model)
        if not 1 <= stage <= len(model.stages):
            raise ValueError(
                f"method.stage: {stage} is no stage of this backbone (1 to {len(model.stages)})"
            )
        self.alpha, self.drg_temperature, self.aux_weight = alpha, drg_temperature, aux_weight
        self.beta, self.dsr_temperature = beta, dsr_temperature
        self.carry_across_epochs = carry_across_epochs
        self.tap = stage - 1
        self.auxiliary = (
            None if variant == "dsr" else AuxiliaryHead(model.widths[self.tap :], model.classes)
        )
        self.shape_wise = variant != "drg"
        self.previous: Tensor | None = None  # the last batch's sorted logits, [B, K]

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        features = self.model.features(images)
        logits = self.model.classify(features[-1])
        terms = {"ce": cross_entropy(logits, labels)}
        if self.auxiliary is not None:
            shallow = self.auxiliary(features[self.tap])
            terms["aux_ce"] = self.aux_weight * cross_entropy(shallow, labels)
            terms["drg"] = self.alpha * distillation(logits, shallow, self.drg_temperature)
        if self.shape_wise:
            shape = logits.sort(dim=1).values
            if self.previous is not None:
                rows = min(len(shape), len(self.previous))
                terms["dsr"] = self.beta * distillation(
                    shape[:rows], self.previous[:rows], self.dsr_temperature
                )
            self.previous = shape.detach()
        return logits, terms

    def start_epoch(self) -> None:
        if not self.carry_across_epochs:
            self.previous = None

    def get_extra_state(self) -> dict:
        return {"previous": self.previous}

    def set_extra_state(self, state: dict) -> None:
        previous = state["previous"]
        device = next(self.model.parameters()).device
        self.previous = None if previous is None else previous.to(device)
