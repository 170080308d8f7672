"""The one training loop: any backbone, any method, one dictionary of metrics an epoch."""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from trainables import batches, convolutions, memory, methods, metrics, models
from trainables import data as image_data
from trainables.augment import Augment
from trainables.bounds import Count, CountOrZero
from trainables.checkpoint import Checkpoints
from trainables.compiling import compile_parts
from trainables.evaluation import evaluate
from trainables.optim import build as build_optimizer

_LOOK_EVERY_S = 30.0  # for a loss that is no longer finite, within an epoch


class Diverged(ArithmeticError):
    """The loss or a score is no longer a finite number."""


class Training:
    """One training run, from a config's sections to a trained method.

    data, augment, model, method, optim: sections for the builders of those names. seed: of the
    weights, the order of the images and the augmentation; each epoch's randomness depends on the
    seed and the epoch alone, so a resumed run equals the unbroken one. precision: of convolutions
    and matrix products in training and validation; `auto` is bfloat16 where the device has it in
    hardware. Logits and losses are float32 in any case, and all of the network is when the test set
    is scored for the result, after the last epoch, as it ships. channels_last: the memory layout of
    images and weights. compile: the backbone and the auxiliary heads with torch.compile
    (`compile_parts`); the first step of a process then takes a minute or more.
    final: train on train and validation together and score the test set."""

    def __init__(
        self,
        *,
        data: dict,
        model: dict,
        method: dict,
        optim: dict | None = None,
        epochs: Count,
        augment: dict | None = None,
        seed: CountOrZero = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        channels_last: bool = True,
        compile: bool = False,
        final: bool = False,
        device: torch.device | None = None,
    ):
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.seed, self.total_epochs = seed, epochs
        self.split = metrics.TEST if final else metrics.VALIDATION
        self.sets = image_data.build(**data, final=final, device=self.device)
        self.augment = Augment(max(self.sets.image_shape[1:]), **(augment or {}))
        self.dtype = _dtype(precision, self.device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(_derived_seed(seed, "weights"))
            backbone = models.build(
                classes=len(self.sets.classes), image_shape=self.sets.image_shape, **model
            )
            self.method = methods.build(model=backbone, **method)
        self.method.to(self.device, memory_format=self.memory_format)
        self.method.start_training(
            methods.Task(len(self.sets.train), epochs, self.sets.mean, self.sets.std)
        )
        self._convolutions: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.dtype is torch.bfloat16:
            self._convolutions = convolutions.fitting(self.method, self.device, not compile)
        if compile:
            compile_parts(self.method)
        self.optimizer = build_optimizer(self.method.parameters(), epochs, **(optim or {}))
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self._beat: Callable[[], None] = lambda: None

    def epochs(
        self, checkpoints: Checkpoints | None = None, beat: Callable[[], None] | None = None
    ) -> Iterator[dict[str, float]]:
        """Trains to the end and yields the metrics of every epoch, first those that a checkpoint
        holds.

        checkpoints: where to resume from and where to save after an epoch, before it is yielded:
            after the last one, and after each of the others unless saving would take too much of
            the time.
        beat: called after each batch, trained or scored.
        Errors: `Diverged` in the epoch in which a loss stops being finite, at most half a minute
        later.
        """
        self._beat = beat or self._beat
        if self.sets.loader is not None:
            self.sets.loader.beat = self._beat
        if checkpoints:
            self.resume(checkpoints)
        yield from list(self.history)
        with contextlib.closing(self.sets):
            while self.epoch < self.total_epochs:
                with _exact_convolutions():
                    report = self._one_epoch()
                self.history.append(report)
                is_last = self.epoch == self.total_epochs
                if checkpoints and (is_last or checkpoints.is_due):
                    checkpoints.save(self.epoch, self._state())
                yield report

    @property
    def place(self) -> str:
        """The device and the number format of its convolutions, which another machine may not
        have: `NVIDIA H100 80GB HBM3, bfloat16`."""
        is_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if is_gpu else "CPU"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"

    def resume(self, checkpoints: Checkpoints) -> None:
        """Goes to where the newest whole checkpoint was saved; stays where it is without one."""
        state = checkpoints.latest()
        if state is None:
            return
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history = state["epoch"], state["history"]

    def _one_epoch(self) -> dict[str, float]:
        started = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(_derived_seed(self.seed, f"{self.epoch}/method"))  # what it draws
            epoch_seed = _derived_seed(self.seed, self.epoch)
            generator = torch.Generator(self.device).manual_seed(epoch_seed)
            report, images = self._train(generator)
        trained = time.perf_counter()
        self._must_be_finite(report)
        scores = self._scores()
        self._must_be_finite(scores)
        self.epoch += 1
        return {
            metrics.EPOCH: self.epoch,
            **report,
            **scores,
            metrics.EPOCH_SECONDS: time.perf_counter() - started,
            metrics.IMAGES_PER_SECOND: images / (trained - started),
            metrics.PEAK_MEMORY: self._peak_memory_gib(),
            metrics.TIMESTAMP: time.time(),
        }

    def _must_be_finite(self, report: dict[str, float]) -> None:
        bad = [name for name, value in report.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"not finite in epoch {self.epoch + 1}: {', '.join(bad)}")

    def _train(self, generator: torch.Generator) -> tuple[dict[str, float], int]:
        self.method.train()
        self.method.start_epoch()
        sums: dict[str, Tensor] = {}
        seen = done = 0
        looked = time.monotonic()
        steps = max(1, len(self.sets.train) // self.sets.batch_size)
        for images, labels, indices in batches.training(
            self.sets, self.augment, self.method.companion, generator
        ):
            inputs = images.contiguous(memory_format=self.memory_format)
            self.method.start_batch(indices)
            with self._autocast(), self._convolutions:
                logits, terms = self.method.losses(inputs, labels)
            total = sum(terms.values())
            self.optimizer.step(total, self.epoch + done / steps)
            batch = {metrics.loss_name(name): term.detach() for name, term in terms.items()}
            batch[metrics.LOSS_TOTAL] = total.detach()
            hits = logits.detach().argmax(dim=1) == labels[: len(logits)]
            batch[metrics.TRAIN_ACCURACY] = hits.sum()
            for name, value in batch.items():
                sums[name] = sums[name] + value if name in sums else value
            done += 1
            seen += len(logits)
            self._beat()
            if time.monotonic() - looked > _LOOK_EVERY_S:
                looked = time.monotonic()
                self._must_be_finite(_means(sums, done))
        report = _means(sums, done)
        report[metrics.TRAIN_ACCURACY] *= done / seen
        report[metrics.LEARNING_RATE] = self.optimizer.lr
        return report, seen

    def _scores(self) -> dict[str, float]:
        self.method.eval()

        is_result = self.split == metrics.TEST and self.epoch + 1 == self.total_epochs

        def forward(inputs: Tensor) -> Tensor:
            self._beat()
            with self._autocast(enabled=not is_result):
                return self.method(inputs.contiguous(memory_format=self.memory_format))

        scores = evaluate(forward, batches.evaluation(self.sets))
        return {f"{self.split}/{name}": value for name, value in scores.items()}

    def _state(self) -> dict:
        return {
            "epoch": self.epoch,
            "history": self.history,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _autocast(self, enabled: bool = True) -> torch.autocast:
        enabled = enabled and self.dtype is torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _peak_memory_gib(self) -> float:
        """Of the device's allocator this epoch; on CPU of the process since it began."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return memory.peak() / 2**30


@contextlib.contextmanager
def _exact_convolutions() -> Iterator[None]:
    """float32 is float32: unless told, cuDNN cuts what goes into such a convolution to the 10 bits
    of TensorFloat-32 on newer GPUs."""
    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def _means(sums: dict[str, Tensor], count: int) -> dict[str, float]:
    """Off the device in one go: the only sync of an epoch of less than half a minute."""
    values = torch.stack([value.double() for value in sums.values()]).tolist()
    return {name: value / count for name, value in zip(sums, values, strict=True)}


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def _derived_seed(seed: int, purpose: object) -> int:
    """A seed for one purpose, unrelated to the seeds of others; 63 bits."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
