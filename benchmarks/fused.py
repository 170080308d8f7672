"""K trials as one batched network, a prototype: what `search.fuse: K` would gain.

    python -m benchmarks.fused [--models resnet20] [--together 2 4] [--rounds 5] [--steps N]
                               [--output FILE]

Loss weight, learning rate and weight decay do not change a network's shape, so K trials of one
backbone can be one: weights stacked, `torch.func.vmap` over them, batch norm included, every batch
of data made once. The trials here are Tf-KD_reg, each with a weight, rate, decay and seed of its
own. Side by side, on the same batches of 128 images of 32x32, in turn in another order every round:
  fused      K trials in one step
  in turn    the same K trials, one step each, one after the other
  processes  K processes that train one trial each at the same time (on a GPU: they share it,
             through CUDA MPS where it can be started; the other two train without it)
The figure is images/s in sum; a ratio compares two figures of the same round. First it is shown
that after three steps in float64 the fused trials are where the separate ones are. bfloat16 by
autocast where the device has it, but for the fused trials' batch norm, else float32. --steps: of a
round, 2 on a CPU, 50 on a GPU.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.pages import head, spread
from skdtune import mps
from trainables import models
from trainables.losses import cross_entropy, distillation
from trainables.training import _dtype

BATCH, CLASSES, SIDE, MOMENTUM, TEMPERATURE = 128, 100, 32, 0.9, 20.0
BAR = 1.5
Batch = tuple[Tensor, Tensor]


class Trials:
    """K trials of one backbone. weights: of the regularizer, rates, decays: [K]."""

    def __init__(self, model: str, seeds: list[int], device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            network = models.build(model, classes=CLASSES, image_shape=(3, SIDE, SIDE)).train()
            kind = torch.float64 if dtype is torch.float64 else torch.float32
            self.networks.append(network.to(device, kind, memory_format=torch.channels_last))
        spread = torch.tensor(seeds, device=device, dtype=torch.float32)
        self.weights, self.rates, self.decays = 0.1 + spread / 50, 0.01 + spread / 500, spread / 1e4

    def loss(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        # [B, K], [B], scalar -> scalar
        others = 0.01 / (CLASSES - 1)
        is_right = labels[:, None] == torch.arange(CLASSES, device=labels.device)
        virtual = torch.where(is_right, 0.99, others)  # methods' own scatter has no rule for vmap
        reg = distillation(logits, virtual / TEMPERATURE, 1.0)
        return (1 - weight) * cross_entropy(logits, labels) + weight * reg

    def cast(self) -> torch.autocast:
        is_low = self.dtype is torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_low)


class InTurn(Trials):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.optimizers = [
            torch.optim.SGD(
                network.parameters(), rate, momentum=MOMENTUM, weight_decay=decay, fused=True
            )
            for network, rate, decay in zip(
                self.networks, self.rates.tolist(), self.decays.tolist(), strict=True
            )
        ]

    def step(self, batch: Batch) -> None:
        images, labels = batch
        for network, sgd, weight in zip(
            self.networks, self.optimizers, self.weights.unbind(), strict=True
        ):
            with self.cast():
                logits = network(images)
            sgd.zero_grad(set_to_none=True)
            self.loss(logits, labels, weight).backward()
            sgd.step()

    def state(self) -> dict[str, Tensor]:
        names = self.networks[0].state_dict()
        states = [network.state_dict() for network in self.networks]
        return {name: torch.stack([state[name] for state in states]) for name in names}


class Fused(Trials):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        if self.dtype is torch.bfloat16:  # vmap's batch norm takes no mixture of precisions
            for module in self.networks[0].modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.register_forward_pre_hook(lambda _, given: (given[0].float(),))
        self.parameters, self.buffers = stack_module_state(self.networks)
        self.parameters = {name: value.detach() for name, value in self.parameters.items()}
        values = list(self.parameters.values())
        self.momenta = [torch.zeros_like(value) for value in values]
        # of the same sizes, else torch goes through them one by one
        self.every_decay = [_beside(self.decays, value) for value in values]
        self.every_rate = [_beside(self.rates, value) for value in values]
        skeleton = self.networks[0]

        def loss(parameters, buffers, weight, images, labels):
            with self.cast():
                logits = functional_call(skeleton, (parameters, buffers), (images,))
            return self.loss(logits, labels, weight)

        self.gradients = vmap(grad(loss), in_dims=(0, 0, 0, None, None))

    def step(self, batch: Batch) -> None:
        found = self.gradients(self.parameters, self.buffers, self.weights, *batch)
        values = list(self.parameters.values())
        steps = torch._foreach_mul(values, self.every_decay)
        torch._foreach_add_(steps, list(found.values()))
        torch._foreach_mul_(self.momenta, MOMENTUM)
        torch._foreach_add_(self.momenta, steps)
        torch._foreach_sub_(values, torch._foreach_mul(self.momenta, self.every_rate))

    def state(self) -> dict[str, Tensor]:
        return {**self.parameters, **self.buffers}


def _beside(per_trial: Tensor, value: Tensor) -> Tensor:
    """A number a trial, as often as the trial has values.  # [K], [K, ...] -> [K, ...]"""
    every = torch.empty_like(value)
    return every.copy_(per_trial.view(-1, *[1] * (value.dim() - 1)).expand_as(value))


def main(arguments: list[str]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet20"])
    parser.add_argument("--together", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50 if device.type == "cuda" else 2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    dtype = _dtype("auto", device)
    note = (
        f"{dtype}, batch {BATCH}, 32x32, n = {options.rounds} rounds of {options.steps} steps; "
        f"median (least to most). Bar: fused at least {BAR} times the processes, on a GPU."
    )
    lines = [
        *head("Fused trials, a prototype", "fused", arguments, note),
        "| network | K | fused, images/s | in turn | processes | fused to in turn "
        "| fused to processes |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in options.models:
        print(f"{model}: fused and separate differ by {difference(model):.1e}", file=sys.stderr)
        for count in options.together:
            with mps.serving(device.type == "cuda") as served:
                found = _measure(model, count, options.rounds, options.steps, device, dtype)
            cells = [spread(found[name], 0) for name in ("fused", "in turn", "processes")]
            for rival in ("in turn", "processes"):
                pairs = zip(found["fused"], found[rival], strict=True)
                cells.append(spread([mine / theirs for mine, theirs in pairs], 2))
            lines.append(f"| {model} | {count} | {' | '.join(cells)} |")
    if device.type == "cuda":
        lines += ["", mps.note(served)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


def difference(model: str, steps: int = 3) -> float:
    """The largest difference between two fused trials and the same two in turn, on the CPU in
    float64, relative to the largest value of each tensor."""
    device = torch.device("cpu")
    kinds = [kind(model, [0, 1], device, torch.float64) for kind in (Fused, InTurn)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images = torch.randn(8, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        batch = images, torch.randint(CLASSES, (8,), generator=generator)
        for trials in kinds:
            trials.step(batch)
    fused, separate = (trials.state() for trials in kinds)
    return max(
        ((fused[name] - value).abs().max() / value.abs().max()).item()
        for name, value in separate.items()
        if value.is_floating_point()
    )


def _measure(
    model: str, count: int, rounds: int, steps: int, device: torch.device, dtype: torch.dtype
) -> dict[str, list[float]]:
    """Images a second in sum, by name, round by round."""
    seeds = list(range(count))
    fused, separate = (kind(model, seeds, device, dtype) for kind in (Fused, InTurn))
    pool = _Processes(model, count, steps, device, dtype)
    ways = {
        "fused": lambda: run(fused, steps),
        "in turn": lambda: run(separate, steps),
        "processes": pool.run,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for round_ in range(rounds + 1):
            for name in sorted(ways, key=lambda name: (len(name) * (round_ + 1)) % 7):
                seconds = ways[name]()
                if round_:  # the first warms up
                    found[name].append(count * steps * BATCH / seconds)
    finally:
        pool.close()
    return found


def run(trials: Trials, steps: int) -> float:
    """Seconds of so many steps."""
    generator = torch.Generator(trials.device).manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=trials.device, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), device=trials.device, generator=generator)
    batch = images.contiguous(memory_format=torch.channels_last), labels
    _finish(trials.device)
    began = time.perf_counter()
    for _ in range(steps):
        trials.step(batch)
    _finish(trials.device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class _Processes:
    """K processes that train when told to, all at the same time, and share the CPU's threads."""

    def __init__(self, model: str, count: int, steps: int, device, dtype):
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // count)
        self.ends = []
        self.running = []
        for seed in range(count):
            mine, theirs = context.Pipe()
            arguments = (theirs, model, seed, steps, device, dtype, threads)
            self.running.append(context.Process(target=_serve, args=arguments, daemon=True))
            self.running[-1].start()
            self.ends.append(mine)

    def run(self) -> float:
        began = time.perf_counter()
        for end in self.ends:
            end.send("run")
        for end in self.ends:
            end.recv()
        return time.perf_counter() - began

    def close(self) -> None:
        for end in self.ends:
            end.close()
        for process in self.running:
            process.join(30)


def _serve(pipe, model: str, seed: int, steps: int, device, dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    trials = InTurn(model, [seed], device, dtype)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(run(trials, steps))


if __name__ == "__main__":
    main(sys.argv[1:])
