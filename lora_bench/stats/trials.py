"""Expected best score of a number of tuning trials.

A method that is tuned longer looks better. With the scores of n trials, the expected best of k depends only on the method and
k, so two methods can be compared at any k up to n (Dodge et al. 2019, https://arxiv.org/abs/1909.03004). This is the mean over
all choices of k different trials, which has no bias. Dodge's estimate, with trials drawn more than once, is too low (Tang et
al. 2020, https://arxiv.org/abs/2004.13705).
"""

import math
from collections.abc import Sequence

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import refuse_no_numbers


def expected_best(scores: Sequence[float], *, higher_is_better: bool = True) -> tuple[float, ...]:
    """Return the expected best score of 1, 2, …, n trials: the mean first, the best last.

    With scores ascending, that of k is Σ_i C(i−1, k−1) / C(n, k) · score_i. The factor is the share of choices in which the
    i-th score is the greatest. *scores* are those of all trials on the selection split, failed ones at the metric's floor.
    Raise LoraBenchError if there are none, or one is not finite.
    """
    if not scores:
        raise LoraBenchError("there are no trials; expected the score of at least one")
    refuse_no_numbers(enumerate(scores, start=1), "the score of trial")
    ordered = sorted(scores, reverse=not higher_is_better)
    return tuple(_mean_best(ordered, k) for k in range(1, len(ordered) + 1))


def _mean_best(ordered: Sequence[float], k: int) -> float:
    """Return the mean over all choices of *k* of *ordered* of the last one."""
    n = len(ordered)
    # C(i−1, k−1) / C(n, k), from that of the last score, k / n, downwards: the binomials themselves overflow.
    share, terms = k / n, []
    for i in range(n, k - 1, -1):
        terms.append(share * ordered[i - 1])
        if i > 1:
            share *= (i - k) / (i - 1)
    return math.fsum(terms)
