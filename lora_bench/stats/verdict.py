"""Verdicts on a family of comparisons, from differences, a margin declared beforehand, and one alpha.

docs/statistics.md#verdicts says what each verdict means. A difference can be real but too small to matter: the verdict is then
`equivalent`, and `small_but_real` gives the direction. Better and worse are one kind of claim, equivalent and non-inferior
another. Over the whole family each kind is false with a probability of at most alpha (see `family`). Every p-value is the
larger of that over seeds and that over seeds and test items.

Where runs collapse, p-values have a least value and margins are not claimed (see `apart`). Otherwise a claim of a margin takes
29 pairs without a collapse, and more in a family.
"""

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from lora_bench.errors import LoraBenchError
from lora_bench.stats.apart import fewest_apart, fewest_unseen, least_p, stand_apart, unseen
from lora_bench.stats.estimate import Estimate, Interval
from lora_bench.stats.failures import Cancelling, Risk, cancelling
from lora_bench.stats.family import Adjusted, MarginClaims, holm, margin_claims
from lora_bench.stats.looks import STOPPED
from lora_bench.stats.paired import Difference
from lora_bench.stats.power import ALPHA, POWER, Needed, items_needed, seeds_needed

# Three runs hide that runs stand apart where seeds move all methods alike: of twelve like comparisons with two kinds of runs
# .088 have a false difference, with four runs .017; see benchmarks/statistics_collapse.py.
FEWEST_PAIRS = 4
# Two values give no usable interval: Student's quantile for them is 12.7.
FEWEST_FOR_INTERVAL = 3
INDICATIVE_PAIRS = 6
RECOMMENDATION_PAIRS = 10

VerdictName = Literal["better", "worse", "equivalent", "non-inferior", "inconclusive"]
Direction = Literal["better", "worse"]
Grade = Literal["exploratory", "indicative", "recommendation"]
WithinMargin = Literal["equivalent", "non-inferior"]
KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class JudgeSettings(Protocol):
    """What is declared for all comparisons of a family; a record's `Analysis` is such."""

    @property
    def alpha(self) -> float:
        """Error level of each kind of claim over the family."""

    def share(self, pairs: int) -> float:
        """Return the share of alpha that a comparison of this many seeds has."""


@dataclass(frozen=True, kw_only=True)
class FixedSeeds:
    """Settings of a family without a declaration, whose seeds were fixed."""

    alpha: float = ALPHA

    def share(self, pairs: int) -> float:
        """Return 1: one look has all of alpha."""
        return 1.0


UNDECLARED = FixedSeeds()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Verdict on the first method against the second. Differences are first minus second, in the metric's own direction.

    Args:
        small_but_real: Direction of a difference that is shown and also shown to be smaller than the margin.
        beyond_margin: Whether a better or worse method is so by more than the margin, by the interval `simultaneous`.
        grade: Degree of trust: up to 5 pairs `exploratory` (a hint where to look), 6 to 9 `indicative` (an assumption-free
            test could confirm it), 10 and more `recommendation`.
        interval: The wider interval at 1 − alpha, for this comparison alone. None if no error is known. Where seeds were
            added until decided, it is wider, to cover as often in spite of the stop.
        adjusted: Interval at the level at which Holm's procedure tested this comparison: it leaves out 0 exactly if a
            difference is claimed. None if p-values do not reach that level.
        simultaneous: Interval at 1 − alpha over the whole family, all of its intervals together (Bonferroni); None likewise.
        p_value: Two-sided p-value of no difference; the larger one.
        adjusted_p: The same after Holm's procedure.
        equivalence_p: Adjusted p-value of a difference of the margin or more; None without a margin, and if runs of the
            family or of these two methods stand apart.
        noninferiority_p: Adjusted p-value of being worse by the margin or more; None likewise.
        unless_collapse: Claim of the margin on the assumption that neither method collapses in a tenth of its runs; None if
            there is none, or if the verdict claims as much without it.
        cancelled: Rate of collapses that would cancel the claim; None without one, and where the cost of a collapse is unknown.
        choice_sd: Standard deviation from the choice of learning rates, which all intervals and p-values include; None if
            they hold at these rates only.
        apart: Whether runs collapsed or stand apart, so that p-values have a least value and no margin is claimed.
        margin: In the unit of the metric, or None.
        needed: For `inconclusive`: the seeds that would decide; None beyond 1000, and if no spread is known.
        needed_items: The test items that would decide with these seeds, if they must grow by a smaller factor than seeds.
        reason: Why no verdict is possible, or None.
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
    unless_collapse: WithinMargin | None
    cancelled: Cancelling | None
    choice_sd: float | None
    apart: bool
    margin: float | None
    alpha: float
    family: int
    needed: Needed | None
    needed_items: int | None
    reason: str | None

    @property
    def decides(self) -> bool:
        """Whether anything is claimed, if only on the assumption that no run collapses."""
        return self.verdict != "inconclusive" or self.unless_collapse is not None

    @property
    def at_least(self) -> float:
        """The least size of a claimed difference by `simultaneous`; 0 where that excludes no size."""
        return 0.0 if self.simultaneous is None else max(0.0, self.simultaneous.low, -self.simultaneous.high)


def judge(
    family: Mapping[KeyT, Difference],
    *,
    margin: float | Mapping[KeyT, float | None] | None,
    settings: JudgeSettings = UNDECLARED,
    higher_is_better: bool | Mapping[KeyT, bool] = True,
    power: float | None = POWER,
    collapsed: Collection[KeyT] = (),
    shares: float | Mapping[KeyT, float] | None = None,
    risks: Mapping[KeyT, tuple[Risk, Risk] | None] | None = None,
    fewest: int = FEWEST_PAIRS,
) -> dict[KeyT, Verdict]:
    """Judge every comparison of a family; their order does not matter.

    Args:
        family: All comparisons of one table.
        margin: The smallest difference that matters, above 0, in the unit of the metric; for all or for each. If None,
            equivalence and non-inferiority are not tested.
        settings: What is declared for the whole family; by default nothing.
        higher_is_better: Direction of the metric, for all or for each.
        power: Power for `needed`; None to leave `needed` out.
        collapsed: Comparisons with a run that is known to have collapsed. For others, collapses are detected from the scores
            of the whole family.
        shares: Share of alpha at the look that each comparison has reached (`looks.share_of`); by default as *settings* say.
        risks: Cost of collapses of the first and of the second method, where it is known.
        fewest: Pairs of seeds that a verdict takes.

    Raise LoraBenchError if a margin is missing or not above 0, a direction is missing, or alpha is not in (0, 0.5).
    """
    alpha = settings.alpha
    if not 0 < alpha < 0.5:
        raise LoraBenchError(f"alpha is {alpha}; expected a number between 0 and 0.5, such as 0.05")
    margins = {key: _each(margin, key, "margin") for key in family}
    for key, declared in margins.items():
        if declared is not None and not (declared > 0 and math.isfinite(declared)):
            raise LoraBenchError(f"margin of {key} is {declared}; expected a number above 0 in the unit of its metric")
    everywhere = stand_apart(scores for difference in family.values() for scores in difference.scores)
    asked = {
        key: _Asked(
            difference=difference,
            margin=margins[key],
            higher_is_better=_each(higher_is_better, key, "direction"),
            apart=everywhere or key in collapsed,
            own_apart=stand_apart(difference.scores),
            share=settings.share(difference.pairs) if shares is None else _each(shares, key, "share"),
            risks=(risks or {}).get(key),
            fewest=fewest,
        )
        for key, difference in family.items()
    }
    levels = holm([comparison.gain.p_value() for comparison in asked.values()], alpha)
    claims, unless = _margins(asked, alpha, strictly=True), _margins(asked, alpha, strictly=False)
    return {
        key: _verdict(comparison, adjusted, claims.get(key), unless.get(key), alpha, len(family), power)
        for (key, comparison), adjusted in zip(asked.items(), levels, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A comparison with the settings of its tests."""

    difference: Difference
    margin: float | None
    higher_is_better: bool
    apart: bool  # one of its runs collapsed, or runs of its family stand apart
    own_apart: bool  # its own runs stand apart, which the test on a whole family may miss
    share: float  # of alpha, at its look
    risks: tuple[Risk, Risk] | None
    fewest: int  # pairs that a verdict takes

    @property
    def enough(self) -> bool:
        """Whether there are enough pairs for a verdict."""
        return self.difference.pairs >= self.fewest

    @property
    def estimate(self) -> Estimate:
        """The difference at its look; if runs stand apart, with the least p-value that its pairs allow."""
        least = min(1.0, least_p(self.difference.pairs) / self.share) if self.apart else 0.0
        return replace(self.difference.estimate, least_p=least, share=self.share)

    @property
    def alone(self) -> Estimate:
        """The difference, for an interval of this comparison alone."""
        return replace(self.difference.estimate, share=1.0 if self.share == 1.0 else STOPPED)

    @property
    def shown(self) -> Estimate:
        """The estimate, without errors if there are too few pairs for a verdict."""
        return self.estimate if self.enough else Estimate(value=self.estimate.value)

    @property
    def gain(self) -> Estimate:
        """Gain of the first method: positive if it is better."""
        return self.shown if self.higher_is_better else self.shown.negated()

    def within(self, *, strictly: bool) -> tuple[float | None, float | None]:
        """Return one-sided p-values of being above −margin and below +margin; *strictly* also excludes frequent collapses."""
        assert self.margin is not None
        above, below = self.gain.p_above(-self.margin), self.gain.p_below(self.margin)
        if above is None or below is None or self.apart or self.own_apart:
            return None, None
        least = unseen(self.difference.pairs) if strictly else 0.0
        return max(above, least), max(below, least)


def _margins(asked: Mapping[KeyT, _Asked], alpha: float, *, strictly: bool) -> dict[KeyT, MarginClaims]:
    p_values = {key: pair.within(strictly=strictly) for key, pair in asked.items() if pair.margin is not None}
    above, below = ([of_pair[side] for of_pair in p_values.values()] for side in (0, 1))
    return dict(zip(p_values, margin_claims(above, below, alpha), strict=True))


def _claimed(claims: MarginClaims | None, alpha: float) -> WithinMargin | None:
    if claims is None:
        return None
    if claims.within is not None and claims.within <= alpha:
        return "equivalent"
    return "non-inferior" if claims.above is not None and claims.above <= alpha else None


def grade(pairs: int) -> Grade:
    """Return the degree of trust in a verdict from this many pairs of seeds."""
    if pairs >= RECOMMENDATION_PAIRS:
        return "recommendation"
    return "indicative" if pairs >= INDICATIVE_PAIRS else "exploratory"


def _verdict(
    asked: _Asked,
    adjusted: Adjusted,
    claims: MarginClaims | None,
    unless_collapse: MarginClaims | None,
    alpha: float,
    family: int,
    power: float | None,
) -> Verdict:
    difference, gain, margin = asked.difference, asked.gain, asked.margin
    direction: Direction | None = None
    if adjusted.p_value is not None and adjusted.p_value <= alpha:
        direction = "better" if gain.value > 0 else "worse"
    within, unless = _claimed(claims, alpha), _claimed(unless_collapse, alpha)
    name: VerdictName = within if within == "equivalent" else direction or within or "inconclusive"
    # In the metric's direction, not as gains: readers expect the difference of the two numbers in the table.
    simultaneous = asked.shown.interval(1 - alpha / family)
    clear = simultaneous is not None and margin is not None and max(simultaneous.low, -simultaneous.high) > margin
    unless = unless if unless != within and (unless == "equivalent" or direction is None) else None
    needed, needed_items = _needed(asked, adjusted, claims, power) if name == "inconclusive" else (None, None)
    claim, tested = (name, claims) if name != "inconclusive" else (unless, unless_collapse)
    level = adjusted.level if tested is None or claim in ("better", "worse") else 2 * tested.level
    rooms = _rooms(claim, gain.interval(1 - level), margin)
    return Verdict(
        verdict=name,
        small_but_real=direction if name == "equivalent" else None,
        beyond_margin=clear and name in ("better", "worse"),
        grade=grade(difference.pairs),
        difference=difference.estimate.value,
        pairs=difference.pairs,
        interval=asked.alone.interval(1 - alpha),
        adjusted=asked.shown.interval(1 - adjusted.level),
        simultaneous=simultaneous,
        p_value=gain.p_value(),
        adjusted_p=adjusted.p_value,
        equivalence_p=claims.within if claims is not None else None,
        noninferiority_p=claims.above if claims is not None else None,
        unless_collapse=unless,
        cancelled=cancelling(rooms, asked.risks) if asked.risks is not None else None,
        choice_sd=difference.estimate.choice_sd,
        apart=asked.apart,
        margin=margin,
        alpha=alpha,
        family=family,
        needed=needed,
        needed_items=needed_items,
        reason=_reason(asked),
    )


def _rooms(claim: str | None, gain: Interval | None, margin: float | None) -> tuple[float | None, float | None]:
    """Return what the first and the second method may lose before a claim no longer holds, at the least *gain* in its interval.

    That interval is at the level at which Holm's procedure tested the claim, two-sided or as two one-sided tests: it lies on
    the claimed side exactly if the claim is made. `simultaneous` does not for one claim in five of our baselines.
    """
    if gain is None or claim is None:
        return None, None
    if claim in ("better", "worse"):
        return (gain.low, None) if claim == "better" else (None, -gain.high)
    if margin is None:
        return None, None
    return gain.low + margin, margin - gain.high if claim == "equivalent" else None


def _needed(
    asked: _Asked, adjusted: Adjusted, claims: MarginClaims | None, power: float | None
) -> tuple[Needed | None, int | None]:
    """Return the seeds that would decide, and the test items if they must grow by a smaller factor."""
    pairs, sd, crossed, estimate = asked.difference.pairs, asked.difference.sd, asked.difference.crossed, asked.estimate
    if power is None or not asked.enough or not sd or estimate.overlap:  # there are no more seeds than folds
        return None, None
    fixed = (estimate.choice_sd or 0.0) ** 2  # neither seeds nor items reduce it
    of_items = max(0.0, crossed.item_variance - crossed.shared_variance) if crossed is not None else 0.0
    margin_level = claims.level if claims is not None else adjusted.level
    alpha, margin_alpha = adjusted.level * asked.share, margin_level * asked.share
    enough_apart, enough_within = fewest_apart(adjusted.level) if asked.apart else 2, fewest_unseen(margin_level)
    needed = None
    if estimate.uncertainties:
        margin = None if asked.apart else asked.margin
        needed = seeds_needed(
            estimate.value,
            sd,
            margin=margin,
            item_variance=of_items + fixed,
            fewest=enough_apart,
            fewest_within=enough_within,
            alpha=alpha,
            margin_alpha=margin_alpha,
            power=power,
        )
    if crossed is None or pairs < enough_apart:
        return needed, None
    margin = None if asked.apart or pairs < enough_within else asked.margin
    items = items_needed(
        estimate.value,
        sd,
        pairs,
        crossed.items,
        item_variance=of_items,
        fixed_variance=fixed,
        margin=margin,
        alpha=alpha,
        margin_alpha=margin_alpha,
        power=power,
    )
    if items is not None and needed is not None and items / crossed.items >= needed.seeds / pairs:
        items = None
    return needed, items


def _reason(asked: _Asked) -> str | None:
    if asked.difference.reason is None and not asked.enough:
        return f"{asked.difference.pairs} pairs of seeds are fewer than the {asked.fewest} of which verdicts are made"
    return asked.difference.reason


def _each(value: ValueT | Mapping[KeyT, ValueT], key: KeyT, kind: str) -> ValueT:
    if not isinstance(value, Mapping):
        return value
    if key not in value:
        raise LoraBenchError(f"there is no {kind} for {key}; known: {', '.join(map(str, value))}")
    return value[key]
