"""How large every backbone is on small colour images; writes docs/backbones.md.

    python -m benchmarks.backbones

Shapes alone are computed (on torch's meta device), so the table is the same on every machine.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables import models

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
CLASSES, CHANNELS, SIDE = 100, 3, 32

INTRODUCTION = f"""# Backbones

`python -m benchmarks.backbones` writes this page: every backbone for {CLASSES} classes of colour
images of {SIDE}x{SIDE}, with the `small` stem where it has two. Multiply-adds are those of the
convolutions and linear layers for one image: half of what `torch.utils.flop_counter` counts. The
last columns have one number a stage: the channels and the side of the map after it.

| backbone | parameters | multiply-adds | channels | side |
|---|---|---|---|---|
"""


def main() -> None:
    PAGE.write_text(text())


def text() -> str:
    """The page."""
    return INTRODUCTION + "".join(_row(measure(name)) for name in sorted(models.builders()))


@dataclass(frozen=True)
class Measures:
    """Of one backbone; channels and sides are those of the map after each stage."""

    name: str
    parameters: int
    multiply_adds: int
    channels: tuple[int, ...]
    sides: tuple[int, ...]


def measure(name: str) -> Measures:
    with torch.device("meta"):
        model = models.build(name, CLASSES, (CHANNELS, SIDE, SIDE)).eval()
        images = torch.zeros(1, CHANNELS, SIDE, SIDE)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = model.features(images)
        model.head(maps[-1])
    return Measures(
        name,
        sum(parameter.numel() for parameter in model.parameters()),
        counter.get_total_flops() // 2,
        tuple(found.shape[1] for found in maps),
        tuple(found.shape[-1] for found in maps),
    )


def _row(found: Measures) -> str:
    cells = [
        f"`{found.name}`",
        f"{found.parameters / 1e6:.3f} M",
        f"{found.multiply_adds / 1e6:.1f} M",
        ", ".join(map(str, found.channels)),
        ", ".join(map(str, found.sides)),
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
