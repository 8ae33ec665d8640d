"""Spread of a series' night means, estimated from its nights, its seeds, and the ratio of the two in other series.

Eight nights give a standard deviation on only seven degrees of freedom: at the level of fifty series Student's quantile is
then 5.6, against 3.4 with many. But each night has several seeds. With k nights of m seeds

    b = variance of the night means                              on d = k − 1 degrees of freedom
    w = mean over nights of the variance of their seeds, over m   on e = k (m − 1)

both estimate the variance of a night mean, if nights add no variance to that of seeds. If they do, b is r times as large as w.
One series does not determine r, but many do: log r is the mean over series of log b − log w. Then

    variance = (d b + e′ r w) / (d + e′),     2 / e′ = 2 / e + t

where t is the variance of log r between series, beyond chance. If nights affect all series alike, e′ is e, and eight nights of
three seeds have 23 degrees of freedom. If not, the seeds count for less. The freedom is Satterthwaite's, with the error of r.
A series alone uses its own b and d.
"""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from lora_bench.stats.items import Floats

KeyT = TypeVar("KeyT", bound=Hashable)


class SeriesNights(NamedTuple):
    """Data of a series for the estimate of its spread: at least 2 night means, each with the scores of at least 2 seeds.

    Nights of one *kind* add alike to the variance of seeds.
    """

    kind: str
    nights: Sequence[float]
    seeds: Sequence[Sequence[float]]

    def parts(self) -> tuple[float, float, int, int]:
        """Return b, w, k and m of the module docstring."""
        within = statistics.fmean(statistics.variance(scores) / len(scores) for scores in self.seeds)
        return statistics.variance(self.nights), within, len(self.nights), min(map(len, self.seeds))


def spreads(series: Mapping[KeyT, SeriesNights]) -> dict[KeyT, tuple[float, float]]:
    """Return the standard deviation of a night mean and its degrees of freedom for every series."""
    found: dict[KeyT, tuple[float, float]] = {}
    for kind in dict.fromkeys(told.kind for told in series.values()):
        of_kind = {key: told.parts() for key, told in series.items() if told.kind == kind}
        variance, freedom = pooled_variance(*np.array([*of_kind.values()], dtype=np.float64).T)
        found.update(zip(of_kind, zip(np.sqrt(variance).tolist(), freedom.tolist(), strict=True), strict=True))
    return found


def pooled_variance(
    between: Floats, within: Floats, nights: Floats | int, seeds: Floats | int, *, axis: int = 0
) -> tuple[Floats, Floats]:
    """Return the variance of night means of every series, and its degrees of freedom, of the shape of *between*.

    *between*, *within*, *nights* and *seeds* are b, w, k and m of the module docstring, with series along *axis*. A series
    whose b or w is 0, or that has one seed, is not pooled; k is at least 2.
    """
    from scipy.special import digamma, polygamma

    own = np.asarray(nights, dtype=np.float64) - 1
    of_seeds = nights * (np.asarray(seeds, dtype=np.float64) - 1)
    known = (between > 0) & (within > 0) & (of_seeds > 0)
    b, w, e = np.where(known, between, 1.0), np.where(known, within, 1.0), np.maximum(of_seeds, 1.0)
    # The logarithm of χ²(f) / f has the mean ψ(f/2) − log(f/2) and the variance ψ′(f/2).
    log_ratio = np.log(b / w) - digamma(own / 2) + np.log(own / 2) + digamma(e / 2) - np.log(e / 2)
    weight = np.where(known, 1 / (2 / own + 2 / e), 0.0)
    total = np.maximum(weight.sum(axis=axis, keepdims=True), 1e-300)
    share = weight / total
    mean = (share * log_ratio).sum(axis=axis, keepdims=True)
    count = known.sum(axis=axis, keepdims=True)
    chance = (share * (polygamma(1, own / 2) + polygamma(1, e / 2))).sum(axis=axis, keepdims=True)
    seen = (share * (log_ratio - mean) ** 2).sum(axis=axis, keepdims=True) * count / np.maximum(count - 1, 1)
    differ = np.maximum(seen - chance, 0.0)
    e = 2 / (2 / e + differ)
    nights_part, seeds_part = own / (own + e), e / (own + e)
    variance = nights_part * b + seeds_part * np.exp(mean) * w
    of_ratio = 1 / total + differ * (share**2).sum(axis=axis, keepdims=True)
    noise = (
        nights_part**2 * 2 / own
        + seeds_part**2 * (2 / e + of_ratio)
        + 2 * seeds_part * share * (nights_part * 2 / own - seeds_part * 2 / e)
    )
    pooled = known & (count > 1)
    return np.where(pooled, variance, between), np.where(pooled, 2 / noise, own)
