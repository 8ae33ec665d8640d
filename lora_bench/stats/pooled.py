"""Spread of a change's differences, pooled over its comparisons, and the chance that an unchanged system passes.

Five seeds give a standard deviation on four degrees of freedom; the comparisons of a suite have many together. Two choices are
tests, each at .02:

* *Paired or not.* If scores of a seed before and after the change go together (correlation over all comparisons), the spread is
  that of the differences, s²(now − before). Else it is s²(before) + s²(now), on twice the degrees of freedom.
* *Alike or not.* Comparisons on one metric share a spread. The one with the largest leaves the pool as long as it exceeds that
  of the others (F test, level over their number: Cochran 1941's outlying variance), and keeps its own.

A change passes if every comparison excludes a loss of its margin at the full level. All of them must, so the level needs no
correction: an intersection of claims (Berger 1982, https://doi.org/10.1080/00401706.1982.10487790). `benchmarks/
against_simulation.py` measures how often changes pass.
"""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from lora_bench.stats.estimate import Estimate, Uncertainty, all_the_same, student_quantile, student_tail
from lora_bench.stats.paired import Difference, PairedDifference
from lora_bench.stats.power import MOST_SEEDS, POWER, fewest_enough, spread_quantiles

# At .05 the tests cost a check of ten seeds half a point of power; wider spreads are missed a little less often.
LEVEL = 0.02

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Pool(Generic[KeyT]):
    """Comparisons, with the number of pairs of each, that share the standard deviation of a difference over seeds.

    *per_seed* is the degrees of freedom that each gives for each seed after the first: 1, or 2 if unpaired.
    """

    seeds: Mapping[KeyT, int]
    sd: float
    per_seed: int

    def freedom(self, seeds: int | None = None) -> float:
        """Return the degrees of freedom of the spread, with *seeds* seeds in each comparison or those that there are."""
        return sum(self.per_seed * ((seeds or own) - 1) for own in self.seeds.values())

    def estimate(self, key: KeyT, value: float) -> Estimate:
        """Return a comparison's estimate with the error of this spread."""
        error = Uncertainty(source="t", standard_error=self.sd / math.sqrt(self.seeds[key]), freedom=self.freedom())
        return Estimate(value=value, uncertainties=(error,))


def pools(family: Mapping[KeyT, Difference], kinds: Mapping[KeyT, str]) -> list[Pool[KeyT]]:
    """Group the comparisons of a change by their spread; those whose differences show none are left out.

    *kinds* has the metric of each: only spreads of one metric are compared.
    """
    varied = {
        key: one for key, one in family.items() if any(error.source == "t" for error in one.estimate.uncertainties)
    }
    per_seed = 1 if _go_together([*varied.values()]) else 2
    variances = {
        key: (one.sd or 0.0) ** 2 if per_seed == 1 else sum(map(statistics.variance, one.scores))
        for key, one in varied.items()
    }
    return pools_of(variances, {key: one.pairs for key, one in varied.items()}, kinds, per_seed)


def pools_of(
    variances: Mapping[KeyT, float], seeds: Mapping[KeyT, int], kinds: Mapping[KeyT, str], per_seed: int = 1
) -> list[Pool[KeyT]]:
    """Group comparisons by the variance of their differences, at least 2 seeds each; see `pools`."""
    found = []
    for kind in dict.fromkeys(kinds[key] for key in variances):
        together = [key for key in variances if kinds[key] == kind]
        while together:
            freedom = {key: per_seed * (seeds[key] - 1) for key in together}
            widest = max(together, key=variances.__getitem__)
            rest = [key for key in together if key != widest]
            if not rest or not _exceeds(widest, rest, variances, freedom):
                break
            together = rest
            found.append(_pool([widest], variances, seeds, per_seed))
        found.append(_pool(together, variances, seeds, per_seed))
    return found


def with_pooled_spread(
    family: Mapping[KeyT, PairedDifference], kinds: Mapping[KeyT, str]
) -> dict[KeyT, PairedDifference]:
    """Give each comparison the error of the pooled spread, on the test items that there are; others keep their own."""
    estimates = {
        key: pool.estimate(key, family[key].estimate.value) for pool in pools(family, kinds) for key in pool.seeds
    }
    return {key: replace(one, estimate=estimates[key]) if key in estimates else one for key, one in family.items()}


def chance_to_pass(
    found: Sequence[Pool[KeyT]], margins: Mapping[KeyT, float | None], alpha: float, seeds: int | None = None
) -> float:
    """Return the probability that every comparison excludes a loss of its margin if nothing changed and the spreads are true.

    Without a margin nothing is excluded. *alpha* is the level of each comparison, and *seeds* may take the place of their
    number.
    """
    from scipy.special import ndtr

    chance = 1.0
    for pool in found:
        freedom = pool.freedom(seeds)
        spread, weights = spread_quantiles(freedom)
        together = np.ones(len(weights))
        for key, own in pool.seeds.items():
            room = (margins[key] or 0.0) * math.sqrt(seeds or own) / pool.sd
            together *= ndtr(room - student_quantile(freedom, alpha) * spread)
        chance *= float(weights @ together)
    return chance


def seeds_to_pass(
    found: Sequence[Pool[KeyT]], margins: Mapping[KeyT, float | None], alpha: float, power: float = POWER
) -> int | None:
    """Return the fewest seeds with which an unchanged system passes with probability *power*; None above 1,000."""
    return fewest_enough(lambda seeds: chance_to_pass(found, margins, alpha, seeds) >= power, MOST_SEEDS, 3)


def _pool(
    keys: Sequence[KeyT], variances: Mapping[KeyT, float], seeds: Mapping[KeyT, int], per_seed: int
) -> Pool[KeyT]:
    freedom = sum(seeds[key] - 1 for key in keys)
    variance = sum((seeds[key] - 1) * variances[key] for key in keys) / freedom
    return Pool(seeds={key: seeds[key] for key in keys}, sd=math.sqrt(variance), per_seed=per_seed)


def _exceeds(widest: KeyT, rest: Sequence[KeyT], variances: Mapping[KeyT, float], freedom: Mapping[KeyT, int]) -> bool:
    """Test if a variance exceeds that of the rest, of which it is the largest."""
    from scipy.special import fdtrc

    of_rest = sum(freedom[key] for key in rest)
    pooled = sum(freedom[key] * variances[key] for key in rest) / of_rest
    p_value = float(fdtrc(freedom[widest], of_rest, variances[widest] / pooled))
    return p_value * (len(rest) + 1) <= LEVEL


def _go_together(family: Sequence[Difference]) -> bool:
    """Test if scores of one seed in both sets are correlated, over all comparisons."""
    family = [one for one in family if not any(map(all_the_same, one.scores))]
    freedom = sum(one.pairs - 1 for one in family)
    if freedom < 2:
        return False
    centred = [[np.subtract(scores, statistics.fmean(scores)) for scores in one.scores] for one in family]
    correlations = [float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in centred]
    mean = sum((one.pairs - 1) * r for one, r in zip(family, correlations, strict=True)) / freedom
    t = abs(mean) * math.sqrt((freedom - 1) / max(1 - mean**2, 1e-12))
    return 2 * student_tail(freedom - 1, t) <= LEVEL
