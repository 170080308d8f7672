"""Main memory: the peak of a trial against a plain training script's, and what K trials on one
machine take together.

    python -m benchmarks.memory [--images 50000] [--steps 10] [--rounds 3] [--output FILE]

Images of 32x32 in an image folder made for the purpose (50,000: the size of CIFAR-100), resnet20,
batch 128, one thread, so many steps and a scoring of a tenth of the images, on the CPU. Each is a
process of its own, and K are started at the same time:
  plain       the least a person writes: the files decoded into one tensor, torch's SGD, float32
  trial       `trainables.training.Training`, which the search runs, with its defaults
  in a worker  the same in a worker process of Ray (K = 1)
Peak: VmHWM when all is done. Together: the sum of the K processes' Pss, in which the kernel divides
what is shared by how many have it, when all are done and none has ended yet. Needs /proc (Linux).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

BATCH, CLASSES, SIDE = 128, 10, 32
KINDS = ("plain", "trial")
TOGETHER = (1, 2, 4)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _child(*options.child, options.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        _make_images(Path(folder), options.images)
        text = _page(Path(folder), options, arguments)
    print(text)
    if options.output:
        options.output.write_text(text)


def plain(root: str, steps: int) -> None:
    """A training script without this project's parts, but for its network."""
    import torch.nn.functional as F
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    from trainables import models

    files = ImageFolder(f"{root}/train", transform=pil_to_tensor)
    pixels = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.tensor(files.targets)
    for row, (image, _) in enumerate(files):
        pixels[row] = image
    held_out = torch.arange(len(pixels)) % 10 == 0
    pixels, labels = pixels[~held_out], labels[~held_out]
    scored = torch.stack([files[row][0] for row in held_out.nonzero()[:, 0].tolist()])
    network = models.build("resnet20", classes=CLASSES, image_shape=(3, SIDE, SIDE))
    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (BATCH,))
        loss = F.cross_entropy(network(pixels[rows] / 255 - 0.5), labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    network.eval()
    with torch.no_grad():
        for part in scored.split(1000):
            network(part / 255 - 0.5)


def trial(root: str, steps: int) -> None:
    """The same by the loop that the search runs; all pixels are looked at, as in an epoch."""
    import dataclasses

    from trainables.images import Images
    from trainables.training import Training

    training = Training(
        data={"name": "imagefolder", "root": root, "image_size": SIDE, "batch_size": BATCH},
        model={"name": "resnet20"},
        method={"name": "cross_entropy"},
        optim={"lr": 0.01},
        epochs=1,
        device=torch.device("cpu"),  # as the plain script
    )
    train = training.sets.train
    train.pixels.max()
    few = Images(train.pixels[: steps * BATCH], train.labels[: steps * BATCH])  # no copy
    training.sets = dataclasses.replace(training.sets, train=few)
    for _ in training.epochs():
        pass


def _child(kind: str, root: str, steps: int) -> None:
    """Trains, says so, and stays until it is told to end."""
    torch.set_num_threads(1)
    {"plain": plain, "trial": trial}[kind](root, steps)
    print("done", flush=True)
    sys.stdin.read()


def _side_by_side(kind: str, count: int, root: Path, steps: int) -> tuple[float, float, float]:
    """(peak of one, all together, of that the images that are shared), in MB."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", kind, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, "--steps", str(steps)], **pipes) for _ in range(count)]
    try:
        if [process.stdout.readline() for process in running] != ["done\n"] * count:
            raise RuntimeError(f"{kind} failed")
        peaks = [_figure(process.pid, "status", "VmHWM") for process in running]
        together = sum(_figure(process.pid, "smaps_rollup", "Pss") for process in running)
        shared = sum(_figure(process.pid, "smaps", "Pss", "/memfd:skdtune") for process in running)
    finally:
        for process in running:
            process.communicate("")
    return statistics.median(peaks), together, shared


def _figure(process: int | str, file: str, name: str, below: str = "") -> float:
    """MB of every row of that name; below: only those that follow a row with these words."""
    total, counts = 0, not below
    for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
        if below and "-" in line.split(" ")[0]:
            counts = below in line
        elif counts and line.startswith(f"{name}:"):
            total += int(line.split()[1])
    return total * 1024 / 1e6


def _in_a_worker(root: Path, steps: int) -> float:
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=1)
    def peak() -> float:
        import trainables.classifier  # noqa: F401 - what a trial's worker has imported

        torch.set_num_threads(1)
        trial(str(root), steps)
        return _figure("self", "status", "VmHWM")

    try:
        return ray.get(peak.remote())
    finally:
        ray.shutdown()


def _page(root: Path, options: argparse.Namespace, arguments: list[str]) -> str:
    from benchmarks.pages import head, spread

    began = time.monotonic()
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    workers = []
    for round_ in range(options.rounds):
        for kind in KINDS[:: -1 if round_ % 2 else 1]:
            for count in TOGETHER:
                figures = _side_by_side(kind, count, root, options.steps)
                found.setdefault((kind, count), []).append(figures)
        workers.append(_in_a_worker(root, options.steps))
    data = 3 * SIDE * SIDE * options.images / 1e6
    note = (
        f"{options.images} images of {SIDE}x{SIDE}: {data:.0f} MB of pixels. n = {options.rounds}; "
        "median (least to most)."
    )
    lines = [
        *head("Memory", "memory", arguments, note),
        "| peak of one process | MB | ratio to plain | bar |",
        "|---|---|---|---|",
    ]
    base = [peak for peak, *_ in found["plain", 1]]
    rows = {kind: [peak for peak, *_ in found[kind, 1]] for kind in KINDS}
    for name, peaks in {**rows, "trial in a worker of Ray": workers}.items():
        ratios = [mine / theirs for mine, theirs in zip(peaks, base, strict=True)]
        met = "met" if statistics.median(ratios) <= 1.05 else "missed"
        bar = f"1.05: {met}" if name != "plain" else ""
        lines.append(f"| {name} | {spread(peaks, 0)} | {spread(ratios, 3)} | {bar} |")
    lines += [
        "",
        "| K together | plain, MB | trials, MB | ratio | images that trials share, MB |",
        "|---|---|---|---|---|",
    ]
    for count in TOGETHER:
        plains, trials, shared = (
            [row[1] for row in found["plain", count]],
            [row[1] for row in found["trial", count]],
            [row[2] for row in found["trial", count]],
        )
        ratios = [mine / theirs for mine, theirs in zip(trials, plains, strict=True)]
        cells = (spread(plains, 0), spread(trials, 0), spread(ratios, 3), spread(shared, 0))
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{time.monotonic() - began:.0f} s in all."]) + "\n"


def _make_images(root: Path, count: int) -> None:
    """Noise, as files that are written and read fast."""
    generator = torch.Generator().manual_seed(0)
    for label in range(CLASSES):
        (root / "train" / str(label)).mkdir(parents=True)
    for start in range(0, count, 10_000):
        size = (min(10_000, count - start), 3 * SIDE * SIDE)
        noise = torch.randint(256, size, dtype=torch.uint8, generator=generator)
        for row, pixels in enumerate(noise, start):
            path = root / "train" / str(row % CLASSES) / f"{row}.ppm"
            path.write_bytes(b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels.numpy().tobytes())
    (root / "test").symlink_to("train")  # never read: a set without it would lose a fifth to one


if __name__ == "__main__":
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    main(sys.argv[1:])
