"""Teacher-free KD by regularization: a virtual teacher that is always right."""

from typing import Literal

from torch import Tensor

from trainables.bounds import Fraction, Positive
from trainables.losses import cross_entropy, distillation, smoothed
from trainables.methods import Method
from trainables.models import Classifier

_CORRECT = (
    0.99  # the virtual teacher's probability of the right class, as in the paper and the code
)


class TfKdReg(Method):
    """arXiv:1909.11723, equation 9 (Tf-KD_reg), with one weight in place of two.

        L = (1 - eps) * CE(z, y) + eps * KL(v || softmax(z))                          [code]
        L = (1 - eps) * CE(z, y) + eps * T^2 KL(v || softmax(z / T))                  [paper]
        v = softmax(p / T),  p_y = 0.99,  p_k = 0.01 / (K - 1) for every other class k

    z: logits; y: label; K: classes. v is the softmax over probabilities, not logits, as the
    released code has it (`loss_kd_regularization`), hence almost even: with 100 classes 0.0105
    for the right one at T = 20. From T = 10 on the temperature of form `code` is nearly dead
    (0.0110 at T = 10, 0.0102 at T = 40), and the term is label smoothing up to a tilt.

    The authors weigh (1 - a) * CE + a * (m / K) * KL, their code averaging the divergence over
    all N * K elements. That is s times this loss, s = (1 - a) + a * m / K and
    eps = (a * m / K) / s, and s acts on the learning rate alone (relative to the weight decay):
    eps is 0.1 for their ResNet18 (s = 1), 0.16 for MobileNetV2 and ShuffleNetV2 (s = 0.06), 0.053
    for GoogLeNet (s = 0.95). Tune the learning rate with it.

    Deviations: the mean over the batch (see above). Form `paper` tempers the student too, as
    equation 9 does and the released code does not; its divergence is multiplied by T^2, so that
    the temperature does not act as a weight. Equation 9 as printed is s = 1 - a + a / T^2 times
    this loss, eps = (a / T^2) / s.

    eps: weight of the divergence. form: whether the student is tempered."""

    def __init__(
        self,
        model: Classifier,
        *,
        eps: Fraction = 0.1,
        form: Literal["code", "paper"] = "code",
        temperature: Positive = 20.0,
    ):
        super().__init__(model)
        self.eps, self.form, self.temperature = eps, form, temperature

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        logits = self(images)
        virtual = smoothed(labels, 1 - _CORRECT, logits)
        if self.form == "paper":
            divergence = distillation(logits, virtual, self.temperature)
        else:
            divergence = distillation(logits, virtual / self.temperature, 1.0)
        return logits, {
            "ce": (1 - self.eps) * cross_entropy(logits, labels),
            "reg": self.eps * divergence,
        }
