"""Power of a number of seeds, and the seeds needed for a decision.

Power refers to the tests of the verdicts. An estimate D has the standard error σ, and S estimates σ, with (S/σ)² distributed as
χ²(f)/f. Then for a true difference d

    difference:  P(|D| > t(1 − α/2, f) S),       equivalence:  P(−m + t(1 − α, f) S < D < m − t(1 − α, f) S),

each a normal probability averaged over S. With σ² = s²/n and f = n − 1 the first is the power of the paired t-test (noncentral
t), the second that of two one-sided tests (Phillips 1990, https://doi.org/10.1007/BF01063556).

More seeds reduce only the seeds' part of σ² = s²/n + v and not the test items' part v. So some differences cannot be decided by
any number of seeds, only by more test items.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import student_quantile
from lora_bench.stats.items import Floats

POWER = 0.8
ALPHA = 0.05
MOST_SEEDS = 1000
# Test sets are hardly ever larger by more than this.
MOST_TIMES = 20

Decides = Literal["difference", "equivalence"]


@dataclass(frozen=True, kw_only=True)
class Needed:
    """Pairs of runs, with the existing ones, that would decide a comparison by the claim that takes fewer of them.

    That is a difference, or equivalence within the margin. It would then have the requested power, if the true difference is
    the observed one.
    """

    seeds: int
    by: Decides


def seeds_needed(
    difference: float,
    sd: float,
    *,
    margin: float | None = None,
    item_variance: float = 0.0,
    alpha: float = ALPHA,
    margin_alpha: float = ALPHA,
    power: float = POWER,
    most: int = MOST_SEEDS,
    fewest: int = 2,
    fewest_within: int = 2,
) -> Needed | None:
    """Return the fewest seeds that detect *difference*, or prove it to be within *margin*, with probability *power*.

    Return None if *most* seeds are not enough.

    Args:
        difference: The assumed true difference: the observed one.
        sd: Standard deviation of the differences over seeds.
        margin: Above 0, or None without equivalence claims.
        item_variance: Part of the mean difference's variance from test items, independent of the number of seeds.
        alpha: Two-sided level at which a difference is tested.
        margin_alpha: One-sided level at which equivalence is tested.
        power: In (0, 1).
        most: Largest number of seeds considered.
        fewest: Fewest seeds that allow a claim of a difference.
        fewest_within: Fewest seeds that allow a claim of a margin.
    """
    found: list[Needed] = []
    seeds = fewest_enough(lambda n: difference_power(difference, n, sd, item_variance, alpha) >= power, most)
    if seeds is not None:
        found.append(Needed(seeds=max(seeds, fewest), by="difference"))
    if margin is not None:
        seeds = fewest_enough(
            lambda n: equivalence_power(difference, margin, n, sd, item_variance, margin_alpha) >= power, most
        )
        if seeds is not None:
            found.append(Needed(seeds=max(seeds, fewest_within), by="equivalence"))
    return min(found, key=lambda needed: needed.seeds, default=None)


def items_needed(
    difference: float,
    sd: float,
    seeds: int,
    items: int,
    *,
    item_variance: float,
    fixed_variance: float = 0.0,
    margin: float | None = None,
    alpha: float = ALPHA,
    margin_alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    """Return the fewest test items that decide with these seeds, or None if `MOST_TIMES` as many are not enough.

    *item_variance* is the part of the mean difference's variance from the items at hand, which falls as they grow in number,
    and *fixed_variance* that which neither seeds nor items reduce. The rest is as for `seeds_needed`.
    """

    def enough(number: int) -> bool:
        rest = fixed_variance + item_variance * items / number
        within = 0.0 if margin is None else equivalence_power(difference, margin, seeds, sd, rest, margin_alpha)
        return max(difference_power(difference, seeds, sd, rest, alpha), within) >= power

    return fewest_enough(enough, MOST_TIMES * items, items)


def difference_power(
    difference: float, seeds: int, sd: float, item_variance: float = 0.0, alpha: float = ALPHA
) -> float:
    """Return the probability that the wider of the two intervals at 1 − *alpha* leaves out zero; see `seeds_needed`."""
    return min(
        two_sided_power(abs(difference) / error, freedom, alpha, ratio)
        for error, freedom, ratio in _errors(seeds, sd, item_variance)
    )


def equivalence_power(
    difference: float, margin: float, seeds: int, sd: float, item_variance: float = 0.0, alpha: float = ALPHA
) -> float:
    """Return the probability that the wider of the two intervals at 1 − 2 *alpha* lies within ± *margin*."""
    return min(
        within_power(difference / error, margin / error, freedom, alpha, ratio)
        for error, freedom, ratio in _errors(seeds, sd, item_variance)
    )


def two_sided_power(effect: float, freedom: float, alpha: float, ratio: float = 1.0) -> float:
    """Return P(|D| > t(1 − α/2) · ratio · S) for D normal around *effect* with variance 1, and S² distributed as χ²(f)/f.

    The effect is the true difference in standard errors of the estimate, and the ratio the standard error that the interval is
    made of over that of the estimate.
    """
    from scipy.special import ndtr

    spread, weights = spread_quantiles(freedom)
    reach = student_quantile(freedom, alpha / 2) * ratio * spread
    return float(weights @ (ndtr(effect - reach) + ndtr(-effect - reach)))


def within_power(effect: float, margin: float, freedom: float, alpha: float, ratio: float = 1.0) -> float:
    """Return P(−m + t(1 − α) · ratio · S < D < m − t(1 − α) · ratio · S), as `two_sided_power`, with m in standard errors."""
    from scipy.special import ndtr

    spread, weights = spread_quantiles(freedom)
    room = margin - student_quantile(freedom, alpha) * ratio * spread
    return float(weights @ np.where(room > 0, ndtr(room - effect) - ndtr(-room - effect), 0.0))


def _errors(seeds: int, sd: float, item_variance: float) -> list[tuple[float, float, float]]:
    """Return error of the estimate, freedom and ratio for the intervals over seeds and over seeds and items."""
    seed_variance = sd**2 / seeds
    error = math.sqrt(seed_variance + item_variance)
    if error == 0:
        raise LoraBenchError("differences without spread have no power; expected a standard deviation above 0")
    if seed_variance == 0:
        return [(error, 1e9, 1.0)]
    both = (error, (seeds - 1) * (error**2 / seed_variance) ** 2, 1.0)
    return [(error, seeds - 1, math.sqrt(seed_variance) / error), *([both] if item_variance else [])]


@functools.lru_cache(maxsize=4096)
def spread_quantiles(freedom: float) -> tuple[Floats, Floats]:
    """Return values of √(χ²(f)/f) and their probabilities: nodes of a quadrature over the quantiles."""
    from scipy.special import gammaincinv

    quantiles, weights = _quadrature()
    return np.sqrt(2 * gammaincinv(freedom / 2, quantiles) / freedom), weights


@functools.cache
def _quadrature() -> tuple[Floats, Floats]:
    """Return nodes in (0, 1) and weights of the Gauss-Legendre rule."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return (nodes + 1) / 2, weights / 2


def fewest_enough(enough: Callable[[int], bool], most: int, least: int = 2) -> int | None:
    """Return the least number from *least* to *most* that is enough, or None. Every greater number must be enough too."""
    if not enough(most):
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
