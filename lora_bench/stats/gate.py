"""The nightly gate: has a night's score moved from what the nights before it were?

A series is one number measured every night in the same way; a *night mean* is its mean over that night's seeds. Seeds of one
night share what the night did to them, so the night is the unit here and never the run. Of k earlier night means with mean x̄
and a new mean y over m nights (one for tonight, five for the drift test),

    t = (y − x̄) / (max(s, floor) √(1/m + 1/k))

is compared with Student's t: a prediction interval, which allows for the next mean as well as for x̄ (Hahn and Meeker 1991,
https://doi.org/10.1002/9780470316771, chapter 4). A mean plus two standard deviations, or the interval of x̄ itself, is exceeded
several times as often as it says. The spread s and its degrees of freedom are those of the k nights, and where scores of seeds
are given, of the seeds and of other series too (`night_spread`).

*Level*: tonight against the last twenty nights, all series of the night together by Holm's procedure. What moved is run again
with new seeds and tested once more (`confirm`). *Drift*: the mean of the last five nights against an anchored release; a loss
of a tenth of a standard deviation a night moves the last twenty nights along with it and never looks sudden. In both, a change
counts only if it is also larger than the margin. Worse and better are two families, each at the error level given.

docs/gate.md says what each answer means, and what simulations show of false alarms and of losses found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from lora_bench.errors import LoraBenchError
from lora_bench.stats.estimate import refuse_no_numbers, student_quantile, student_tail
from lora_bench.stats.family import holm
from lora_bench.stats.night_spread import SeriesNights, spreads

# Fewer give no spread worth the name: at .02 / 50 Student's quantile is 5.6 on 7 degrees of freedom and 9.2 on 4.
FEWEST_NIGHTS = 8
# Older nights say little of tonight: the system has changed under them a little at a time.
MOST_NIGHTS = 20
TRAILING_NIGHTS = 5

# Chosen by benchmarks/gate_simulation.py. Over 50 series an unchanged system has anything confirmed, worse or better, in less
# than one night of a hundred from eight nights on, with scores of heavy tails too. A loss of 3 standard deviations of a run is
# confirmed in its first night in 71 of a hundred at eight nights and three seeds, in 82 at twelve and in 89 at twenty. At .03
# and .005 nights with heavy tails have an alarm in 1.6 of a hundred; at .01 and .001 only 65 are found at eight nights.
LEVEL_ALPHA = 0.02
CONFIRM_ALPHA = 0.001
# At twenty anchored nights four years of a hundred have a drift that is none, either way; at ten times the level 28 would.
DRIFT_ALPHA = 0.0001

Direction = Literal["worse", "better"]
LevelAnswer = Literal["pass", "suspect", "improved", "insufficient_history"]
ConfirmedAnswer = Literal["regression", "improved", "flaky"]


@dataclass(frozen=True, kw_only=True)
class History:
    """What tonight's mean of one series is held against.

    For times, rates and bytes give logarithms: a margin of .03 is then 3 %.

    Args:
        nights: Means of accepted nights since the last acknowledged change, oldest first, without tonight; each over as many
            seeds as tonight's. All of them: each test takes what it needs.
        higher_is_better: Direction of the metric.
        margin: The change that nobody should care about, at least 0, in the unit of the metric.
        floor: The least standard deviation of night means that is believed, above 0, in the unit of the metric. Nights that
            happen to agree would make any difference a surprise. A quarter of the margin leaves it to the margin to decide
            where nights agree to the last digit.
        anchor: Night means of the release that drift is measured from, none of them among the last four of *nights*; None
            where no release is anchored.
        seeds: Scores of the seeds of each of *nights*; None where only means are known, and the nights alone give the spread.
        kind: Series of one kind are taken to have nights that add alike to what seeds do, such as scores, or times.

    Raises:
        LoraBenchError: If a number is not finite, the margin is below 0, the floor is not above 0, or *seeds* are of another
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
    """A mean held against earlier nights.

    Args:
        direction: Where it moved: by more than the margin, and its adjusted p-value is at most alpha. None: nowhere.
        observed: Tonight's mean; for drift, that of the last five nights.
        expected: Mean of the earlier nights.
        loss: How much worse than expected in the unit of the metric, whichever its direction; below 0 it is better.
        sd: Standard deviation of the earlier nights.
        spread: The standard deviation of a night mean that is believed, at least the floor.
        freedom: Its degrees of freedom.
        nights: Number of earlier nights, k.
        p_worse: One-sided, of a loss this large from a series that has not moved; in [0, 1].
        p_better: Likewise of a gain: 1 − p_worse.
        adjusted_worse: p_worse after Holm's procedure over the series judged together.
        adjusted_better: p_better likewise.
        worst: The bound on the bad side: `observed` beyond it is `worse`. It is as far from `expected` as the margin or
            the prediction interval reaches, whichever is farther.
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
    adjusted_better: float
    worst: float
    best: float


@dataclass(frozen=True, kw_only=True)
class JudgedSeries:
    """What a night shows of one series.

    Args:
        answer: Of the level test. `suspect` and `improved` have yet to be confirmed with new seeds.
        level: Tonight against the nights before; None for `insufficient_history`.
        drift: The last five nights against the anchored release: its `direction` is what drifted. None where the test could
            not be made.
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
    """What a second set of seeds says of a series that moved.

    Args:
        answer: `regression` or `improved` where the second mean moved the same way, else `flaky`.
        shift: The second mean against the nights before tonight. Its p-values are not corrected: they are of this series alone.
    """

    answer: ConfirmedAnswer
    shift: Shift


KeyT = TypeVar("KeyT", bound=Hashable)


def judge_night(
    tonight: Mapping[KeyT, float],
    histories: Mapping[KeyT, History],
    *,
    alpha: float = LEVEL_ALPHA,
    drift_alpha: float = DRIFT_ALPHA,
) -> dict[KeyT, JudgedSeries]:
    """What tonight shows of every series, all of them judged together.

    The family is those series of *tonight* with enough history, which is settled before any number of tonight's is seen.

    Args:
        tonight: Means over tonight's seeds.
        histories: One for each of them; one that is new has a history without nights. Others are not looked at.
        alpha: Error level of the level test over all series of the night, for each direction.
        drift_alpha: Error level of the drift test, likewise.

    Raises:
        LoraBenchError: If a mean is not finite, a series has no history, or a level is not in (0, 0.5).
    """
    refuse_no_numbers(tonight.items(), "tonight's mean of")
    for key in tonight:
        if key not in histories:
            raise LoraBenchError(f"there is no history for {key}; expected one, without nights where the series is new")
    found = spreads({key: told for key in tonight if (told := _told(histories[key])) is not None})
    levels = {key: _Means.of_level(histories[key], mean, found.get(key)) for key, mean in tonight.items()}
    drifts = {key: _Means.of_drift(histories[key], mean) for key, mean in tonight.items()}
    shifts, drifted = _shifts(levels, _level(alpha, "alpha")), _shifts(drifts, _level(drift_alpha, "drift_alpha"))
    return {
        key: JudgedSeries(
            answer=_answer(shifts.get(key)),
            level=shifts.get(key),
            drift=drifted.get(key),
            reason=_reason(levels[key]),
            drift_reason=_reason(drifts[key]),
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
) -> Confirmation:
    """Whether a second set of seeds moved the way the first did.

    Args:
        history: The one tonight was judged against: without tonight.
        second: Mean over as many new seeds as a night has.
        direction: Of the first: `worse` for a `suspect`, `better` for an `improved`.
        alpha: One-sided error level of this test alone.
        first: What the first set of seeds showed, whose spread is taken. Where few series are judged together its bound is
            nearer than that of *alpha*, and a second mean beyond it confirms too: two readings below a bound are no chance.

    Raises:
        LoraBenchError: If the mean is not finite, there are too few nights, or the level is not in (0, 0.5).
    """
    refuse_no_numbers([("seeds", second)], "the mean of the second set of")
    spread = None if first is None else (first.spread, first.freedom)
    means = _Means.of_level(history, second, spread)
    if isinstance(means, str):
        raise LoraBenchError(f"{means}, so nothing was suspect and there is nothing to confirm")
    shift = _shifts({None: means}, _level(alpha, "alpha"))[None]
    if shift.direction != direction and not (first is not None and _beyond(first, second, direction)):
        return Confirmation(answer="flaky", shift=shift)
    return Confirmation(answer="regression" if direction == "worse" else "improved", shift=shift)


def _beyond(first: Shift, second: float, direction: Direction) -> bool:
    """Whether *second* lies beyond the bound that the first mean was held to, on the same side."""
    bound = first.worst if direction == "worse" else first.best
    return (second - bound) * (bound - first.expected) > 0


def _told(history: History) -> SeriesNights | None:
    """What a series with enough nights of several seeds says of its spread; None where only its night means do."""
    if history.seeds is None or len(history.nights) < FEWEST_NIGHTS:
        return None
    seeds = history.seeds[-MOST_NIGHTS:]
    return SeriesNights(history.kind, history.nights[-MOST_NIGHTS:], seeds) if min(map(len, seeds)) > 1 else None


@dataclass(frozen=True, kw_only=True)
class _Means:
    """A mean over *over* nights that is to be held against *nights*.

    Args:
        known: Standard deviation of a night mean and its degrees of freedom; None for those of *nights*.
    """

    history: History
    observed: float
    nights: Sequence[float]
    over: int
    known: tuple[float, float] | None = None

    @classmethod
    def of_level(cls, history: History, tonight: float, known: tuple[float, float] | None = None) -> _Means | str:
        """Of tonight, or the reason why not."""
        if len(history.nights) < FEWEST_NIGHTS:
            return f"{_nights(len(history.nights))} of history, and the level test takes at least {FEWEST_NIGHTS}"
        return cls(history=history, observed=tonight, nights=history.nights[-MOST_NIGHTS:], over=1, known=known)

    @classmethod
    def of_drift(cls, history: History, tonight: float) -> _Means | str:
        """Of the last nights with tonight, or the reason why not."""
        if history.anchor is None:
            return "no release is anchored"
        if len(history.anchor) < FEWEST_NIGHTS:
            return f"{_nights(len(history.anchor))} of the anchored release, and the drift test takes at least {FEWEST_NIGHTS}"
        trailing = (*history.nights[-(TRAILING_NIGHTS - 1) :], tonight)
        if len(trailing) < TRAILING_NIGHTS:
            return f"{_nights(len(trailing))} with tonight, and the drift test takes the mean of {TRAILING_NIGHTS}"
        return cls(history=history, observed=statistics.fmean(trailing), nights=history.anchor, over=TRAILING_NIGHTS)

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
        """Standard error of the prediction."""
        return self.spread * math.sqrt(1 / self.over + 1 / len(self.nights))

    def p_value(self, sign: int) -> float:
        return student_tail(self.freedom, sign * self.loss / self.error)

    def reach(self, level: float) -> float:
        """How far from what is expected a mean must be to have moved."""
        return max(self.history.margin, student_quantile(self.freedom, level) * self.error)


def _shifts(family: Mapping[KeyT, _Means | str], alpha: float) -> dict[KeyT, Shift]:
    """The shift of every series that can be judged."""
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
            adjusted_better=up.p_value,
            worst=means.expected + bad * means.reach(down.level),
            best=means.expected - bad * means.reach(up.level),
        )
    return shifts


def _answer(shift: Shift | None) -> LevelAnswer:
    if shift is None:
        return "insufficient_history"
    if shift.direction is None:
        return "pass"
    return "suspect" if shift.direction == "worse" else "improved"


def _reason(means: _Means | str) -> str | None:
    return means if isinstance(means, str) else None


def _nights(count: int) -> str:
    return "1 night" if count == 1 else f"{count} nights"


def _level(alpha: float, name: str) -> float:
    if not 0 < alpha < 0.5:
        raise LoraBenchError(f"{name} is {alpha}; expected a number between 0 and 0.5, such as 0.01")
    return alpha
