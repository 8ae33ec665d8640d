"""Ranks of the methods that stand side by side: groups of ties, and the ranks that the shown differences leave open.

Ranks claim no more than the verdicts. If one of two methods is the reference, its verdict decides whether they are told apart.
All other pairs of a report are a family of their own, for which Holm's procedure keeps the same error level. So ranks never
contradict a verdict. All true ranks lie in the shown ones with probability 1 − 2 alpha or more: alpha for either family, as
`benchmarks/rank_coverage.py` measures.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_bench.stats import Verdict, holm, rank

# By how much the first of two methods is better, and the p-value of no difference.
GainAndP = tuple[float, float | None]


@dataclass(frozen=True)
class Rank:
    """The rank of a method: the best and the worst that the shown differences leave it, among so many methods.

    Two methods share a letter exactly if no difference between them is shown; *apart* if any two are told apart.
    """

    best: int
    worst: int
    letters: str
    of: int
    apart: bool


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Methods that are ranked among each other, the reference first: mean scores, and the verdicts on the others.

    *sign* is -1 if lower scores are better. *compare* compares two others by their places; their p-values are not adjusted.
    """

    means: Sequence[float]
    sign: int = 1
    verdicts: Sequence[Verdict]
    compare: Callable[[int, int], GainAndP]


def rank_all(contests: Sequence[Contest], alpha: float) -> list[list[Rank]]:
    """Return the rank of every method of every contest, in their order, with an error level of *alpha* for either family.

    A contest of one method has none, nor one with a shown difference that goes against the order of the means, which can be
    where methods have scores of different seeds: then there is no one order.
    """
    others = [
        {pair: contest.compare(*pair) for pair in itertools.combinations(range(1, len(contest.means)), 2)}
        for contest in contests
    ]
    adjusted = iter(holm([p_value for pairs in others for _, p_value in pairs.values()], alpha))
    found = []
    for contest, pairs in zip(contests, others, strict=True):
        known: dict[tuple[int, int], GainAndP] = {
            (0, place): (-contest.sign * verdict.difference, verdict.adjusted_p)
            for place, verdict in enumerate(contest.verdicts, start=1)
        }
        known |= {pair: (gain, next(adjusted).p_value) for pair, (gain, _) in pairs.items()}
        found.append(_ranks([contest.sign * mean for mean in contest.means], known, alpha))
    return found


def _ranks(means: Sequence[float], pairs: dict[tuple[int, int], GainAndP], alpha: float) -> list[Rank]:
    shown = {pair: gain for pair, (gain, p_value) in pairs.items() if p_value is not None and p_value <= alpha}
    if len(means) < 2 or any(gain * (means[one] - means[other]) <= 0 for (one, other), gain in shown.items()):
        return []
    # Names in the order of places, so that equal means stand as the table has them.
    names = [f"{place:04}" for place in range(len(means))]
    ranking = rank(
        dict(zip(names, means, strict=True)),
        {(names[one], names[other]): p_value for (one, other), (_, p_value) in pairs.items()},
        alpha=alpha,
    )
    return [
        Rank(*ranking.ranks[name], letters=ranking.letters[name], of=len(names), apart=len(ranking.groups) > 1)
        for name in names
    ]
