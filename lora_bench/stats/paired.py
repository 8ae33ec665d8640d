"""Difference of two methods on one task, paired by seed.

Two runs with one seed share the head's initial weights, the order of the data and the test items, so differences are taken
seed by seed. A test that assumes no normal distribution supplements that difference.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.stats.crossed import DRAWS, Crossed, crossed_bootstrap, with_items
from lora_bench.stats.estimate import ChoiceError, Estimate, Uncertainty, seeds_in_order
from lora_bench.stats.items import Floats, ItemDifference, Items, item_difference

# With five pairs the least two-sided p of a sign-flip test is 2 / 2^5 = .0625: it could never be significant.
FEWEST_FLIPS = 6
# Sums that differ by less are the same.
ROUNDING = 1e-12
# Up to 2^13 sign patterns are all enumerated; of more, this many are drawn.
FLIPS = 10_000
# A score and the one computed from its items may differ by the rounding of predictions and scores.
AGREEMENT = 1e-5


@dataclass(frozen=True, kw_only=True)
class SignFlip:
    """Sign-flip permutation test of a mean difference of zero, two-sided, by all patterns of signs (*exact*) or drawn ones.

    *p_value* is the share of patterns that give a mean at least as far from zero. Fisher 1935, The Design of Experiments,
    section 21; Pitman 1937, https://doi.org/10.2307/2984124
    """

    p_value: float
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First method minus second, over the seeds of both.

    Args:
        seeds: Seeds that are compared, ascending.
        scores: Scores of the first method and of the second, by seed.
        differences: One for each seed.
        sd: Sample standard deviation of the differences; None for one seed.
        estimate: Mean of the differences with its errors.
        crossed: Crossed bootstrap with test items; None without items.
        reason: Why `estimate` has no error, or None.
        draw_seed: Seed of everything that is drawn.
    """

    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], tuple[float, ...]]
    differences: tuple[float, ...]
    sd: float | None
    estimate: Estimate
    crossed: Crossed | None
    reason: str | None
    draw_seed: int

    @functools.cached_property
    def sign_flip(self) -> SignFlip | None:
        """The test by sign flips; None for fewer than 6 seeds."""
        return sign_flip(self.differences, draw_seed=self.draw_seed)

    @property
    def pairs(self) -> int:
        """Number of seeds, which sets a verdict's grade."""
        return len(self.seeds)


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Difference):
    """The difference on one task. Positive: the first scores higher."""


def paired_difference(
    first: Mapping[int, float],
    second: Mapping[int, float],
    *,
    draw_seed: int,
    items: tuple[Items, Items] | None = None,
    draws: int = DRAWS,
    choices: Sequence[ChoiceError | None] = (),
    overlap: float = 0.0,
) -> PairedDifference:
    """Compare two methods on one task.

    Args:
        first: Score of each seed.
        second: Score of each seed. Seeds in both make the pairs.
        draw_seed: Seed of everything that is drawn, see `seed_from`.
        items: The same scores as functions of the test items, for both methods.
        draws: Resamples of seeds and items.
        choices: Errors of the choice of each method's learning rate; None if one was not chosen by trials.
        overlap: Of folds, see `Estimate`.

    Raise LoraBenchError if a score is not finite, no seed is in both, the items are not the same, or they do not give the
    scores.
    """
    mine, theirs = seeds_in_order(first), seeds_in_order(second)
    seeds = tuple(seed for seed in mine if seed in second)
    if not seeds:
        raise LoraBenchError(
            f"no seed is in both: {list(mine)} and {list(theirs)}; expected the same list for all methods"
        )
    left, right = [float(first[seed]) for seed in seeds], [float(second[seed]) for seed in seeds]
    differences = [a - b for a, b in zip(left, right, strict=True)]
    size = max(map(abs, left + right))
    crossed = None
    if items is not None:
        crossed = crossed_bootstrap(scored_difference(items, (first, second), seeds), draw_seed=draw_seed, draws=draws)
    estimate = with_items(np.array(differences), crossed, size, overlap).widened(choices)
    without_error = "one pair of seeds has no spread"
    if len(seeds) > 1:
        without_error = f"all {len(seeds)} differences are the same, which tells nothing of how far others would lie"
    return PairedDifference(
        seeds=seeds,
        scores=(tuple(left), tuple(right)),
        differences=tuple(differences),
        sd=statistics.stdev(differences) if len(seeds) > 1 else None,
        estimate=estimate,
        draw_seed=draw_seed,
        crossed=crossed,
        reason=None if estimate.uncertainties else without_error,
    )


def paired_p(one: Floats, others: Floats, share: float = 1.0) -> tuple[Floats, Floats]:
    """Return means of the differences of a method's scores to those of *others*, shape (others, seeds), and their p-values.

    These are as of `mean_estimate`, with a *share* of the error level; NaN where all differences are the same.
    """
    from scipy.special import stdtr

    differences, seeds = one - others, len(one)
    mean, error = differences.mean(axis=1), differences.std(axis=1, ddof=1) / math.sqrt(seeds)
    same = np.ptp(differences, axis=1) <= 1e-12 * np.maximum(np.abs(one).max(), np.abs(others).max(axis=1))
    tail = np.minimum(1.0, stdtr(seeds - 1, -np.abs(mean) / np.where(same, 1.0, error)) / share)
    return mean, np.where(same, np.nan, np.minimum(1.0, 2 * tail))


def sign_flip(differences: Sequence[float], *, draw_seed: int) -> SignFlip | None:
    """Run the sign-flip permutation test on *differences*; None for fewer than 6. From 14 pairs on, patterns are drawn."""
    if len(differences) < FEWEST_FLIPS:
        return None
    # For a mean, patterns are one matrix product, many times as fast as scipy's general test.
    exact, values = 2 ** len(differences) <= FLIPS, np.array(differences)
    if exact:
        sums = np.abs(_patterns(len(differences)) @ values)
        return SignFlip(p_value=float((sums >= sums[0] * (1 - ROUNDING)).mean()), exact=True)
    signs = np.random.default_rng(draw_seed).integers(2, size=(FLIPS, len(differences)), dtype=np.int8) * 2.0 - 1
    hits = int((np.abs(signs @ values) >= abs(values.sum()) * (1 - ROUNDING)).sum())
    # The pattern of the data is one of all: Phipson and Smyth 2010, https://doi.org/10.2202/1544-6115.1585
    return SignFlip(p_value=(hits + 1) / (FLIPS + 1), exact=False)


@functools.lru_cache
def _patterns(pairs: int) -> Floats:
    """Return every pattern of signs, shape (2 ** pairs, pairs); the first is that of the data."""
    bits = (np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1
    return np.asarray(1.0 - 2.0 * bits)


def welch(difference: float, first: tuple[float, int], second: tuple[float, int]) -> Estimate:
    """Return a difference of two means, each with its variance, one of them above 0, and its runs, at least 2."""
    parts = [variance / runs for variance, runs in (first, second)]
    noise = sum(part**2 / (runs - 1) for part, (_, runs) in zip(parts, (first, second), strict=True))
    error = Uncertainty(source="t", standard_error=math.sqrt(sum(parts)), freedom=sum(parts) ** 2 / noise)
    return Estimate(value=difference, uncertainties=(error,))


def scored_difference(
    items: tuple[Items, Items], scores: tuple[Mapping[int, float], Mapping[int, float]], seeds: Sequence[int]
) -> ItemDifference:
    """Return the difference on *seeds* by test items; raise LoraBenchError if these do not give *scores*."""
    found = item_difference(*items, seeds)
    for of_method, known in zip((found.first, found.second), scores, strict=True):
        for seed, value in zip(seeds, of_method.scores().tolist(), strict=True):
            if not math.isclose(value, known[seed], rel_tol=AGREEMENT, abs_tol=AGREEMENT):
                raise LoraBenchError(f"the items of seed {seed} give {value:.6g} and its score is {known[seed]:.6g}")
    return found
