"""Verdicts on a family of comparisons, from differences, a margin declared beforehand, and one alpha.

`equivalent`    the difference is smaller than the margin, either way (two one-sided tests)
`better`        the first method scores better; nothing is said of how much
`worse`         likewise
`non-inferior`  the first method is not worse by the margin or more, and no more can be said
`inconclusive`  none of these; it never means that methods are equal

A difference can be real and too small to care about: `equivalent` is then the verdict, and `small_but_real` the direction.
Better and worse are claims of one kind and equivalent and non-inferior of another; over the whole family each kind is false
with a probability of at most alpha (see `family`). Every p-value is the larger of that over seeds and that over seeds and test
items. Two one-sided tests: Schuirmann 1987, https://doi.org/10.1007/BF01068419
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from lora_bench.errors import LoraBenchError
from lora_bench.stats.crossed import Crossed
from lora_bench.stats.estimate import Estimate, Interval
from lora_bench.stats.family import Adjusted, MarginClaims, holm, margin_claims
from lora_bench.stats.power import ALPHA, POWER, Needed, seeds_needed

# Two differences give no spread worth the name: Student's quantile for them is 12.7.
FEWEST_PAIRS = 3
INDICATIVE_PAIRS = 6
RECOMMENDATION_PAIRS = 10

VerdictName = Literal["better", "worse", "equivalent", "non-inferior", "inconclusive"]
Direction = Literal["better", "worse"]
Grade = Literal["exploratory", "indicative", "recommendation"]


class Difference(Protocol):
    """What a verdict is made of: a `PairedDifference`, or a `MacroDifference` over tasks."""

    @property
    def estimate(self) -> Estimate:
        """First method less second."""

    @property
    def pairs(self) -> int:
        """Number of seeds that both have."""

    @property
    def sd(self) -> float | None:
        """Standard deviation of the differences over seeds."""

    @property
    def crossed(self) -> Crossed | None:
        """What test items add."""

    @property
    def reason(self) -> str | None:
        """Why the estimate has no error."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on the first method against the second. Differences are first less second, as the metric has them.

    Args:
        verdict: Of the first method.
        small_but_real: The direction of a difference that is shown to be there and smaller than the margin.
        beyond_margin: Whether a better or worse method is so by more than the margin; read off `simultaneous`.
        grade: How far to trust it: up to 5 pairs `exploratory` (a hint where to look), 6 to 9 `indicative` (an
            assumption-free test could confirm it), 10 and more `recommendation`.
        difference: The estimate.
        interval: At 1 − alpha, for this comparison alone; the wider one. None where no error is known.
        adjusted: At the level at which Holm's procedure tested this comparison: it leaves out 0 exactly if a difference is
            claimed.
        simultaneous: At 1 − alpha over the whole family, all of its intervals together (Bonferroni).
        p_value: Two-sided, of no difference; the larger one.
        adjusted_p: The same after Holm's procedure.
        equivalence_p: Adjusted, of a difference of the margin or more; None without a margin.
        noninferiority_p: Adjusted, of being worse by the margin or more.
        margin: In the unit of the metric, or None.
        alpha: Error level of the family.
        family: Number of comparisons in it.
        needed: For `inconclusive`: the seeds that would decide; None beyond 1000, and where no spread is known.
        reason: Why nothing can be said, or None.
    """

    verdict: VerdictName
    small_but_real: Direction | None
    beyond_margin: bool
    grade: Grade
    difference: float
    pairs: int
    interval: Interval | None
    adjusted: Interval | None
    simultaneous: Interval | None
    p_value: float | None
    adjusted_p: float | None
    equivalence_p: float | None
    noninferiority_p: float | None
    margin: float | None
    alpha: float
    family: int
    needed: Needed | None
    reason: str | None


KeyT = TypeVar("KeyT", bound=Hashable)


def judge(
    family: Mapping[KeyT, Difference],
    *,
    margin: float | Mapping[KeyT, float | None] | None,
    alpha: float = ALPHA,
    higher_is_better: bool | Mapping[KeyT, bool] = True,
    power: float | None = POWER,
) -> dict[KeyT, Verdict]:
    """The verdict on every comparison of a family, whatever the order of the comparisons.

    Args:
        family: All comparisons that are made in one table.
        margin: The difference that nobody should care about, above 0, in the unit of the metric; for all or for each. Where
            it is None, equivalence and non-inferiority are not asked.
        alpha: Error level of each kind of claim over the family.
        higher_is_better: Direction of the metric, for all or for each.
        power: With which `needed` is to decide; None where nobody asks how many seeds would.

    Raises:
        LoraBenchError: If a margin is missing or not above 0, a direction is missing, or alpha is not in (0, 0.5).
    """
    if not 0 < alpha < 0.5:
        raise LoraBenchError(f"alpha is {alpha}; expected a number between 0 and 0.5, such as 0.05")
    margins = {key: _each(margin, key, "margin") for key in family}
    for key, one in margins.items():
        if one is not None and not (one > 0 and math.isfinite(one)):
            raise LoraBenchError(f"margin of {key} is {one}; expected a number above 0 in the unit of its metric")
    gains = {key: _gain(one, _each(higher_is_better, key, "direction")) for key, one in family.items()}
    levels = holm([gain.p_value() for gain in gains.values()], alpha)
    asked = {key: one for key, one in margins.items() if one is not None}
    above = [gains[key].p_above(-one) for key, one in asked.items()]
    below = [gains[key].p_below(one) for key, one in asked.items()]
    claims = dict(zip(asked, margin_claims(above, below, alpha), strict=True))
    return {
        key: _verdict(family[key], gain, margins[key], adjusted, claims.get(key), alpha, len(family), power)
        for (key, gain), adjusted in zip(gains.items(), levels, strict=True)
    }


def grade(pairs: int) -> Grade:
    """How far to trust a verdict from this many pairs of seeds."""
    if pairs >= RECOMMENDATION_PAIRS:
        return "recommendation"
    return "indicative" if pairs >= INDICATIVE_PAIRS else "exploratory"


def _verdict(
    difference: Difference,
    gain: Estimate,
    margin: float | None,
    adjusted: Adjusted,
    claims: MarginClaims | None,
    alpha: float,
    family: int,
    power: float | None,
) -> Verdict:
    direction: Direction | None = None
    if adjusted.p_value is not None and adjusted.p_value <= alpha:
        direction = "better" if gain.value > 0 else "worse"
    within, above = (claims.within, claims.above) if claims is not None else (None, None)
    name: VerdictName
    if within is not None and within <= alpha:
        name = "equivalent"
    elif direction is not None:
        name = direction
    elif above is not None and above <= alpha:
        name = "non-inferior"
    else:
        name = "inconclusive"
    # As the metric has it, and not as gains: a reader looks for the difference of the two numbers in the table.
    shown = difference.estimate if difference.pairs >= FEWEST_PAIRS else Estimate(value=difference.estimate.value)
    simultaneous = shown.interval(1 - alpha / family)
    clear = simultaneous is not None and margin is not None and max(simultaneous.low, -simultaneous.high) > margin
    return Verdict(
        verdict=name,
        small_but_real=direction if name == "equivalent" else None,
        beyond_margin=clear and name in ("better", "worse"),
        grade=grade(difference.pairs),
        difference=difference.estimate.value,
        pairs=difference.pairs,
        interval=difference.estimate.interval(1 - alpha),
        adjusted=shown.interval(1 - adjusted.level),
        simultaneous=simultaneous,
        p_value=gain.p_value(),
        adjusted_p=adjusted.p_value,
        equivalence_p=within,
        noninferiority_p=above,
        margin=margin,
        alpha=alpha,
        family=family,
        needed=_needed(difference, margin, adjusted, claims, power) if name == "inconclusive" else None,
        reason=_reason(difference),
    )


def _needed(
    difference: Difference, margin: float | None, adjusted: Adjusted, claims: MarginClaims | None, power: float | None
) -> Needed | None:
    crossed = difference.crossed
    items = max(0.0, crossed.item_variance - crossed.shared_variance) if crossed is not None else 0.0
    if power is None or difference.pairs < FEWEST_PAIRS or not difference.estimate.uncertainties or not difference.sd:
        return None
    return seeds_needed(
        difference.estimate.value,
        difference.sd,
        margin=margin,
        item_variance=items,
        alpha=adjusted.level,
        margin_alpha=claims.level if claims is not None else adjusted.level,
        power=power,
    )


def _gain(difference: Difference, higher_is_better: bool) -> Estimate:
    """How much better the first method is, without errors where there are too few pairs for a verdict."""
    estimate = difference.estimate if higher_is_better else difference.estimate.negated()
    return estimate if difference.pairs >= FEWEST_PAIRS else Estimate(value=estimate.value)


def _reason(difference: Difference) -> str | None:
    if difference.reason is None and difference.pairs < FEWEST_PAIRS:
        return f"{difference.pairs} pairs of seeds are fewer than the {FEWEST_PAIRS} of which verdicts are made"
    return difference.reason


ValueT = TypeVar("ValueT")


def _each(value: ValueT | Mapping[KeyT, ValueT], key: KeyT, kind: str) -> ValueT:
    if not isinstance(value, Mapping):
        return value
    if key not in value:
        raise LoraBenchError(f"there is no {kind} for {key}; known: {', '.join(map(str, value))}")
    return value[key]
