"""What several seeds say together: a mean and its interval."""

import math
import statistics
from dataclasses import dataclass

from scipy import special  # scipy.stats would take a second to import

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """mean over `values`, one a seed. half_width: of the 95 % t interval, None for a single
    seed."""

    values: list[float]
    mean: float
    half_width: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}{self.spread}"

    @property
    def spread(self) -> str:
        return "" if self.half_width is None else f" ± {self.half_width:.4f}"


def estimate(values: list[float]) -> Estimate:
    """Mean and Student's t interval of independent seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(values, mean, None)
    quantile = special.stdtrit(len(values) - 1, (1 + _CONFIDENCE) / 2)
    return Estimate(
        values, mean, float(quantile * statistics.stdev(values) / math.sqrt(len(values)))
    )
