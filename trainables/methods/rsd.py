"""Restructured self-distillation: a network of multi-branch blocks learns from itself with all its
branches, from dropped and mixed to whole."""

import contextlib
from typing import Annotated, Literal

import torch
from torch import Tensor

from trainables.bounds import Bounds, NonNegative, Positive
from trainables.losses import cross_entropy, distillation
from trainables.methods import Method
from trainables.models import Classifier
from trainables.multibranch import Drop, dropping, merged, restructure, statistics_kept

DropRate = Annotated[float, Bounds(at_least=0, below=1)]


class Rsd(Method):
    """RSD (doi:10.1109/TIP.2024.3463421), as its released code computes it (RSD_cifar100.py).

        L = alpha * (CE(o_s, y) + CE(o_t, y) + M(o_ms) + M(o_mt))
            + beta * (KD(o_s <- o_t) + KD(o_ms <- o_mt))
        M(o) = share * CE(o, y) + (1 - share) * CE(o, y[order])
        KD(s <- t) = T^2 KL(softmax(t / T) || softmax(s / T))

    One network, its 3x3 and 5x5 convolutions replaced by blocks of five branches. The student (o_s)
    is a pass with branches dropped, the teacher (o_t) a pass with all of them. After a stage drawn
    for each batch the teacher's map f_t is mixed with itself and with the student's map f_s,

        m_t = share * f_t + (1 - share) * f_t[order],  m_s = share * f_t + (1 - share) * f_s[order],

    one share ~ Beta(mix_alpha, mix_alpha) a batch, and both go on through the teacher's later
    stages to o_mt and o_ms. All branches are evaluated; merged into the plain backbone they ship.

    Deviations from the released code. Mended: in its ResNet and VGG blocks as first released
    (models/ambb.py before commit a677900) nothing is dropped, so m_s is m_t and the second KD is 0;
    here all blocks drop, each image and branch on its own, as in its DenseNet and in that commit.
    `statistics`: there every pass updates the running statistics that evaluation uses, and f_t,
    m_t, m_s are normalised as one batch (`all`); with `clean` f_t is normalised by itself and alone
    updates them, m_t and m_s are one batch and the student's another, and a run with that default
    is not called the authors' own. Ours: the map after the stem is no mixing point, as a backbone's
    first stage includes it.

    alpha, beta: weights; only their ratio matters beside the learning rate. temperature: T.
    drop_rate, drop_mode, force_keep_one: chance of a branch to be dropped, drawn for each image or
    for the batch, and whether a block always keeps one (the authors: not). detach_teacher: no
    gradient of KD reaches its teacher (the authors: it does). Errors: ValueError for a backbone
    without a 3x3 or 5x5 convolution."""

    has_authors_defaults = False

    def __init__(
        self,
        model: Classifier,
        *,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 1.0,
        temperature: Positive = 3.0,
        drop_rate: DropRate = 0.2,
        drop_mode: Literal["sample", "batch"] = "sample",
        force_keep_one: bool = False,
        mix_alpha: Positive = 2.0,
        detach_teacher: bool = False,
        statistics: Literal["clean", "all"] = "clean",
    ):
        super().__init__(model)
        restructure(model)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.drop = Drop(drop_rate, drop_mode, force_keep_one)
        self.mix_alpha = mix_alpha
        self.detach_teacher = detach_teacher
        self.clean = statistics == "clean"

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # [B, C, H, W], [B] -> [B, K], {name: scalar}
        stage, share = self._draw()
        order = torch.randperm(len(images), device=images.device)
        with dropping(self.model, self.drop), self._own_batch():
            maps = self.model.features(images)
            student, student_map = self.model.classify(maps[-1]), maps[stage]
        teacher_map = images
        for part in self.model.stages[: stage + 1]:
            teacher_map = part(teacher_map)
        # lerp(a, b, share) is a + share * (b - a)
        mixtures = [
            torch.lerp(other[order], teacher_map, share) for other in (teacher_map, student_map)
        ]
        if self.clean:
            teacher = self._rest(teacher_map, stage)
            with self._own_batch():
                mixed_teacher, mixed_student = self._rest(torch.cat(mixtures), stage).chunk(2)
        else:
            logits = self._rest(torch.cat([teacher_map, *mixtures]), stage)
            teacher, mixed_teacher, mixed_student = logits.chunk(3)
        terms = self.terms(student, teacher, mixed_student, mixed_teacher, labels, order, share)
        return teacher, terms

    def terms(
        self,
        student: Tensor,
        teacher: Tensor,
        mixed_student: Tensor,
        mixed_teacher: Tensor,
        labels: Tensor,
        order: Tensor,
        share: float,
    ) -> dict[str, Tensor]:
        """The weighted loss terms of the four logits. order: which image each was mixed with;
        share: its own part.  # 4 x [B, K], [B], [B], scalar -> {name: scalar}"""

        def mixed(logits: Tensor) -> Tensor:
            own, others = cross_entropy(logits, labels), cross_entropy(logits, labels[order])
            return share * own + (1 - share) * others

        def divergence(pupil: Tensor, by: Tensor) -> Tensor:
            return distillation(pupil, by, self.temperature, detach=self.detach_teacher)

        return {
            "ce": self.alpha * cross_entropy(teacher, labels),
            "student_ce": self.alpha * cross_entropy(student, labels),
            "mixed_ce": self.alpha * mixed(mixed_teacher),
            "mixed_student_ce": self.alpha * mixed(mixed_student),
            "kd": self.beta * divergence(student, teacher),
            "mixed_kd": self.beta * divergence(mixed_student, mixed_teacher),
        }

    def deploy(self) -> Classifier:
        return merged(self.model)

    def _draw(self) -> tuple[int, float]:
        """A stage to mix after and the share of the image itself; on the CPU, to wait for no
        device."""
        stage = torch.randint(len(self.model.stages), (), device="cpu")
        shape = torch.tensor(self.mix_alpha, device="cpu")
        return stage.item(), torch.distributions.Beta(shape, shape).sample().item()

    def _own_batch(self) -> contextlib.AbstractContextManager:
        return statistics_kept(self.model) if self.clean else contextlib.nullcontext()

    def _rest(self, maps: Tensor, stage: int) -> Tensor:
        """Logits from the maps after a stage on."""
        later = self.model.features(maps, start=stage + 1)
        return self.model.classify(later[-1] if later else maps)
