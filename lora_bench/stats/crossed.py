"""Crossed bootstrap: the error of a mean over seeds from the choice of seeds and of test items.

Seeds and test items are resampled at once: docs/statistics.md#the-crossed-bootstrap. The variance is the sum of three parts:
seeds alone, items alone, and the interaction of both. Its percentile interval is too narrow: with n seeds the first part is
too small by the factor (n − 1) / n, and the quantiles are normal, as if n were large. So the parts are made unbiased, and
Student's quantile is applied to their sum:

    A = n/(n−1) · seeds alone,   B = N/(N−1) · items alone,   E = nN/((n−1)(N−1)) · together
    variance = A + B − E,        freedom = (A + B − E)² / (A²/(n−1) + B²/(N−1) + E²/((n−1)(N−1)))

A and B both contain E, so it is subtracted once; freedom is Satterthwaite's (1946, https://doi.org/10.2307/3002019). If items
add no variance this is the t-interval over seeds; if all seeds agree it is the one over items. Where items belong together,
sums over groups take their place, and N in the factors is the number of groups. Only a metric that is no mean over items is
computed on resamples: of a mean the three parts are known in closed form.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import Estimate, Uncertainty, mean_estimate
from lora_bench.stats.items import Drawable, Floats

DRAWS = 10_000
# Numbers in memory for a block of draws: 8 MiB for each array of them.
BLOCK = 2**20
# A metric that is undefined on a larger share of the resamples has no usable bootstrap.
MOST_UNDEFINED = 0.01


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Result of resampling seeds and test items.

    Args:
        seeds: n, at least 2.
        items: N, at least 2: independent items, of which a group is one; the total over tasks if there are several.
        seed_variance: A of the module docstring, of the mean over seeds.
        item_variance: B.
        shared_variance: E.
        freedom: Degrees of freedom of the variance.
    """

    seeds: int
    items: int
    seed_variance: float
    item_variance: float
    shared_variance: float
    variance: float
    freedom: float


def crossed_bootstrap(scored: Drawable, *, draw_seed: int, draws: int = DRAWS) -> Crossed | None:
    """Resample seeds and items of *scored*: the scores of a method, or the difference of two.

    *draw_seed* (see `seed_from`) and the number of *draws* are for a metric that is not a mean over items. Return None for
    fewer than 2 seeds or items, or if the metric is undefined on more than 1 % of the draws. Raise LoraBenchError if it takes
    draws, and there are none.
    """
    scores = scored.scores()
    seeds, items = len(scores), scored.independent
    if seeds < 2 or items < 2:
        return None
    alone = float(scores.var()) / seeds
    parts = scored.parts()
    if parts is None:
        if draws < 1:
            raise LoraBenchError("draws is 0; expected at least 1 for a metric that is no mean over items")
        drawn = _draw(scored, draw_seed, draws)
        if draws - len(drawn) > MOST_UNDEFINED * draws:
            return None
        together = float(drawn.var(axis=1).mean()) / seeds - alone
        parts = float(drawn.mean(axis=1).var()), max(0.0, together)
    seed, item, shared = unbiased_parts(
        np.array(alone), np.array(parts[0]), np.array(parts[1]), seeds=seeds, items=items
    )
    variance, freedom = combined(seed, item, shared, seeds=seeds, items=items)
    return Crossed(
        seeds=seeds,
        items=items,
        seed_variance=float(seed),
        item_variance=float(item),
        shared_variance=float(shared),
        variance=float(variance),
        freedom=float(freedom),
    )


def with_items(values: Floats, crossed: Crossed | None, size: float | None = None, overlap: float = 0.0) -> Estimate:
    """Return the mean of *values* over seeds with the error of seeds and, given a bootstrap, of seeds and items."""
    estimate = replace(mean_estimate(values.tolist(), size, overlap if crossed is None else 0.0), overlap=overlap)
    size = float(np.abs(values).max()) if size is None else size
    # Below the square of the scores' rounding error there is no variance; if items add nothing, t is enough.
    if crossed is None or crossed.variance <= max((1e-12 * size) ** 2, crossed.seed_variance):
        return estimate
    both = Uncertainty(source="bootstrap", standard_error=math.sqrt(crossed.variance), freedom=crossed.freedom)
    return replace(estimate, uncertainties=(*estimate.uncertainties, both))


def unbiased_parts(
    alone: Floats, item: Floats, both: Floats, *, seeds: int, items: int
) -> tuple[Floats, Floats, Floats]:
    """Return A, B and E of the module docstring from the parts of the bootstrap's variance, all of one shape."""
    n, N = seeds / (seeds - 1), items / (items - 1)
    return n * alone, N * item, n * N * both


def combined(seed: Floats, item: Floats, shared: Floats, *, seeds: int, items: int) -> tuple[Floats, Floats]:
    """Return variance and degrees of freedom of A + B − E, all of one shape, and never less than A or B alone.

    If E exceeds A or B, the estimate of that component is negative, and the other is used alone.
    """
    rows, columns = seeds - 1, items - 1
    variance = seed + item - shared
    noise = seed**2 / rows + item**2 / columns + shared**2 / (rows * columns)
    freedom = variance**2 / np.where(noise > 0, noise, 1.0)
    alone = shared >= np.minimum(seed, item)
    larger = np.where(seed >= item, rows, columns)
    return np.where(alone, np.maximum(seed, item), variance), np.where(alone, larger, freedom)


def seed_from(*names: str) -> int:
    """Derive a seed for draws from names, such as run ids, independent of their order."""
    return int.from_bytes(hashlib.sha256("\n".join(sorted(names)).encode()).digest()[:8], "big")


def _draw(scored: Drawable, draw_seed: int, draws: int) -> Floats:
    """Return scores on resampled items, shape (draws on which all are defined, seeds)."""
    generator = np.random.default_rng(draw_seed)
    size = max(1, BLOCK // scored.items)
    drawn = np.concatenate([scored.drawn(generator, min(size, draws - done)) for done in range(0, draws, size)])
    return np.asarray(drawn[np.isfinite(drawn).all(axis=1)])
