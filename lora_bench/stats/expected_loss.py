"""What the choice of a method may cost: for each method of a table, its loss to the best of them, expected and at most.

The true scores of all methods are drawn together: docs/how-to/use-the-winner.md#what-it-may-lose. The variance of a method's
runs is that of `DEGREES` further runs of all methods together (a moderated variance: Smyth 2004,
https://doi.org/10.2202/1544-6115.1027), but its own where its runs vary far more than those of others, as runs of two kinds do.
Where a table has one seed, it is what runs usually have: of the baselines' tables of three seeds or more, fitted likewise.
A run collapses to its floor with a rate that has a Beta distribution before any run is seen. Draws are weighted by what scores
of methods with a shared variance usually are beside each other: Student's t with one degree of freedom around a middle that is
not known, with a scale that is one of `SCALES` errors of a method beside the others.
`benchmarks/expected_loss.py` measures how often a method loses no more than its bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_bench.stats.items import Floats, Items, ItemScores, draw_weights

SURE = 0.9
DEGREES = 8.0
# Of scores between 0 and 1: standard deviation of runs, and the degrees of freedom with which it varies from table to table.
USUAL_SD, USUAL_DEGREES = 0.009, 2.0
# So improbable is a variance of runs that is not shared.
RARE = 1e-3
SCALES = tuple(2.0**power for power in range(6))
# Of a method's rate of collapses before any run: few methods collapse, those that do often.
COLLAPSES = 0.03, 2.0
DRAWS, KEPT = 4_000, 2_000
# Resamples of test items, for a metric that is no mean over them.
ITEM_DRAWS = 500
_GRID, FACTORS, BLOCK = 41, 8, 250

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method of a table. All numbers are gains: higher is better.

    Args:
        gains: Of each seed of the table in order; NaN for a seed without a sound run, one at least is sound.
        fallen: Number of runs that collapsed.
        floor: Gain of a run that collapsed; None if it is unknown.
        choice_sd: Standard deviation from the choice of the learning rate; 0 at a rate that was given.
    """

    gains: tuple[float, ...]
    fallen: int
    floor: float | None
    choice_sd: float


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a method loses to the best of a table: the mean, and a bound that holds with `SURE`, which is no less."""

    expected: float
    at_most: float


def draw_scores(
    contenders: Sequence[Contender],
    item_covariance: Floats | None,
    draw_seed: int,
    highest: float = math.inf,
    usual_sd: float | None = None,
) -> Floats | None:
    """Return draws of the true gains, shape (KEPT, contenders), or None if no runs that differ tell the spread of others.

    No gain is above *highest*. *usual_sd* is the standard deviation of runs where those at hand tell none.

    *item_covariance* is of the means, from the choice of test items; None if test items are unknown, or each seed has others:
    they are then a part of the spread of seeds. For *draw_seed* see `seed_from`.
    """
    gains = np.array([one.gains for one in contenders])
    number = np.isfinite(gains).sum(axis=1)
    means = np.nanmean(gains, axis=1)
    spread = _spread(gains, means, number)
    if spread is None and usual_sd is not None:
        every = np.ones(len(contenders))
        spread = every * usual_sd**2, every * USUAL_DEGREES, every > 0
    if spread is None:
        return None
    generator = np.random.default_rng(draw_seed)
    variances, freedom, steady = spread
    same = variances.max() <= (1e-12 * np.nanmax(np.abs(gains))) ** 2
    if same and item_covariance is None and not any(one.choice_sd for one in contenders):
        return None
    shape = DRAWS, len(contenders)
    drawn = generator.standard_normal(shape) * np.sqrt(
        variances / number * freedom / generator.chisquare(freedom, shape)
    )
    if item_covariance is not None:
        values, vectors = np.linalg.eigh(item_covariance)
        drawn += (generator.standard_normal(shape) * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    drawn += generator.standard_normal(shape) * [one.choice_sd for one in contenders] + means
    drawn = np.minimum(drawn, highest)
    drawn = drawn[generator.choice(DRAWS, KEPT, p=_weights(drawn[:, steady], means[steady]))]
    first, second = COLLAPSES
    for place, one in enumerate(contenders):
        if one.floor is not None:
            rate = generator.beta(first + one.fallen, second + number[place], len(drawn))
            drawn[:, place] -= rate * np.maximum(drawn[:, place] - one.floor, 0.0)
    return np.asarray(drawn)


def item_covariance(methods: Sequence[Items], draw_seed: int) -> Floats | None:
    """Return the covariance of the methods' means over seeds from the choice of test items, which all share.

    None for fewer than 2 items, and where the metric is undefined on all resamples but one.

    What single runs err on items is part of the spread of seeds, and left out of a method's own variance.
    """
    scores: list[Floats]
    alone = [one for one in methods if isinstance(one, ItemScores) and one.groups is None]
    if len(alone) == len(methods):
        scores = [one.values.T / math.sqrt(one.items) for one in alone]
    else:
        groups = next((one.groups for one in methods if one.groups is not None), None)
        weights = draw_weights(np.random.default_rng(draw_seed), ITEM_DRAWS, methods[0].items, groups)
        scores = [one.on(weights) for one in methods]
        defined = np.isfinite(np.concatenate(scores, axis=1)).all(axis=1)
        scores = [of_one[defined] for of_one in scores]
    if min(methods[0].independent, len(scores[0])) < 2:
        return None
    covariance = np.atleast_2d(np.cov([of_one.mean(axis=1) for of_one in scores]))
    for place, of_one in enumerate(scores):
        seeds = of_one.shape[1]
        if seeds > 1:
            of_run = of_one.var(axis=0, ddof=1).mean()
            covariance[place, place] = max(0.0, (seeds * covariance[place, place] - of_run) / (seeds - 1))
    return covariance


def losses(drawn: Floats) -> tuple[Loss, ...]:
    """Return the loss of each method to the best one of each draw, from draws of shape (draws, methods)."""
    lost = drawn.max(axis=1, keepdims=True) - drawn
    means, bounds = lost.mean(axis=0), np.quantile(lost, SURE, axis=0)
    return tuple(
        Loss(expected=float(mean), at_most=float(max(mean, bound))) for mean, bound in zip(means, bounds, strict=True)
    )


def _spread(gains: Floats, means: Floats, number: Floats) -> tuple[Floats, Floats, Bools] | None:
    """Return the variances of runs, their degrees of freedom, and which are moderated."""
    left = gains - means[:, None]
    # A method with one run tells nothing of spread, and takes no part in pairs.
    several = number > 1
    shared = np.isfinite(gains[several]).all(axis=0)
    paired = several.sum() > 1 and shared.sum() > 1
    if paired:
        left[several] -= np.where(shared, left[several].mean(axis=0), 0.0)
    own = np.maximum(number - 1.0, 0.0) * ((several.sum() - 1) / several.sum() if paired else 1.0)
    squares = np.nansum(left**2, axis=1)
    # Two runs of one method alone say next to nothing of the spread of all.
    if own.sum() < (1 if paired else 2):
        return None
    pooled = float(squares.sum() / own.sum())
    freedom = DEGREES + own
    variances = (DEGREES * pooled + squares) / freedom
    alone = np.nansum((gains - means[:, None]) ** 2, axis=1) / np.maximum(number - 1.0, 1.0)
    steady = _steady(alone, number - 1.0)
    return np.where(steady, variances, np.maximum(alone, variances)), np.where(steady, freedom, number - 1.0), steady


def _steady(variances: Floats, freedom: Floats) -> Bools:
    """Tell which variances are not above those of the steadier half, and of all between, by F tests at `RARE`."""
    from scipy.special import fdtrc

    order = np.argsort(np.where(freedom > 0, variances, np.inf))[: np.count_nonzero(freedom)]
    below, degrees = ((of * freedom)[order].cumsum()[:-1] for of in (variances, np.ones(len(freedom))))
    rare = fdtrc(freedom[order][1:], degrees, variances[order][1:] * degrees / np.maximum(below, 1e-300)) < RARE
    rare[: (len(order) - 1) // 2] = False
    return ~np.isin(np.arange(len(freedom)), order[1:][np.logical_or.accumulate(rare)])


def _weights(drawn: Floats, means: Floats) -> Floats | None:
    """Return the weight of each draw, which add up to 1: its density where methods usually are, over middles and scales.

    None, for equal ones, where a method is alone or no method has an error beside the others.
    """
    error = float((drawn - means).var(axis=1, ddof=1).mean()) ** 0.5 if len(means) > 1 else 0.0
    if error == 0:
        return None
    middles = np.linspace(drawn.min(), drawn.max(), _GRID)
    # Blocks of draws stay in the cache of a processor.
    blocks = [_log_densities(drawn[start : start + BLOCK], middles, error) for start in range(0, len(drawn), BLOCK)]
    together = np.concatenate(blocks)
    weights = np.exp(together - together.max())
    return np.asarray(weights / weights.sum())


def _log_densities(drawn: Floats, middles: Floats, error: float) -> Floats:
    """Return the logarithm of the density of each draw, summed over middles and scales."""
    shape = len(drawn), len(middles)
    densities = [np.full(shape, -drawn.shape[1] * math.log(scale)) for scale in SCALES]
    product, factor = np.empty(shape), np.empty(shape)
    for start in range(0, drawn.shape[1], FACTORS):
        apart = [((of_one[:, None] - middles) / error) ** 2 for of_one in drawn.T[start : start + FACTORS]]
        for scale, density in zip(SCALES, densities, strict=True):
            # Logarithms take most of the time: one of a product of factors, of so many that it stays finite.
            product.fill(1.0)
            for of_one in apart:
                np.multiply(of_one, scale**-2, out=factor)
                factor += 1
                product *= factor
            density -= np.log(product, out=product)
    of_scales = []
    for density in densities:
        most = density.max(axis=1)
        density -= most[:, None]
        of_scales.append(most + np.log(np.exp(density, out=density).sum(axis=1)))
    return np.asarray(np.logaddexp.reduce(of_scales, axis=0))
