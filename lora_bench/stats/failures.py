"""Failed runs: their rate, and scores that include them.

If one run in ten collapses, no formula gives an interval of the mean with its stated coverage. So failures are counted
separately, and the comparison is repeated with failures at the score of a method that learned nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import CONFIDENCE, clopper_pearson, refuse_no_numbers


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of runs, such as of diverged or collapsed ones, with its exact (Clopper-Pearson) interval."""

    count: int
    runs: int
    share: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Risk:
    """The cost of collapses to one method of a comparison.

    Args:
        loss: Gain of its runs that learned over one that learned nothing, above 0.
        share: Share of its runs in the comparison that collapsed.
        excluded: Rate of collapses that its runs exclude at 95 %, of all its places; None where no collapse is seen.
    """

    loss: float
    share: float
    excluded: float | None


@dataclass(frozen=True, kw_only=True)
class Cancelling:
    """The rate of collapses of the first method, or of the second, in (0, 1], that would cancel a claim.

    *excluded* is the rate that the runs of this method exclude at 95 %, or None as in `Risk`.
    """

    of_first: bool
    rate: float
    excluded: float | None


def cancelling(rooms: tuple[float | None, float | None], risks: tuple[Risk, Risk]) -> Cancelling | None:
    """Return the least rate of collapses of either method that uses up its room, or None if neither has any.

    *rooms* are the gains that the first and the second method may lose before a claim no longer holds; None for any.
    """
    found = [
        Cancelling(of_first=first, rate=min(1.0, risk.share + room / risk.loss), excluded=risk.excluded)
        for first, room, risk in zip((True, False), rooms, risks, strict=True)
        if room is not None
    ]
    return min(found, key=lambda one: one.rate, default=None)


def excluded_rate(count: int, runs: int) -> float:
    """Return the rate that *count* collapses in *runs* runs exclude at 95 %: one-sided, 10 runs without one exclude 26 %."""
    return clopper_pearson(count, count, runs, 2 * CONFIDENCE - 1)[1]


def rate(count: int, runs: int, confidence: float = CONFIDENCE) -> Rate:
    """Return the rate of *count* among *runs*.

    Raise LoraBenchError if there are no runs, or fewer than *count*.
    """
    if not 0 <= count <= runs or runs < 1:
        raise LoraBenchError(
            f"{count} of {runs} runs is no rate; expected at least one run, and no more counted than ran"
        )
    low, high = clopper_pearson(count, count, runs, confidence)
    return Rate(count=count, runs=runs, share=count / runs, low=low, high=high, confidence=confidence)


def collapsed(scores: Mapping[int, float], floor: float, *, higher_is_better: bool = True) -> tuple[int, ...]:
    """Return the seeds that ended `ok` with a score no better than *floor*, ascending.

    *floor* is the score of a method that learned nothing, such as that of the majority class.
    """
    refuse_no_numbers([("floor", floor)], "the")
    return tuple(
        seed for seed, score in sorted(scores.items()) if (score <= floor if higher_is_better else score >= floor)
    )


def with_failures_at_floor(scores: Mapping[int, float], failed: Iterable[int], floor: float) -> dict[int, float]:
    """Add *failed* seeds with the score *floor*: the result for a user, who cannot choose the seed.

    Raise LoraBenchError if a seed both failed and has a score, or *floor* is not finite.
    """
    refuse_no_numbers([("floor", floor)], "the")
    failed = list(failed)
    both = sorted(set(failed) & set(scores))
    if both:
        raise LoraBenchError(f"seed {both[0]} failed and has the score {scores[both[0]]}; expected one of the two")
    return {**scores, **dict.fromkeys(failed, floor)}
