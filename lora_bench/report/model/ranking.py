"""Ranks of the methods that stand side by side: groups of ties, and the ranks that the shown differences leave open.

Ranks claim no more than the verdicts. If one of two methods is the reference, its verdict decides whether they are told apart.
All other pairs of a report are a family of their own, for which Holm's procedure keeps the same error level. So ranks never
contradict a verdict. All true ranks lie in the shown ones with probability 1 − 2 alpha or more: alpha for either family.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.stats import Ranking, holm, rank

# A pair of places in a contest, the first before the second.
Places = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The rank of a method.

    Args:
        best: The best rank that the shown differences leave it; 1 where nothing is shown to be better.
        worst: The worst one.
        letters: Letters of its groups: two methods share one exactly if no difference between them is shown.
        of: Number of methods that were ranked.
        apart: Whether any two of them are told apart.
    """

    best: int
    worst: int
    letters: str
    of: int
    apart: bool


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Methods that are ranked among each other, by their place; the first is the reference.

    Args:
        means: Means that order them: the larger the better.
        against_reference: For each pair with the reference how much better the first is, and the p-value that its verdict
            was made with, adjusted over their family.
        others: Differences of all other pairs, with p-values that are not adjusted.
    """

    means: Sequence[float]
    against_reference: dict[Places, tuple[float, float | None]]
    others: dict[Places, tuple[float, float | None]]


def rank_all(contests: Sequence[Contest], alpha: float) -> list[list[Rank] | None]:
    """Return the rank of every method of every contest, in their order.

    Args:
        contests: All of a report.
        alpha: Error level of either family.

    Returns:
        None for a contest with a shown difference that goes against the order of the means, which can be where methods have
        scores of different seeds: then there is no one order.
    """
    raw = [p_value for contest in contests for _, p_value in contest.others.values()]
    adjusted = iter([one.p_value for one in holm(raw, alpha)])
    found = []
    for contest in contests:
        pairs = {**contest.against_reference}
        pairs.update({places: (gain, next(adjusted)) for places, (gain, _) in contest.others.items()})
        found.append(_ranks(contest, pairs, alpha))
    return found


def other_pairs(number: int) -> list[Places]:
    """Return the pairs of *number* places without the first, which is the reference's."""
    return [*itertools.combinations(range(1, number), 2)]


def _ranks(contest: Contest, pairs: dict[Places, tuple[float, float | None]], alpha: float) -> list[Rank] | None:
    for (one, other), (gain, p_value) in pairs.items():
        ahead = contest.means[one] - contest.means[other]
        if p_value is not None and p_value <= alpha and gain * ahead <= 0:
            return None
    # Names in the order of places, so that equal means stand as the table has them.
    names = [f"{place:04}" for place in range(len(contest.means))]
    ranking: Ranking = rank(
        dict(zip(names, contest.means, strict=True)),
        {(names[one], names[other]): p_value for (one, other), (_, p_value) in pairs.items()},
        alpha=alpha,
    )
    return [
        Rank(
            best=ranking.ranks[name][0],
            worst=ranking.ranks[name][1],
            letters=ranking.letters[name],
            of=len(names),
            apart=len(ranking.groups) > 1,
        )
        for name in names
    ]
