"""Estimates with their errors, and the intervals and p-values that follow.

An estimate may have two errors: that of the seeds (Student's t over them) and that of seeds and test items together (the
crossed bootstrap). Reports use the wider interval and the larger p-value. These are one rule: the wider interval at confidence
1 − a leaves a number out exactly if both p-values against that number are below a.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from lora_bench.errors import LoraBenchError

CONFIDENCE = 0.95

Source = Literal["t", "bootstrap"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval of an estimate, which contains the true value in a share *confidence* of cases.

    `t` covers seeds on these test items; `bootstrap` covers seeds and test items.
    """

    low: float
    high: float
    confidence: float
    source: Source

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """A standard error above 0, with its degrees of freedom, above 0 and not always a whole number."""

    source: Source
    standard_error: float
    freedom: float


@dataclass(frozen=True, kw_only=True)
class ChoiceError:
    """The error of a score from the choice of its learning rate by trials.

    *sd* is over repeats of the search, in the unit of the score, and *freedom* that of the trials' spread.
    """

    sd: float
    freedom: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its errors.

    Args:
        uncertainties: One or two; none if the error is unknown, for a single seed or equal scores.
        least_p: Lower bound of the p-value against zero; there is no interval at a confidence above 1 − least_p.
        share: Share of the error level that this look has, in (0, 1]: p-values are divided by it, and intervals are as wide
            as their tests (see `looks`).
        choice_sd: Standard deviation from the choice of learning rates, which the uncertainties include; None if they hold
            at these rates only.
        overlap: Test rows for each training row where every seed tests a fold of its own; 0 where all test the same rows.
    """

    value: float
    uncertainties: tuple[Uncertainty, ...] = ()
    least_p: float = 0.0
    share: float = 1.0
    choice_sd: float | None = None
    overlap: float = 0.0

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return the widest interval at *confidence*, or None if no error is known or *confidence* is out of reach."""
        level = 1 - _share(confidence, "confidence")
        if level < self.least_p:
            return None
        tail = level * self.share / 2
        return max(
            (
                Interval(low=self.value - half, high=self.value + half, confidence=confidence, source=one.source)
                for one in self.uncertainties
                for half in [student_quantile(one.freedom, tail) * one.standard_error]
            ),
            key=lambda interval: interval.high - interval.low,
            default=None,
        )

    def p_value(self) -> float | None:
        """Return the largest two-sided p-value against zero, or None if no error is known."""
        above, below = self.p_above(0.0), self.p_below(0.0)
        return None if above is None or below is None else min(1.0, max(2 * min(above, below), self.least_p))

    def p_above(self, threshold: float) -> float | None:
        """Return the largest one-sided p-value for the claim that the true value is above *threshold*."""
        return self._largest_tail(self.value - threshold)

    def p_below(self, threshold: float) -> float | None:
        """Return the largest one-sided p-value for the claim that the true value is below *threshold*."""
        return self._largest_tail(threshold - self.value)

    def widened(self, choices: Sequence[ChoiceError | None]) -> Self:
        """Return the estimate with the errors of independent choices, unless one is unknown.

        Freedom is Satterthwaite's, and no more than without them: a further error makes nothing surer.
        """
        errors = [choice for choice in choices if choice is not None]
        if not errors or len(errors) < len(choices):
            return self
        variance = math.fsum(error.sd**2 for error in errors)
        noise = math.fsum(error.sd**4 / error.freedom for error in errors)
        wider = []
        for one in self.uncertainties:
            total = one.standard_error**2 + variance
            freedom = min(one.freedom, total**2 / (one.standard_error**4 / one.freedom + noise))
            wider.append(replace(one, standard_error=math.sqrt(total), freedom=freedom))
        return replace(self, uncertainties=tuple(wider), choice_sd=math.sqrt(variance))

    def negated(self) -> Self:
        """Return the estimate with the opposite sign, for a metric where lower is better."""
        return replace(self, value=-self.value)

    def _largest_tail(self, distance: float) -> float | None:
        tail = max(
            (student_tail(one.freedom, distance / one.standard_error) for one in self.uncertainties), default=None
        )
        return None if tail is None else min(1.0, tail / self.share)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Values over seeds, *n* of them, at least 1.

    The sample standard deviation is None for a single value. So is the t-interval of the mean, also for equal values, which do
    not show the spread of others.
    """

    n: int
    mean: float
    median: float
    sd: float | None
    least: float
    greatest: float
    interval: Interval | None


def summarise(values: Sequence[float], confidence: float = CONFIDENCE, *, overlap: float = 0.0) -> Summary:
    """Return mean, median, sample standard deviation, least, greatest and t-interval of *values*, with an *overlap* of folds.

    Raise LoraBenchError if there are no values, or one is not finite.
    """
    if not values:
        raise LoraBenchError("there are no values to summarise; expected at least one")
    refuse_no_numbers(enumerate(values, start=1), "value")
    return Summary(
        n=len(values),
        mean=statistics.fmean(values),
        median=statistics.median(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        least=min(values),
        greatest=max(values),
        interval=mean_estimate(values, overlap=overlap).interval(confidence),
    )


def mean_estimate(values: Sequence[float], size: float | None = None, overlap: float = 0.0) -> Estimate:
    """Return the mean of finite *values* over seeds, with the standard error s / √n on n − 1 degrees of freedom.

    *size* is the magnitude of the numbers that *values* were computed from, which sets their rounding error; by default the
    greatest of *values*. Training rows of folds overlap, so their variance is 1 + *overlap* times as great, see `Estimate`.
    """
    mean = statistics.fmean(values)
    if all_the_same(values, size):
        return Estimate(value=mean, overlap=overlap)
    error = statistics.stdev(values) * math.sqrt((1 + overlap) / len(values))
    t = Uncertainty(source="t", standard_error=error, freedom=len(values) - 1)
    return Estimate(value=mean, uncertainties=(t,), overlap=overlap)


def all_the_same(values: Sequence[float], size: float | None = None) -> bool:
    """Test if values differ by rounding at most: 0.3 − 0.2 and 0.2 − 0.1 are the same. True for a single value."""
    size = max(map(abs, values)) if size is None else size
    return max(values) - min(values) <= 1e-12 * size


def clopper_pearson(least: int, most: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a share: the lower bound for *least* successes of *n*, the upper bound for *most*.

    The two counts differ if some trials could be counted either way. Clopper and Pearson 1934,
    https://doi.org/10.1093/biomet/26.4.404
    """
    from scipy.special import betaincinv

    tail = (1 - _share(confidence, "confidence")) / 2
    low = float(betaincinv(least, n - least + 1, tail)) if least > 0 else 0.0
    high = float(betaincinv(most + 1, n - most, 1 - tail)) if most < n else 1.0
    return low, high


def student_quantile(freedom: float, tail: float) -> float:
    """Return the number that Student's t exceeds with probability *tail*, at most a half."""
    # scipy.special alone: scipy.stats takes three times as long to import.
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail))


def student_tail(freedom: float, value: float) -> float:
    """Return the probability that Student's t exceeds *value*."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def refuse_no_numbers(values: Iterable[tuple[object, float]], kind: str) -> None:
    """Raise LoraBenchError for the first of named values that is infinite or NaN."""
    for name, value in values:
        if not math.isfinite(value):
            raise LoraBenchError(f"{kind} {name} is {value}; expected a finite number")


def seeds_in_order(scores: Mapping[int, float]) -> tuple[int, ...]:
    """Return the seeds of *scores*, which must be finite, ascending: no result depends on the order of reading runs."""
    for seed, score in scores.items():
        if not math.isfinite(score):
            raise LoraBenchError(
                f"the score of seed {seed} is {score}; expected a finite number: leave out a run without a score, or put it "
                "at the metric's floor (with_failures_at_floor)"
            )
    return tuple(sorted(scores))


def _share(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise LoraBenchError(f"{name} is {value}; expected a number between 0 and 1")
    return value
