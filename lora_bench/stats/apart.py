"""Runs that stand apart: whether scores are of two kinds, and what verdicts may then rest on.

Student's t takes scores for normal. Where some runs collapse and others do not, two things go wrong, and each has its rule.

* *False differences.* Of two like methods all runs of one may collapse by chance and none of the other's. The differences are
  then nearly the same, and t is as large as one likes. With rate c this happens to n pairs with probability 2 (c (1 − c))ⁿ, at
  most 2 / 4ⁿ. So a family in which runs stand apart has no p-value below 2 / 4ⁿ (`least_p`).
* *False equivalence.* A method that collapses in a tenth of its runs shows none in n of them with probability .9ⁿ. Until n is
  large no test sees it. So that probability is a p-value of its own for every claim of a margin (`unseen`).

Whether runs stand apart is asked of all rows of a family together (`stand_apart`): three runs alone cannot say. In each row the
runs are split at the widest gap; g² (n − 2) / W holds the gap g, less the least one, against the squares W within both parts.
The sum over rows of log(1 + g² (n − 2) / W) is compared with the sums that normal scores give. It has no unit, so rows may
differ in spread.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from lora_bench.stats.items import Floats

# The rate of collapses that a claim of a margin excludes.
RATE = 0.1
# Of families of normal scores one in ten is taken for one in which runs stand apart. At .05 families of three with two kinds of
# runs ten standard deviations apart have a false difference in 6.6 %, at .1 in 5.8 %; see benchmarks/statistics_collapse.py.
LEVEL = 0.1
FEWEST_RUNS = 3
# Rows of normal scores of which a null distribution is made, and sums that are drawn from it.
ROWS, SUMS = 10_000, 4_000


def least_p(pairs: int) -> float:
    """The greatest probability that two like methods with runs of two kinds differ in kind in every one of *pairs* pairs."""
    return min(1.0, float(2.0 * 4.0**-pairs))


def unseen(runs: int, rate: float = RATE) -> float:
    """The probability that *runs* runs of a method that collapses with this rate show no collapse."""
    return float((1 - rate) ** runs)


def fewest_unseen(level: float, rate: float = RATE) -> int:
    """The least number of runs without a collapse that excludes *rate* at this one-sided level."""
    return math.ceil(math.log(level) / math.log(1 - rate))


def fewest_apart(level: float) -> int:
    """The least number of pairs with which a family in which runs stand apart has p-values down to *level*."""
    return math.ceil(math.log(2 / level) / math.log(4))


def stand_apart(rows: Iterable[Sequence[float]], level: float = LEVEL) -> bool:
    """Whether the runs of these rows stand apart more than those of normal scores.

    Args:
        rows: The scores of each method at each place. Rows of fewer than 3 runs, or of runs that all score the same, say
            nothing; a row that is given twice counts once.
        level: Share of families of normal scores that are taken for ones in which runs stand apart.
    """
    different = dict.fromkeys(tuple(sorted(row)) for row in rows)
    telling = [row for row in different if len(row) >= FEWEST_RUNS and row[-1] - row[0] > _rounding(row)]
    if not telling:
        return False
    found = sum(float(gaps(np.array(row))) for row in telling)
    sizes = Counter(len(row) for row in telling)
    return found > bound(tuple(sorted(sizes.items())), level)


def gaps(values: Floats) -> Floats:
    """The logarithm above, of rows of shape (..., runs) that are not all the same; shape (...)."""
    ordered = np.sort(values, axis=-1)
    runs, steps = values.shape[-1], np.diff(ordered, axis=-1)
    split = steps.argmax(axis=-1)[..., None]
    gap = np.take_along_axis(steps, split, axis=-1)[..., 0]
    below = np.arange(runs) <= split
    within = _squares(ordered, below) + _squares(ordered, ~below)
    # Scores of a small test set go in steps. A gap counts as far as it is wider than the least step, and equal scores are taken
    # to be a step apart, so that steps alone are no sign.
    rounding = _rounding(ordered)[..., None] if values.ndim > 1 else _rounding(ordered)
    step = np.where(steps > rounding, steps, np.inf).min(axis=-1)
    return np.asarray(np.log1p((gap - step) ** 2 * (runs - 2) / np.maximum(within, step**2 / 2)))


def _squares(ordered: Floats, part: np.ndarray) -> Floats:
    """Squared distances to the mean of a part of each row, added up."""
    mean = np.where(part, ordered, 0.0).sum(axis=-1) / part.sum(axis=-1)
    return np.asarray((np.where(part, ordered - mean[..., None], 0.0) ** 2).sum(axis=-1))


def _rounding(values: Sequence[float] | Floats) -> Floats:
    """How far apart scores may lie through rounding alone."""
    return np.asarray(1e-12 * np.abs(values).max(axis=-1))


@functools.lru_cache(maxsize=256)
def bound(sizes: tuple[tuple[int, int], ...], level: float) -> float:
    """What the sum over rows of normal scores exceeds with probability *level*; drawn, always with the same seed.

    Args:
        sizes: Numbers of runs, and how many rows have them.
        level: In (0, 1).
    """
    generator = np.random.default_rng(0)
    sums = np.zeros(SUMS)
    for runs, rows in sizes:
        null = _null(runs)
        for _ in range(rows):
            sums += generator.choice(null, SUMS)
    return float(np.quantile(sums, 1 - level))


@functools.lru_cache(maxsize=64)
def _null(runs: int) -> Floats:
    """The logarithm of rows of normal scores."""
    rows = max(1_000, min(ROWS, 2_000_000 // runs))
    return gaps(np.random.default_rng(runs).standard_normal((rows, runs)))
