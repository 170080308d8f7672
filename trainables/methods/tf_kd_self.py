"""Teacher-free KD by self-training: the teacher is the same network, trained by itself before."""

from trainables.bounds import Fraction, Positive
from trainables.models import Classifier
from trainables.teachers import Taught


class TfKdSelf(Taught):
    """arXiv:1909.11723, section 5.1 (Tf-KD_self), as its released code computes it
    (`loss_kd_self`); the equation is that of `Taught`.

    teacher: folder or URI of a model of the same architecture that `skdtune.train` wrote; without
    one a search takes its own cross-entropy baseline, trained first, and `skdtune.train` trains
    one. The defaults are the authors' for ResNet18 on CIFAR-100: with 100 classes 0.05 of CE
    beside 0.475 of KL, which lowers the loss and so the learning rate. Their other settings lie
    between 0.0095 and 0.9 of KL. No deviation."""

    def __init__(
        self,
        model: Classifier,
        *,
        teacher: str | None = None,
        alpha: Fraction = 0.95,
        temperature: Positive = 6.0,
        multiplier: Positive | None = 50.0,
    ):
        super().__init__(model, teacher, alpha, temperature, multiplier)
