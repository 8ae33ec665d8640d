"""The verdict on a published number: what our runs of its cell came to, and whether that is the same number.

Two things are kept apart: whether a cell is comparable is decided by its recipe and never by its scores, and whether a
comparable cell is reproduced is decided by its scores and a rule fixed beforehand.

**The rule.** With n runs of ours, their mean or median T (as the source has it), the published value P of m seeds, and the
difference d = T − P, the number is *reproduced* where

    |d| ≤ max(margin, w) + half of one in the last printed digit

- w = t s √(c/n + c/m) is the half-width of the 95 % prediction interval for the statistic of m more runs of the same kind:
  if theirs and ours are runs of the same kind, P lies within w of T nineteen times of twenty. c is 1 for a mean and π/2 for
  a median. m is 1 where the source does not say it.
- s is the standard deviation over our seeds, pooled with the published spread where one is printed with its number of seeds
  (degrees of freedom n − 1, or n + m − 2); t is Student's quantile for them. A printed ± is read as a standard deviation.
- The margin is the difference that nobody should care about: half a point (0.005), or 1 % of P for NIST and CIDEr, whose
  unit is no point.

Else it is *not reproduced*, with the direction of d: our value is lower or higher. Half of the runs or more that diverge are
no reproduction either.

**Not comparable** is a cell whose runs differ from what its table's suite asks for: base model (by name, and by the count of
adapter parameters), metric, data, protocol, recipe, decoding. So is one with fewer than 3 runs, since two give no spread
worth the name: their prediction interval reaches 15.6 standard deviations; and one whose w is above ten margins while d is
within it, since almost any number would pass there. A field that the source leaves unpublished is the suite's choice. A
choice that meets the number reproduces it; one that does not shows nothing about the paper, so the cell is then not
comparable, with those fields. **Not run** is a cell without runs that have its score.

An average over tasks is judged alike, from the cells that it is over: their w combine as those of independent numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_bench.metrics import find
from lora_bench.published.comparable import Differing, Expected, nearest, place_of, place_of_cell, unpublished
from lora_bench.published.table import PublishedCell, PublishedTable
from lora_bench.records.record import Record

MARGIN = 0.005
RELATIVE_MARGIN = 0.01
FEWEST_RUNS = 3
WIDEST_MARGINS = 10
CONFIDENCE = 0.95
MEDIAN_VARIANCE = math.pi / 2

VerdictName = Literal["reproduced", "not reproduced", "not comparable", "not run"]
Direction = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the runs of a cell came to.

    Args:
        n: Runs with the score.
        diverged: Runs that diverged, which are left out of the value.
        value: Their mean or median.
        own_width: Half-width of the 95 % interval of the value over seeds, or None for a single run.
        width: The w of the rule, or None where no spread is known.
        run_ids: The runs, the diverged ones too.
    """

    n: int
    diverged: int
    value: float
    own_width: float | None
    width: float | None
    run_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What our runs say to a published number.

    Args:
        direction: Whether our value is lower or higher, for what is not reproduced.
        measured: What the runs came to, or None without a run that has the score.
        tolerance: How far from the published value counts as the same, or None where nothing can be said.
        differs: The fields for which a cell is not comparable.
        reason: Why a cell is not run, or why it is not reproduced where no number says so.
    """

    cell: PublishedCell
    verdict: VerdictName
    direction: Direction | None = None
    measured: Measured | None = None
    tolerance: float | None = None
    differs: tuple[Differing, ...] = ()
    reason: str | None = None

    @property
    def difference(self) -> float | None:
        """Our value less the published one."""
        return None if self.measured is None else self.measured.value - self.cell.value


def judge_table(
    table: PublishedTable,
    records: Sequence[Record],
    expected: Callable[[PublishedCell], Expected],
    stand_ins: Mapping[str, str] | None = None,
) -> tuple[Verdict, ...]:
    """The verdict on every cell of a table, in its order.

    Args:
        table: The table.
        records: Any; those of a cell have the label of its method, its task and its base model. Trials are passed over.
        expected: The `fields` of a run of the cell as the table's own suite asks for it, or None where nobody knows:
            `expected_from` makes it of a plan.
        stand_ins: For a base model of the table, the name of the one that was run in its stead.
    """
    places: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.spec.score_on == "test":
            places.setdefault(place_of(record.spec), []).append(record)
    found: dict[tuple[str, str, str, str], Verdict] = {}
    for cell in table.cells:
        if not cell.derived:
            mine = places.get(place_of_cell(cell, stand_ins), [])
            found[cell.key] = judge(cell, mine, expected(cell) if mine else None)
    for cell in table.cells:
        if cell.derived:
            parts = [[found[cell.row, cell.model, task, one] for one in scores] for task, scores in cell.derived]
            found[cell.key] = judge_average(cell, parts)
    return tuple(found[cell.key] for cell in table.cells)


def judge(cell: PublishedCell, records: Sequence[Record], expected: Expected) -> Verdict:
    """The verdict on one printed number that is no average over tasks.

    Args:
        cell: The printed number.
        records: Runs of the cell, which may differ in more than their seeds: those nearest to *expected* are taken.
        expected: The `fields` of a run of the cell as the table's own suite asks for it, or None where nobody knows.
    """
    if cell.no_run is not None:
        return Verdict(cell=cell, verdict="not run", reason=cell.no_run)
    records, differing = nearest(cell, records, expected)
    scores = [
        record.scores[cell.score]
        for record in records
        if record.status == "ok" and record.scores is not None and cell.score in record.scores
    ]
    diverged = sum(record.status == "diverged" for record in records)
    if not scores:
        if diverged >= FEWEST_RUNS and not differing:
            soft = unpublished(cell)
            name: VerdictName = "not comparable" if soft else "not reproduced"
            return Verdict(cell=cell, verdict=name, differs=soft, reason=f"all {diverged} runs diverged")
        return Verdict(cell=cell, verdict="not run", reason=_why_without_score(cell, records))
    rules = records[0].spec.rules
    statistic = cell.statistic or (rules.aggregation if rules is not None else "mean")
    own, width = _widths(cell, scores, statistic)
    measured = Measured(
        n=len(scores),
        diverged=diverged,
        value=(statistics.median if statistic == "median" else statistics.fmean)(scores),
        own_width=own,
        width=width,
        run_ids=tuple(sorted(record.run_id for record in records)),
    )
    if len(scores) + diverged < FEWEST_RUNS:
        differing = (*differing, Differing("runs", f"{FEWEST_RUNS} or more", len(scores) + diverged))
    return _decide(cell, measured, differing, unpublished(cell))


def judge_average(cell: PublishedCell, parts: Sequence[Sequence[Verdict]]) -> Verdict:
    """The verdict on an average over tasks.

    Args:
        cell: The printed average.
        parts: For each task, the verdicts on the numbers whose mean enters.
    """
    every = [verdict for part in parts for verdict in part]
    missing = [f"{one.cell.task} {one.cell.score}" for one in every if one.measured is None]
    if missing:
        reason = cell.no_run or f"not all of its cells are run: {', '.join(missing)}"
        return Verdict(cell=cell, verdict="not run", reason=reason)
    found = [[one.measured for one in part if one.measured is not None] for part in parts]
    measured = Measured(
        n=min(one.n for part in found for one in part),
        diverged=max(one.diverged for part in found for one in part),
        value=statistics.fmean(statistics.fmean(one.value for one in part) for part in found),
        own_width=_combined([[one.own_width for one in part] for part in found]),
        width=_combined([[one.width for one in part] for part in found]),
        run_ids=tuple(sorted({run_id for part in found for one in part for run_id in one.run_ids})),
    )
    # What a source leaves open and what its scores are too wide for are asked of the average anew.
    hard = [one for verdict in every for one in verdict.differs if one.asked is not None and one.field != "spread"]
    soft = [one for verdict in every for one in unpublished(verdict.cell)]
    return _decide(cell, measured, _once(hard), _once(soft))


def _once(differing: Iterable[Differing]) -> tuple[Differing, ...]:
    found: list[Differing] = []  # not a set: values may be lists
    for one in differing:
        if one not in found:
            found.append(one)
    return tuple(found)


def _decide(
    cell: PublishedCell, measured: Measured, hard: tuple[Differing, ...], soft: tuple[Differing, ...]
) -> Verdict:
    """The rule of this module.

    Args:
        cell: The printed number.
        measured: What the runs came to.
        hard: Fields in which the runs differ from what was asked for.
        soft: Fields that the source does not publish.
    """
    metric = find(cell.score.rpartition("/")[2])
    in_points = metric is None or metric.points
    margin = MARGIN if in_points else RELATIVE_MARGIN * abs(cell.value)
    width = measured.width or 0.0
    tolerance = max(margin, width) + cell.step
    difference = measured.value - cell.value
    if hard:
        return Verdict(cell=cell, verdict="not comparable", measured=measured, differs=hard)
    if measured.diverged >= measured.n:
        reason = f"{measured.diverged} of {measured.diverged + measured.n} runs diverged"
        verdict: VerdictName = "not comparable" if soft else "not reproduced"
        return Verdict(cell=cell, verdict=verdict, measured=measured, differs=soft, reason=reason)
    # Sums of binary fractions miss decimal ones by some 1e-16.
    inside = abs(difference) <= tolerance + 1e-12
    if inside and width > WIDEST_MARGINS * margin and abs(difference) > margin + cell.step:
        spread = Differing("spread", f"at most ± {WIDEST_MARGINS * margin:.4g}", f"± {width:.4g}")
        return Verdict(cell=cell, verdict="not comparable", measured=measured, tolerance=tolerance, differs=(spread,))
    if inside:
        return Verdict(cell=cell, verdict="reproduced", measured=measured, tolerance=tolerance)
    if soft:
        return Verdict(cell=cell, verdict="not comparable", measured=measured, tolerance=tolerance, differs=soft)
    direction: Direction = "lower" if difference < 0 else "higher"
    return Verdict(cell=cell, verdict="not reproduced", direction=direction, measured=measured, tolerance=tolerance)


def _why_without_score(cell: PublishedCell, records: Sequence[Record]) -> str:
    ended = [record for record in records if record.status != "ok"]
    if not records:
        return "no run of this cell is among the records"
    if not ended:
        return f"no run has the score {cell.score!r}"
    statuses = ", ".join(sorted({record.status for record in ended}))
    return f"{len(ended)} of {len(records)} runs ended {statuses}: {ended[0].reason or 'no reason was recorded'}"


def _widths(cell: PublishedCell, scores: Sequence[float], statistic: str) -> tuple[float | None, float | None]:
    """Half-widths of the 95 % interval of our value over seeds, and of the prediction interval for the published one."""
    n, m = len(scores), cell.seeds or 1
    if n < 2:
        return None, None
    from scipy.special import stdtrit

    def quantile(freedom: int) -> float:
        return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))

    variance = statistics.variance(scores)
    factor = MEDIAN_VARIANCE if statistic == "median" else 1.0
    own = quantile(n - 1) * math.sqrt(variance * factor / n)
    freedom = n - 1
    if cell.spread is not None and m > 1:
        freedom = n + m - 2
        variance = ((n - 1) * variance + (m - 1) * cell.spread**2) / freedom
    return own, quantile(freedom) * math.sqrt(variance * (factor / n + factor / m))


def _combined(widths: Iterable[Sequence[float | None]]) -> float | None:
    """The width of a mean over tasks. The scores of one task come from the same runs: their widths do not average out."""
    tasks = []
    for part in widths:
        known = [width for width in part if width is not None]
        if len(known) < len(part):
            return None
        tasks.append(statistics.fmean(known))
    return math.sqrt(math.fsum(width**2 for width in tasks)) / len(tasks)
