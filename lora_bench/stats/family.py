"""Multiple comparisons: error levels that hold for a whole table.

A family is every comparison in a table; the caller lists them all, including those that could not be computed. There are two
kinds of claims, and each kind has an error of at most alpha over the whole family:

* *differences* (better, worse): Holm's procedure on the two-sided p-values. Holm 1979, https://www.jstor.org/stable/4615733
* *margins* (equivalent, non-inferior): each comparison has two null hypotheses, that the difference is at least the margin in
  one direction or the other. At most one can be true, so Holm's levels count comparisons and not hypotheses (Shaffer 1986,
  https://doi.org/10.1080/01621459.1986.10478341). A comparison leaves the count once both are rejected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.stats.items import Floats


@dataclass(frozen=True, kw_only=True)
class Adjusted:
    """Result of Holm's procedure for one comparison of a family.

    Args:
        p_value: Adjusted p-value: the least alpha at which this comparison is rejected. None if it has no p-value.
        level: Error level of its test: alpha over the number of comparisons not rejected before it. The interval at
            confidence 1 − level leaves out zero exactly if the comparison is rejected.
    """

    p_value: float | None
    level: float


@dataclass(frozen=True, kw_only=True)
class MarginClaims:
    """Adjusted p-values of claims that a difference is above −margin, below +margin, and both; None without a p-value.

    *level* is the one-sided error level at which this comparison was tested, as in `Adjusted`.
    """

    above: float | None
    below: float | None
    within: float | None
    level: float


def holm(p_values: Sequence[float | None], alpha: float) -> list[Adjusted]:
    """Apply Holm's procedure to a family, with a p-value for each comparison; None counts as 1.

    Raise LoraBenchError if a p-value is not a probability.
    """
    adjusted, levels = holm_arrays(np.array(_known(p_values)), alpha)
    return [
        Adjusted(p_value=None if p is None else value, level=level)
        for p, value, level in zip(p_values, adjusted.tolist(), levels.tolist(), strict=True)
    ]


def holm_arrays(p_values: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the adjusted p-values and levels of `holm`, for p-values that are all known."""
    order, number = np.argsort(p_values, kind="stable"), np.arange(len(p_values))
    ascending = p_values[order]
    reached = np.maximum.accumulate(np.minimum(1.0, (len(number) - number) * ascending))
    # After the first comparison that is not rejected, none is: all were tested at one level. So are equal p-values.
    rejected = np.minimum(np.searchsorted(ascending, ascending), (reached <= alpha).sum())
    adjusted, levels = np.empty(len(number)), np.empty(len(number))
    adjusted[order], levels[order] = reached, alpha / (len(number) - rejected)
    return adjusted, levels


def margin_claims(above: Sequence[float | None], below: Sequence[float | None], alpha: float) -> list[MarginClaims]:
    """Apply Holm's procedure to the two hypotheses of each comparison of a family, at the one-sided level *alpha* in (0, 0.5).

    *above* and *below* are one-sided p-values of the claims that differences are above −margin and below +margin; None if
    unknown. Raise LoraBenchError if a p-value is not a probability.
    """
    if not above:
        return []
    both = [None if p is None or q is None else max(p, q) for p, q in zip(above, below, strict=True)]
    within = holm(both, alpha)
    # A comparison proven to be within at the level α frees its share: at stage k, with k of them proven, the others are
    # tested at α / (family − k), which an adjusted p-value reaches where both the stage and its own test do.
    stages = np.array([0.0, *sorted(1.0 if one.p_value is None else one.p_value for one in within)][: len(both)])
    left = len(both) - np.arange(len(both))

    def adjusted(p: float | None) -> float | None:
        if p is None:
            return None
        return min(1.0, float(np.maximum(stages, p * left).min()))

    return [
        MarginClaims(above=adjusted(p), below=adjusted(q), within=one.p_value, level=one.level)
        for p, q, one in zip(above, below, within, strict=True)
    ]


def _known(p_values: Sequence[float | None]) -> list[float]:
    known = [1.0 if p is None else p for p in p_values]
    for p in known:
        if not 0 <= p <= 1:
            raise LoraBenchError(f"{p} is no p-value; expected a number from 0 to 1")
    return known
