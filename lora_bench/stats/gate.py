"""Tests of the nightly gate: has a night's score moved from those of earlier nights?

A series is one number measured every night in the same way; a *night mean* is its mean over that night's seeds. Seeds of one
night share its effects, so the unit is the night and never the run. With k earlier night means of mean x̄ and a new mean y over
m nights (one for tonight, five for the drift test),

    t = (y − x̄) / (max(s, floor) √(1/m + 1/k))

is compared with Student's t. This is a prediction interval, which covers the error of the next mean and of x̄ (Hahn and Meeker
1991, https://doi.org/10.1002/9780470316771, chapter 4). A bound of two standard deviations, or the interval of x̄ itself, is
exceeded several times as often as its level. The spread s and its degrees of freedom come from the nights, and from the seeds
of all series where they are given (`night_spread`).

docs/gate.md#the-statistics-alone has the tests of the level, of drift and of new seeds. A loss of a tenth of a standard
deviation a night moves the last twenty nights along with it: only the test of drift finds it. One set of new seeds is not
enough: where one run of a hundred collapses, three of a hundred nights would have a collapse in both sets of one of fifty
series.
"""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import refuse_no_numbers, student_quantile, student_tail
from lora_bench.stats.family import holm
from lora_bench.stats.night_spread import SeriesNights, spreads

# Fewer give no usable spread: at .02 / 50 Student's quantile is 5.6 on 7 degrees of freedom and 9.2 on 4.
FEWEST_NIGHTS = 8
# Older nights are no guide to tonight: the system has changed a little at a time since.
MOST_NIGHTS = 20
TRAILING_NIGHTS = 5

# Chosen by benchmarks/gate_simulation.py: see the tables of docs/error-rates.md. Two sets of seeds at .01 find more losses than
# one at .001, and have fewer false alarms where runs collapse now and then.
LEVEL_ALPHA = 0.02
CONFIRM_ALPHA = 0.01
CONFIRMATIONS = 2
# At twenty anchored nights four years of a hundred have a false drift, either way; at ten times the level 28 would.
DRIFT_ALPHA = 0.0001

Direction = Literal["worse", "better"]
LevelAnswer = Literal["pass", "suspect", "improved", "insufficient_history"]
ConfirmedAnswer = Literal["regression", "improved", "flaky"]
ANSWERS: dict[Direction | None, LevelAnswer] = {None: "pass", "worse": "suspect", "better": "improved"}
KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class History:
    """The history that tonight's mean of one series is compared with.

    For times, rates and bytes give logarithms: a margin of .03 is then 3 %.

    Args:
        nights: Means of all accepted nights since the last acknowledged change, oldest first, without tonight; each over as
            many seeds as tonight's. Each test selects the nights it needs.
        higher_is_better: Direction of the metric.
        margin: The smallest change that matters, at least 0, in the unit of the metric.
        floor: Lower bound for the standard deviation of night means, above 0, in the unit of the metric. Without it, nights
            that agree by chance would make any difference significant. With a quarter of the margin, the margin decides if
            nights agree to the last digit.
        anchor: Night means of the release that drift is measured from, none of them among the last four of *nights*; None
            if no release is anchored.
        seeds: Scores of the seeds of each of *nights*; None if only means are known, so that only nights give the spread.
        kind: Kind of series, such as scores or times; nights of one kind are assumed to add alike to the variance of seeds.

    Raise LoraBenchError if a number is not finite, the margin is below 0, the floor is not above 0, or *seeds* has a different
    number of nights.
    """

    nights: Sequence[float]
    higher_is_better: bool
    margin: float
    floor: float
    anchor: Sequence[float] | None = None
    seeds: Sequence[Sequence[float]] | None = None
    kind: str = ""

    def __post_init__(self) -> None:
        if self.seeds is not None and len(self.seeds) != len(self.nights):
            raise LoraBenchError(f"there are seeds of {len(self.seeds)} nights and means of {len(self.nights)}")
        for night, scores in enumerate(self.seeds or (), start=1):
            refuse_no_numbers(enumerate(scores, start=1), f"night {night}, score")
        refuse_no_numbers(enumerate(self.nights, start=1), "the mean of night")
        anchor = () if self.anchor is None else self.anchor
        refuse_no_numbers(enumerate(anchor, start=1), "the mean of anchored night")
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise LoraBenchError(f"margin is {self.margin}; expected a number from 0 on, in the unit of the metric")
        if not (self.floor > 0 and math.isfinite(self.floor)):
            raise LoraBenchError(
                f"floor is {self.floor}; expected a standard deviation above 0, such as a quarter of the margin"
            )


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A mean compared with earlier nights.

    Args:
        direction: Direction of a move by more than the margin with an adjusted p-value of at most alpha; None: no move.
        observed: Tonight's mean; for drift, that of the last five nights.
        expected: Mean of the earlier nights.
        loss: Loss against `expected` in the unit of the metric, for either direction of the metric; below 0 it is a gain.
        sd: Standard deviation of the earlier nights.
        spread: Standard deviation of a night mean used in the test, at least the floor.
        freedom: Degrees of freedom of `spread`.
        nights: Number of earlier nights, k.
        p_worse: One-sided p-value of a loss this large in an unchanged series; in [0, 1].
        p_better: One-sided p-value of a gain: 1 − p_worse.
        adjusted_worse: p_worse after Holm's procedure over the series judged together.
        worst: The bound on the bad side: `observed` beyond it is `worse`. Its distance from `expected` is the margin or the
            prediction interval, whichever is larger.
        best: The bound on the good side.
    """

    direction: Direction | None
    observed: float
    expected: float
    loss: float
    sd: float
    spread: float
    freedom: float
    nights: int
    p_worse: float
    p_better: float
    adjusted_worse: float
    worst: float
    best: float


@dataclass(frozen=True, kw_only=True)
class JudgedSeries:
    """A night's result for one series.

    Args:
        answer: Answer of the level test. `suspect` and `improved`, like a drift, still need confirmation with new seeds.
        level: Tonight against the nights before; None for `insufficient_history`.
        drift: The last five nights against the anchored release; its `direction` is that of the drift. None if the test was
            not possible.
        reason: Why there is no level test, or None.
        drift_reason: Why there is no drift test, or None.
    """

    answer: LevelAnswer
    level: Shift | None
    drift: Shift | None
    reason: str | None
    drift_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Result of a further set of seeds: `regression` or `improved` if its mean moved the same way, else `flaky`.

    *shift* is that of the mean from the nights before tonight. Its p-values are of this series alone and not corrected.
    """

    answer: ConfirmedAnswer
    shift: Shift


def judge_night(
    tonight: Mapping[KeyT, float],
    histories: Mapping[KeyT, History],
    *,
    alpha: float = LEVEL_ALPHA,
    drift_alpha: float = DRIFT_ALPHA,
) -> dict[KeyT, JudgedSeries]:
    """Judge every series of tonight together.

    The family is every series of *tonight* with enough history; it does not depend on tonight's numbers.

    Args:
        tonight: Means over tonight's seeds.
        histories: A history for each series of *tonight*; that of a new series has no nights. Others are ignored.
        alpha: Error level of the level test over all series of the night, for each direction.
        drift_alpha: Error level of the drift test, likewise.

    Raise LoraBenchError if a mean is not finite, a series has no history, or a level is not in (0, 0.5).
    """
    refuse_no_numbers(tonight.items(), "tonight's mean of")
    for key in tonight:
        if key not in histories:
            raise LoraBenchError(f"there is no history for {key}; expected one, without nights where the series is new")
    found = spreads({key: told for key in tonight if (told := _told(histories[key])) is not None})
    levels = {key: _Means.of_level(histories[key], mean, found.get(key)) for key, mean in tonight.items()}
    drifts = {key: _Means.of_drift(histories[key], mean) for key, mean in tonight.items()}
    shifts, drifted = _shifts(levels, _level(alpha, "alpha")), _shifts(drifts, _level(drift_alpha, "drift_alpha"))
    untested, undrifted = (
        {key: means for key, means in family.items() if isinstance(means, str)} for family in (levels, drifts)
    )
    return {
        key: JudgedSeries(
            answer=ANSWERS[shifts[key].direction] if key in shifts else "insufficient_history",
            level=shifts.get(key),
            drift=drifted.get(key),
            reason=untested.get(key),
            drift_reason=undrifted.get(key),
        )
        for key in tonight
    }


def confirm(
    history: History,
    second: float,
    *,
    direction: Direction = "worse",
    alpha: float = CONFIRM_ALPHA,
    first: Shift | None = None,
    drift: bool = False,
) -> Confirmation:
    """Test if a further set of seeds moved the same way as the first. A regression takes `CONFIRMATIONS` sets that did.

    Args:
        history: The history that tonight was judged against, without tonight.
        second: Mean over as many new seeds as a night has.
        direction: Direction of the first set: `worse` for a `suspect`, `better` for an `improved`.
        alpha: One-sided error level of this test alone.
        first: Result of the first set of seeds; its spread is reused. If few series are judged together, its bound is nearer
            than that of *alpha*. A second mean beyond it also confirms: two means beyond a bound are not chance.
        drift: Whether the last nights drifted. The mean is then compared with the anchored release, and *first* is unused.

    Raise LoraBenchError if the mean is not finite, there are too few nights, or the level is not in (0, 0.5).
    """
    refuse_no_numbers([("seeds", second)], "the mean of the second set of")
    spread = None if first is None else (first.spread, first.freedom)
    means = _Means.of_anchor(history, [second]) if drift else _Means.of_level(history, second, spread)
    if isinstance(means, str):
        raise LoraBenchError(f"{means}, so nothing was suspect and there is nothing to confirm")
    shift = _shifts({None: means}, _level(alpha, "alpha"))[None]
    if shift.direction != direction and (drift or first is None or not _beyond(first, second, direction)):
        return Confirmation(answer="flaky", shift=shift)
    return Confirmation(answer="regression" if direction == "worse" else "improved", shift=shift)


def _beyond(first: Shift, second: float, direction: Direction) -> bool:
    bound = first.worst if direction == "worse" else first.best
    return (second - bound) * (bound - first.expected) > 0


def _told(history: History) -> SeriesNights | None:
    """Return the data for the spread of a series with enough nights of several seeds; None if only night means count."""
    if history.seeds is None or len(history.nights) < FEWEST_NIGHTS:
        return None
    seeds = history.seeds[-MOST_NIGHTS:]
    return SeriesNights(history.kind, history.nights[-MOST_NIGHTS:], seeds) if min(map(len, seeds)) > 1 else None


@dataclass(frozen=True, kw_only=True)
class _Means:
    """A mean over *over* nights, to compare with *nights*, whose spread and freedom are those *known*, or else their own."""

    history: History
    observed: float
    nights: Sequence[float]
    over: int
    known: tuple[float, float] | None = None

    @classmethod
    def of_level(cls, history: History, tonight: float, known: tuple[float, float] | None = None) -> Self | str:
        """Make tonight's mean, or return the reason why there is no level test."""
        if len(history.nights) < FEWEST_NIGHTS:
            return f"{_nights(len(history.nights))} of history, and the level test takes at least {FEWEST_NIGHTS}"
        return cls(history=history, observed=tonight, nights=history.nights[-MOST_NIGHTS:], over=1, known=known)

    @classmethod
    def of_drift(cls, history: History, tonight: float) -> Self | str:
        """Make the mean of the last nights with tonight, or return the reason why there is no drift test."""
        trailing = (*history.nights[-(TRAILING_NIGHTS - 1) :], tonight)
        if len(trailing) < TRAILING_NIGHTS and history.anchor is not None and len(history.anchor) >= FEWEST_NIGHTS:
            return f"{_nights(len(trailing))} with tonight, and the drift test takes the mean of {TRAILING_NIGHTS}"
        return cls.of_anchor(history, trailing)

    @classmethod
    def of_anchor(cls, history: History, means: Sequence[float]) -> Self | str:
        """Make the mean of *means* to compare with the anchored release, or return the reason why that is not possible."""
        if history.anchor is None:
            return "no release is anchored"
        if len(history.anchor) < FEWEST_NIGHTS:
            return f"{_nights(len(history.anchor))} of the anchored release, and the drift test takes at least {FEWEST_NIGHTS}"
        return cls(history=history, observed=statistics.fmean(means), nights=history.anchor, over=len(means))

    @property
    def expected(self) -> float:
        return statistics.fmean(self.nights)

    @property
    def loss(self) -> float:
        return self.expected - self.observed if self.history.higher_is_better else self.observed - self.expected

    @property
    def spread(self) -> float:
        sd = statistics.stdev(self.nights) if self.known is None else self.known[0]
        return max(sd, self.history.floor)

    @property
    def freedom(self) -> float:
        return len(self.nights) - 1 if self.known is None else self.known[1]

    @property
    def error(self) -> float:
        """Return the standard error of the prediction."""
        return self.spread * math.sqrt(1 / self.over + 1 / len(self.nights))

    def p_value(self, sign: int) -> float:
        return student_tail(self.freedom, sign * self.loss / self.error)

    def reach(self, level: float) -> float:
        """Return the distance from the expected mean beyond which a mean has moved."""
        return max(self.history.margin, student_quantile(self.freedom, level) * self.error)


def _shifts(family: Mapping[KeyT, _Means | str], alpha: float) -> dict[KeyT, Shift]:
    judged = {key: means for key, means in family.items() if not isinstance(means, str)}
    worse = holm([means.p_value(1) for means in judged.values()], alpha)
    better = holm([means.p_value(-1) for means in judged.values()], alpha)
    shifts = {}
    for (key, means), down, up in zip(judged.items(), worse, better, strict=True):
        assert down.p_value is not None and up.p_value is not None
        direction: Direction | None = None
        if down.p_value <= alpha and means.loss > means.history.margin:
            direction = "worse"
        elif up.p_value <= alpha and -means.loss > means.history.margin:
            direction = "better"
        bad = -1 if means.history.higher_is_better else 1
        shifts[key] = Shift(
            direction=direction,
            observed=means.observed,
            expected=means.expected,
            loss=means.loss,
            sd=statistics.stdev(means.nights),
            spread=means.spread,
            freedom=means.freedom,
            nights=len(means.nights),
            p_worse=means.p_value(1),
            p_better=means.p_value(-1),
            adjusted_worse=down.p_value,
            worst=means.expected + bad * means.reach(down.level),
            best=means.expected - bad * means.reach(up.level),
        )
    return shifts


def _nights(count: int) -> str:
    return "1 night" if count == 1 else f"{count} nights"


def _level(alpha: float, name: str) -> float:
    if not 0 < alpha < 0.5:
        raise LoraBenchError(f"{name} is {alpha}; expected a number between 0 and 0.5, such as 0.01")
    return alpha
