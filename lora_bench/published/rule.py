"""The rule that turns our scores and a published number into a word, on plain numbers: docs/published.md#verdicts.

*Reproduced* is a cell with equivalence, *not reproduced* one with a difference and no equivalence, *in line* one with
neither. If even a difference of three tolerances could pass for noise, "in line" would say nothing: the cell is *too wide*.
Holm's procedure holds the error level of each of both tests over all cells that are judged together.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_bench.stats import holm
from lora_bench.stats.estimate import student_quantile, student_tail

TOLERANCE = 0.01
WIDEST_TOLERANCES = 3
ALPHA = 0.05
MEDIAN_VARIANCE = math.pi / 2

Word = Literal["reproduced", "in line", "not reproduced", "too wide"]


@dataclass(frozen=True, kw_only=True)
class CellUncertainty:
    """The standard error of a difference from a published value, and its degrees of freedom."""

    error: float
    freedom: float

    @property
    def width(self) -> float:
        """Half-width of the 95 % prediction interval for the published value."""
        return student_quantile(self.freedom, ALPHA / 2) * self.error


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Our value less the published one, with its uncertainty; *rounding* is half of one in the last printed digit."""

    difference: float
    uncertainty: CellUncertainty
    tolerance: float
    rounding: float

    def difference_p(self) -> float:
        """Return the two-sided p-value of no difference."""
        return min(1.0, 2 * self._beyond(abs(self.difference) - self.rounding))

    def equivalence_p(self) -> float:
        """Return the p-value of a difference beyond the tolerance: the larger of two one-sided ones."""
        return self._beyond(self.tolerance - self.rounding - abs(self.difference))

    def _beyond(self, distance: float) -> float:
        """Return the chance that noise alone exceeds a distance."""
        error = self.uncertainty.error
        # Sums of binary fractions miss decimal ones by some 1e-16.
        if abs(distance) < 1e-12:
            return 0.5
        if error == 0:
            return 0.0 if distance > 0 else 1.0
        return student_tail(self.uncertainty.freedom, distance / error)


def words(gaps: Sequence[Gap]) -> list[Word]:
    """Return the word on each cell of those that are judged together."""
    differences = holm([gap.difference_p() for gap in gaps], ALPHA)
    equivalences = holm([gap.equivalence_p() for gap in gaps], ALPHA)

    def word(gap: Gap, difference: float | None, equivalence: float | None) -> Word:
        if equivalence is not None and equivalence <= ALPHA:
            return "reproduced"
        if difference is not None and difference <= ALPHA:
            return "not reproduced"
        return "too wide" if gap.uncertainty.width > WIDEST_TOLERANCES * gap.tolerance else "in line"

    return [
        word(gap, one.p_value, other.p_value) for gap, one, other in zip(gaps, differences, equivalences, strict=True)
    ]


def uncertainty(
    scores: Sequence[float],
    statistic: str,
    *,
    spread: float | None = None,
    seeds: float | None = math.inf,
    starts: int = 0,
) -> CellUncertainty | None:
    """Return the uncertainty of a difference from a published value, or None for fewer than two scores.

    *spread* and *seeds* are of the published value, by default without an error of its own, and *starts* is the number of other
    runs that ours start from. Degrees of freedom are n − 1, or n + m − 2 of pooled spreads.
    """
    n, m = len(scores), seeds or 1
    if n < 2:
        return None
    variance, freedom = statistics.variance(scores), float(n - 1)
    if spread and m > 1:
        freedom = n + m - 2
        variance = ((n - 1) * variance + (m - 1) * spread**2) / freedom
    factor = MEDIAN_VARIANCE if statistic == "median" else 1.0
    shared = 1 / starts + 1 if starts else 0.0
    return CellUncertainty(error=math.sqrt(variance * (factor / n + factor / m + shared)), freedom=freedom)


def combined(tasks: Sequence[Sequence[CellUncertainty | None]]) -> CellUncertainty | None:
    """Return the uncertainty of a mean over independent tasks, by Welch and Satterthwaite; None if one is unknown."""
    known = [[one for one in task if one is not None] for task in tasks]
    if list(map(len, known)) != list(map(len, tasks)):
        return None
    errors = [statistics.fmean(one.error for one in task) for task in known]
    freedoms = [min(one.freedom for one in task) for task in known]
    variance = math.fsum(error**2 for error in errors)
    spread = math.fsum(error**4 / freedom for error, freedom in zip(errors, freedoms, strict=True))
    freedom = variance**2 / spread if spread else min(freedoms)
    return CellUncertainty(error=math.sqrt(variance) / len(errors), freedom=freedom)
