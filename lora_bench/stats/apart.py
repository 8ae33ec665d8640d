"""Detect runs that stand apart, that is scores of two kinds, and limit the verdicts that they allow.

Student's t assumes normal scores. If some runs collapse and others do not, two errors arise, and each has its own rule.

* *False differences.* For two like methods, all runs of one may collapse by chance and none of the other's. The differences
  are then nearly equal, and t has no bound. With rate c this happens to n pairs with probability 2 (c (1 − c))ⁿ, at most
  2 / 4ⁿ. So a family in which runs stand apart has no p-value below 2 / 4ⁿ (`least_p`).
* *False equivalence.* A method that collapses in a tenth of its runs shows no collapse in n runs with probability .9ⁿ. No test
  detects it until n is large. So that probability is a separate p-value for every claim of a margin (`unseen`).

The test for runs that stand apart uses all rows of a family together (`stand_apart`): three runs alone are too few. Each row is
split at its widest gap; g² (n − 2) / W relates the gap g, less the least one, to the squares W within both parts. The sum over
rows of log(1 + g² (n − 2) / W) is compared with the sums for normal scores. It has no unit, so rows may differ in spread.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from lora_bench.stats.items import Floats

# The rate of collapses that a claim of a margin excludes.
RATE = 0.1
# In one of ten families of normal scores runs are falsely found to stand apart. At .05 families of three with two kinds of
# runs ten standard deviations apart have a false difference in 6.6 %, at .1 in 5.8 %; see benchmarks/statistics_collapse.py.
LEVEL = 0.1
FEWEST_RUNS = 3
# Rows of normal scores that make a null distribution, and the sums drawn from it.
ROWS, SUMS = 10_000, 4_000


def least_p(pairs: int) -> float:
    """Return the greatest probability that two like methods with runs of two kinds differ in kind in all *pairs* pairs."""
    return min(1.0, float(2.0 * 4.0**-pairs))


def unseen(runs: int, rate: float = RATE) -> float:
    """Return the probability that *runs* runs of a method with this rate of collapses show none."""
    return float((1 - rate) ** runs)


def fewest_unseen(level: float, rate: float = RATE) -> int:
    """Return the least number of runs without a collapse that excludes *rate* at this one-sided level."""
    return math.ceil(math.log(level) / math.log(1 - rate))


def fewest_apart(level: float) -> int:
    """Return the least number of pairs at which `least_p` is at most *level*."""
    return math.ceil(math.log(2 / level) / math.log(4))


def stand_apart(rows: Iterable[Sequence[float]], level: float = LEVEL) -> bool:
    """Test if the runs of these rows stand apart more than normal scores do, with a share *level* of false detections.

    A row has the scores of a method at a place. Rows of fewer than 3 runs, or of equal scores, are ignored; a repeated row
    counts once.
    """
    different = dict.fromkeys(tuple(sorted(row)) for row in rows)
    telling = [row for row in different if len(row) >= FEWEST_RUNS and row[-1] - row[0] > _rounding(row)]
    if not telling:
        return False
    found = sum(float(gaps(np.array(row))) for row in telling)
    sizes = Counter(len(row) for row in telling)
    return found > bound(tuple(sorted(sizes.items())), level)


def gaps(values: Floats) -> Floats:
    """Return log(1 + g² (n − 2) / W) for rows of shape (..., runs) that are not all the same; shape (...)."""
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
    """Return the sum of squared distances to the mean of a part of each row."""
    mean = np.where(part, ordered, 0.0).sum(axis=-1) / part.sum(axis=-1)
    return np.asarray((np.where(part, ordered - mean[..., None], 0.0) ** 2).sum(axis=-1))


def _rounding(values: Sequence[float] | Floats) -> Floats:
    """Return the largest distance of scores that rounding alone explains."""
    return np.asarray(1e-12 * np.abs(values).max(axis=-1))


@functools.lru_cache(maxsize=256)
def bound(sizes: tuple[tuple[int, int], ...], level: float) -> float:
    """Return the bound that the sum over rows of normal scores exceeds with probability *level*, drawn with a fixed seed.

    *sizes* has numbers of runs, each with its number of rows.
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
    rows = max(1_000, min(ROWS, 2_000_000 // runs))
    return gaps(np.random.default_rng(runs).standard_normal((rows, runs)))
