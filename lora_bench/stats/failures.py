"""Failed runs: their rate, and scores that include them.

If one run in ten collapses, no formula gives an interval of the mean with its stated coverage. So failures are counted
separately, and the comparison is repeated with failures at the score of a method that learned nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import CONFIDENCE, clopper_pearson, refuse_no_numbers


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of runs, with its exact (Clopper-Pearson) interval.

    Args:
        count: Number of the counted runs, such as diverged or collapsed ones.
        runs: Number of all runs.
        low: Lower bound at *confidence*.
        high: Upper bound.
    """

    count: int
    runs: int
    share: float
    low: float
    high: float
    confidence: float


def rate(count: int, runs: int, confidence: float = CONFIDENCE) -> Rate:
    """Return the rate of *count* among *runs*.

    Raises:
        LoraBenchError: If there are no runs, or fewer than *count*.
    """
    if not 0 <= count <= runs or runs < 1:
        raise LoraBenchError(
            f"{count} of {runs} runs is no rate; expected at least one run, and no more counted than ran"
        )
    low, high = clopper_pearson(count, count, runs, confidence)
    return Rate(count=count, runs=runs, share=count / runs, low=low, high=high, confidence=confidence)


def collapsed(scores: Mapping[int, float], floor: float, *, higher_is_better: bool = True) -> tuple[int, ...]:
    """Return the seeds that ended `ok` with a score no better than *floor*, ascending.

    Args:
        scores: Score of each seed.
        floor: Score of a method that learned nothing, such as that of the majority class.
        higher_is_better: Direction of the metric.
    """
    refuse_no_numbers([("floor", floor)], "the")
    return tuple(
        seed for seed, score in sorted(scores.items()) if (score <= floor if higher_is_better else score >= floor)
    )


def with_failures_at_floor(scores: Mapping[int, float], failed: Iterable[int], floor: float) -> dict[int, float]:
    """Add *failed* seeds with the score *floor*: the result for a user, who cannot choose the seed.

    Raises:
        LoraBenchError: If a seed both failed and has a score, or *floor* is not finite.
    """
    refuse_no_numbers([("floor", floor)], "the")
    failed = list(failed)
    both = sorted(set(failed) & set(scores))
    if both:
        raise LoraBenchError(f"seed {both[0]} failed and has the score {scores[both[0]]}; expected one of the two")
    return {**scores, **dict.fromkeys(failed, floor)}
