"""Ranks of the methods that stand side by side: groups of ties, and the ranks that the shown differences leave open.

Ranks claim no more than the verdicts. If one of two methods is the reference, its verdict decides whether they are told apart.
All other pairs of a report are a family of their own, for which Holm's procedure keeps the same error level. So ranks never
contradict a verdict. All true ranks lie in the shown ones with probability 1 − 2 alpha or more: alpha for either family, as
`benchmarks/rank_coverage.py` measures.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lora_bench.stats import Verdict, tie_letters
from lora_bench.stats.family import holm_arrays
from lora_bench.stats.items import Floats

# By how much the first of two methods is better, and the p-value of no difference.
GainAndP = tuple[float, float | None]
# The same of all pairs of methods, in the order of `itertools.combinations`; NaN for an unknown p-value.
GainsAndP = tuple[Floats, Floats]


@dataclass(frozen=True)
class Rank:
    """The rank of a method: the best and the worst that the shown differences leave it, among so many methods.

    Two methods share a letter exactly if no difference between them is shown; *apart* if any two are told apart.
    """

    best: int
    worst: int
    of: int
    apart: bool
    _place: int = field(repr=False, compare=False)
    # Letters of many methods take long, and no answer has them.
    _letters: Callable[[], Sequence[str]] = field(repr=False, compare=False)

    @property
    def letters(self) -> str:
        """The letters of the groups of ties that it is in."""
        return self._letters()[self._place]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Methods that are ranked among each other, the reference first: mean scores, and the verdicts on the others.

    *sign* is -1 if lower scores are better. *compare* compares all pairs of the others; their p-values are not adjusted.
    """

    means: Sequence[float]
    sign: int = 1
    verdicts: Sequence[Verdict]
    compare: Callable[[], GainsAndP]


def each_pair(number: int, compare: Callable[[int, int], GainAndP]) -> GainsAndP:
    """Return what *compare* gives of every pair of so many methods, by their places."""
    found = [compare(*pair) for pair in itertools.combinations(range(number), 2)]
    # None becomes NaN.
    gains, p_values = np.array(found, dtype=float).reshape(-1, 2).T
    return gains, p_values


def rank_all(contests: Sequence[Contest], alpha: float) -> list[list[Rank]]:
    """Return the rank of every method of every contest, in their order, with an error level of *alpha* for either family.

    A contest of one method has none, nor one without any test, as of one seed a method: all its ranks would be the whole
    range. Nor has one with a shown difference that goes against the order of the means, which can be where methods have scores
    of different seeds: then there is no one order.
    """
    others = [contest.compare() for contest in contests]
    known = np.concatenate([np.empty(0), *(p_values for _, p_values in others)])
    adjusted, _ = holm_arrays(np.where(np.isnan(known), 1.0, known), alpha)
    parts = np.split(adjusted, np.cumsum([len(gains) for gains, _ in others])[:-1])
    return [
        _ranks(contest, gains, p, alpha) if _tested(contest, raw) else []
        for contest, (gains, raw), p in zip(contests, others, parts, strict=True)
    ]


def _tested(contest: Contest, p_values: Floats) -> bool:
    return not np.isnan(p_values).all() or any(verdict.adjusted_p is not None for verdict in contest.verdicts)


def _ranks(contest: Contest, gains: Floats, p_values: Floats, alpha: float) -> list[Rank]:
    number, means = len(contest.means), contest.sign * np.array(contest.means)
    if number < 2:
        return []
    adjusted = np.array([verdict.adjusted_p for verdict in contest.verdicts], dtype=float)
    # All pairs in the order of combinations, the reference's first.
    gains = np.concatenate([[-contest.sign * verdict.difference for verdict in contest.verdicts], gains])
    p_values = np.concatenate([adjusted, p_values])
    first, second = np.triu_indices(number, 1)
    shown, ahead = p_values <= alpha, means[first] - means[second]
    if (shown & (gains * ahead <= 0)).any():
        return []
    winners, losers = np.where(ahead > 0, (first, second), (second, first))[:, shown]
    wins, losses = np.bincount(winners, minlength=number), np.bincount(losers, minlength=number)
    # Equal means stand as the table has them.
    position = np.argsort(np.argsort(-means, kind="stable"))

    @functools.cache
    def letters() -> list[str]:
        apart = zip(position[winners].tolist(), position[losers].tolist(), strict=True)
        found = tie_letters(number, apart)
        return [found[place] for place in position]

    apart = bool(shown.any())
    return [
        Rank(1 + int(losses[place]), number - int(wins[place]), number, apart, place, letters)
        for place in range(number)
    ]
