"""Knowledge distillation from a chosen teacher: normal KD, Re-KD or De-KD by what it is."""

from trainables.bounds import Fraction, Positive
from trainables.models import Classifier
from trainables.teachers import Taught


class Kd(Taught):
    """Hinton et al. 2015 (arXiv:1503.02531), in the form of arXiv:1909.11723, section 3; the
    equation is that of `Taught`.

    A larger teacher is normal KD, a weaker one Re-KD, a poorly trained one De-KD.

    teacher: folder or URI of a model that `skdtune.train` wrote; without one the student's twin,
    trained by itself: a search takes its own baseline, `skdtune.train` trains one. multiplier: 1
    is the released code of arXiv:1909.11723 (`loss_kd`; alpha 0.6 or 0.95, temperature 20), which
    leaves the teacher next to nothing to say: with 100 classes 0.006 of KL beside 0.4 of CE.
    Deviation: the default takes the mean over the batch, for which alpha 0.5 and temperature 4
    are common."""

    has_authors_defaults = False

    def __init__(
        self,
        model: Classifier,
        *,
        teacher: str | None = None,
        alpha: Fraction = 0.5,
        temperature: Positive = 4.0,
        multiplier: Positive | None = None,
    ):
        super().__init__(model, teacher, alpha, temperature, multiplier)
