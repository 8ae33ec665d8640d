"""What is shown along sweeps: the values that are not shown to be worse than the best, and where two methods change places.

The best value of a line is known only after the runs, so each line judges all pairs of its values. All pairs of all sweeps over
one number are a family, which shares the error level. The pairs of methods at each value are another one: they say whether a
crossing of two lines is shown on both of its sides.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.judged import not_judged
from lora_bench.report.model.searches import Searches
from lora_bench.report.model.seed_scores import AnswersOf, Compared, Scored, difference_of, judge_rows, scored
from lora_bench.report.model.sweeps import Sweep, SweepLine, SweptPoint, sweeps
from lora_bench.stats import UNDECLARED, JudgeSettings, Verdict

# Along these numbers a crossing of methods says which to take when; a shared learning rate or option says nothing.
_CROSSED = ("distinct_examples", "work")

Pair = tuple[SweptPoint, SweptPoint]


@dataclass(frozen=True)
class Plateau:
    """The best value of a line, the values that are not shown to be worse, and those that are, with verdicts against the best.

    *compared* is true if every pair with the best has a p-value; else nothing could be shown for some.
    """

    sweep: Sweep
    line: SweepLine
    best: SweptPoint
    held: tuple[SweptPoint, ...]
    worse: tuple[tuple[SweptPoint, Verdict], ...]
    compared: bool


@dataclass(frozen=True)
class Crossing:
    """Two methods that change places along a number.

    Args:
        methods: Names of their lines; the first is better below the change, and the second above.
        between: Values on each side: the nearest at which a difference is shown, as long as the same method is ahead; else
            the neighbour of the change.
        about: The value at which straight lines between the means of the neighbours cross, on a logarithmic axis.
        verdicts: Verdicts on the better of the two at each of these values.
    """

    sweep: Sweep
    methods: tuple[str, str]
    between: tuple[float, float]
    about: float
    verdicts: tuple[Verdict, Verdict]

    @property
    def shown(self) -> tuple[bool, bool]:
        """Whether a difference is shown at each of the two values."""
        before, after = (verdict.verdict == "better" for verdict in self.verdicts)
        return before, after


@dataclass(frozen=True, kw_only=True)
class SweepFindings:
    """Findings along the sweeps of a report."""

    plateaus: tuple[Plateau, ...] = ()
    crossings: tuple[Crossing, ...] = ()


def sweep_findings(comparison: Comparison, answers: AnswersOf, settings: JudgeSettings | None) -> SweepFindings:
    """Judge all sweeps of a report, by the declared *settings* if there are any."""
    found = [sweep for sweep in sweeps(comparison) if not_judged(sweep.setting) is None]
    searches = Searches(comparison)
    scores: dict[tuple[str, ...], Scored] = {}
    for sweep in found:
        for point in (point for line in sweep.lines for point in line.points):
            if point.row.run_ids not in scores:
                # Where rates are what is compared, none was chosen.
                given = sweep.kind == "learning_rate"
                choice = None if given else searches.error(point.row, sweep.table, point.setting)
                scores[point.row.run_ids] = scored(point.row, point.setting, answers, choice)
    plateaus: list[Plateau] = []
    crossings: list[Crossing] = []
    for axis in dict.fromkeys(sweep.axis for sweep in found):
        of_axis = [sweep for sweep in found if sweep.axis == axis]
        plateaus += _plateaus(of_axis, scores, settings or UNDECLARED)
        if of_axis[0].kind in _CROSSED:
            crossings += _crossings(of_axis, scores, settings or UNDECLARED)
    return SweepFindings(plateaus=tuple(plateaus), crossings=tuple(crossings))


def _judged(
    pairs: Mapping[Hashable, Pair], scores: Mapping[tuple[str, ...], Scored], settings: JudgeSettings
) -> dict[Hashable, Verdict]:
    """Return the verdicts on the first points against the second ones: one family."""
    found = {
        key: difference_of(scores[one.row.run_ids], scores[other.row.run_ids]) for key, (one, other) in pairs.items()
    }
    compared = {key: of for key, of in found.items() if isinstance(of, Compared)}
    return judge_rows(compared, margin=None, settings=settings, power=None) if compared else {}


def _plateaus(
    found: Sequence[Sweep], scores: Mapping[tuple[str, ...], Scored], settings: JudgeSettings
) -> list[Plateau]:
    lines = [(sweep, line) for sweep in found for line in sweep.lines]
    pairs: dict[Hashable, Pair] = {
        (number, first, second): (line.points[first], line.points[second])
        for number, (_, line) in enumerate(lines)
        for first, second in itertools.combinations(range(len(line.points)), 2)
    }
    verdicts = _judged(pairs, scores, settings)
    return [_plateau(sweep, line, number, verdicts) for number, (sweep, line) in enumerate(lines)]


def _plateau(sweep: Sweep, line: SweepLine, number: int, verdicts: Mapping[Hashable, Verdict]) -> Plateau:
    best = max(range(len(line.points)), key=lambda place: sweep.setting.sign * line.points[place].mean)
    held: list[SweptPoint] = []
    worse: list[tuple[SweptPoint, Verdict]] = []
    compared = True
    for place, point in enumerate(line.points):
        first, second = sorted((place, best))
        verdict = verdicts.get((number, first, second))
        compared &= place == best or (verdict is not None and verdict.p_value is not None)
        # A verdict is on the point with the smaller value.
        if verdict is not None and verdict.verdict == ("worse" if place < best else "better"):
            worse.append((point, verdict))
        else:
            held.append(point)
    return Plateau(sweep, line, line.points[best], tuple(held), tuple(worse), compared)


def _crossings(
    found: Sequence[Sweep], scores: Mapping[tuple[str, ...], Scored], settings: JudgeSettings
) -> list[Crossing]:
    # The better of two methods comes first, so that a verdict is on it.
    pairs: dict[Hashable, Pair] = {}
    for number, sweep in enumerate(found):
        for first, second in itertools.combinations(range(len(sweep.lines)), 2):
            others = {point.value: point for point in sweep.lines[second].points}
            for point in sweep.lines[first].points:
                if point.value in others:
                    other = others[point.value]
                    ahead = sweep.setting.sign * (point.mean - other.mean) >= 0
                    pairs[number, first, second, point.value] = (point, other) if ahead else (other, point)
    verdicts = _judged(pairs, scores, settings)
    return [
        crossing
        for number, sweep in enumerate(found)
        for first, second in itertools.combinations(range(len(sweep.lines)), 2)
        for crossing in _of_lines(sweep, (number, first, second), pairs, verdicts)
    ]


def _of_lines(
    sweep: Sweep, key: tuple[int, int, int], pairs: Mapping[Hashable, Pair], verdicts: Mapping[Hashable, Verdict]
) -> list[Crossing]:
    """Return the crossings of two lines, from the smallest value on; equal means are no change of places."""
    _, first, second = key
    one, other = sweep.lines[first], sweep.lines[second]
    # A value without a verdict, as its runs share no seed, says nothing of the order.
    judged = [(point.value, verdicts[(*key, point.value)]) for point in one.points if (*key, point.value) in verdicts]
    ahead = [pairs[(*key, value)][0] in one.points for value, _ in judged]
    gains = [abs(verdict.difference) for _, verdict in judged]
    kept = [place for place, gain in enumerate(gains) if gain > 0]
    found = []
    for number, (before, after) in enumerate(itertools.pairwise(kept)):
        if ahead[before] == ahead[after]:
            continue
        sides = [judged[_nearest_shown(judged, ahead, places)] for places in (kept[number::-1], kept[number + 1 :])]
        low, high = judged[before][0], judged[after][0]
        share = gains[before] / (gains[before] + gains[after])
        about = math.exp(math.log(low) + share * math.log(high / low))
        methods = (one.name, other.name) if ahead[before] else (other.name, one.name)
        (lower, worse), (upper, better) = sides
        found.append(Crossing(sweep, methods, (lower, upper), about, (worse, better)))
    return found


def _nearest_shown(judged: Sequence[tuple[float, Verdict]], ahead: Sequence[bool], outwards: Sequence[int]) -> int:
    """Return the nearest place with a shown difference, as long as the same method is ahead; else the first place."""
    first = outwards[0]
    same = itertools.takewhile(lambda place: ahead[place] == ahead[first], outwards)
    return next((place for place in same if judged[place][1].verdict == "better"), first)
