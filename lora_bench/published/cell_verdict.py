"""The verdict on a published number: what our runs of its cell came to, and whether that is the same number.

A comparable cell is *reproduced*, *in line* or *not reproduced* by the rule of `lora_bench.published.rule`. Half of the runs or
more that diverge are no reproduction either.

**Not comparable** is a cell whose runs differ from what its table's suite asks for, one with fewer than 3 runs, since two give
no spread worth the name, and one whose spread is too wide to say anything. So is one that misses the number where the source
leaves a field unpublished, which the suite chose. **Not run** is a cell without runs that have its score. See
docs/published.md#verdicts.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_bench.metrics import find
from lora_bench.published import rule
from lora_bench.published.comparable import Differing, Expected, nearest, place_of, place_of_cell, unpublished
from lora_bench.published.table import PublishedCell, PublishedTable
from lora_bench.records.record import Record
from lora_bench.report.model.rows import grouped

FEWEST_RUNS = 3

VerdictName = Literal["reproduced", "in line", "not reproduced", "not comparable", "not run"]
Direction = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Result of a cell's runs: the mean or median of the *n* with the score, which leaves out those that diverged.

    *own_width* is the half-width of the 95 % interval of the value over seeds, None for a single run. *uncertainty* is that of
    the difference from the published value, None where no spread is known. *run_ids* has the diverged ones too.
    """

    n: int
    diverged: int
    value: float
    own_width: float | None
    uncertainty: rule.CellUncertainty | None
    run_ids: tuple[str, ...]

    @property
    def width(self) -> float | None:
        """Half-width of the 95 % prediction interval for the published value."""
        return None if self.uncertainty is None else self.uncertainty.width


@dataclass(frozen=True, kw_only=True)
class CellVerdict:
    """Verdict of our runs on a published number.

    Args:
        direction: The side of our value, lower or higher, if the number is not reproduced.
        measured: The result of the runs, or None without a run that has the score.
        gap: The difference that the rule judges, or None where the scores do not decide.
        differs: The fields for which a cell is not comparable.
        choices: The fields that the source does not publish; with any, no score can refute the number.
        reason: The reason that a cell is not run, or is not reproduced where no number says so.
    """

    cell: PublishedCell
    verdict: VerdictName
    direction: Direction | None = None
    measured: Measured | None = None
    gap: rule.Gap | None = None
    differs: tuple[Differing, ...] = ()
    choices: tuple[Differing, ...] = ()
    reason: str | None = None

    @property
    def difference(self) -> float | None:
        """Our value less the published one."""
        return None if self.measured is None else self.measured.value - self.cell.value

    @property
    def refutable(self) -> bool:
        """True if other scores of the same runs would have refuted the number."""
        return self.verdict in ("reproduced", "in line", "not reproduced") and not self.choices


def judge_table(
    table: PublishedTable,
    records: Sequence[Record],
    expected: Callable[[PublishedCell], Expected],
    stand_ins: Mapping[str, str] | None = None,
) -> tuple[CellVerdict, ...]:
    """The verdict on every cell of a table, in its order.

    The *records* of a cell are those with its method, task and base model; others and trials are passed over. *expected* gives
    the `fields` of its run as the table's own suite asks for it, or None if unknown: `expected_from` makes it of a plan.
    """
    tested = (record for record in records if record.spec.score_on == "test")
    places = grouped(tested, lambda record: place_of(record.spec))
    verdicts: dict[tuple[str, str, str, str], CellVerdict] = {}
    for cell in table.cells:
        if not cell.derived:
            mine = places.get(place_of_cell(cell, stand_ins), [])
            verdicts[cell.key] = judge(cell, mine, expected(cell) if mine else None)
    for cell in table.cells:
        if cell.derived:
            parts = [[verdicts[cell.row, cell.model, task, score] for score in scores] for task, scores in cell.derived]
            verdicts[cell.key] = judge_average(cell, parts)
    return tuple(_together([verdicts[cell.key] for cell in table.cells]))


def judge(cell: PublishedCell, records: Sequence[Record], expected: Expected) -> CellVerdict:
    """The verdict on one printed number that is no average over tasks.

    Runs of the cell may differ in more than their seeds: those nearest to *expected* are taken.
    """
    if cell.no_run is not None:
        return CellVerdict(cell=cell, verdict="not run", reason=cell.no_run)
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
            return CellVerdict(
                cell=cell, verdict=name, differs=soft, choices=soft, reason=f"all {diverged} runs diverged"
            )
        return CellVerdict(cell=cell, verdict="not run", reason=_why_without_score(cell, records))
    rules = records[0].spec.rules
    statistic = cell.statistic or (rules.aggregation if rules is not None else "mean")
    starts = {record.spec.start.run_id for record in records if record.spec.start is not None}
    own = rule.uncertainty(scores, statistic)
    measured = Measured(
        n=len(scores),
        diverged=diverged,
        value=(statistics.median if statistic == "median" else statistics.fmean)(scores),
        own_width=own.width if own is not None else None,
        uncertainty=rule.uncertainty(scores, statistic, spread=cell.spread, seeds=cell.seeds, starts=len(starts)),
        run_ids=tuple(sorted(record.run_id for record in records)),
    )
    if len(scores) + diverged < FEWEST_RUNS:
        differing = (*differing, Differing("runs", f"{FEWEST_RUNS} or more", len(scores) + diverged))
    return _decide(cell, measured, differing, unpublished(cell))


def judge_average(cell: PublishedCell, parts: Sequence[Sequence[CellVerdict]]) -> CellVerdict:
    """The verdict on a printed average over tasks, from those on each task's numbers whose mean enters."""
    every = [verdict for part in parts for verdict in part]
    missing = [f"{one.cell.task} {one.cell.score}" for one in every if one.measured is None]
    if missing:
        reason = cell.no_run or f"not all of its cells are run: {', '.join(missing)}"
        return CellVerdict(cell=cell, verdict="not run", reason=reason)
    known = [[one.measured for one in part if one.measured is not None] for part in parts]
    measured = Measured(
        n=min(one.n for part in known for one in part),
        diverged=max(one.diverged for part in known for one in part),
        value=statistics.fmean(statistics.fmean(one.value for one in part) for part in known),
        own_width=_combined([[one.own_width for one in part] for part in known]),
        uncertainty=rule.combined([[one.uncertainty for one in part] for part in known]),
        run_ids=tuple(sorted({run_id for part in known for one in part for run_id in one.run_ids})),
    )
    # What a source leaves open and what its scores are too wide for are asked of the average anew.
    hard = [one for verdict in every for one in verdict.differs if one.asked is not None and one.field != "spread"]
    soft = [one for verdict in every for one in unpublished(verdict.cell)]
    return _decide(cell, measured, _once(hard), _once(soft))


def _once(differing: Sequence[Differing]) -> tuple[Differing, ...]:
    # No set, since values may be lists.
    return tuple(one for place, one in enumerate(differing) if one not in differing[:place])


def _decide(
    cell: PublishedCell, measured: Measured, hard: tuple[Differing, ...], soft: tuple[Differing, ...]
) -> CellVerdict:
    """The rule of this module, given the *hard* differences of the runs, and the *soft* ones, which the source leaves open."""
    if hard:
        return CellVerdict(cell=cell, verdict="not comparable", measured=measured, differs=hard, choices=soft)
    if measured.diverged >= measured.n:
        reason = f"{measured.diverged} of {measured.diverged + measured.n} runs diverged"
        name: VerdictName = "not comparable" if soft else "not reproduced"
        return CellVerdict(cell=cell, verdict=name, measured=measured, differs=soft, choices=soft, reason=reason)
    assert measured.uncertainty is not None  # at least two runs have a score: of three, fewer than half diverged
    metric = find(cell.score.rpartition("/")[2])
    gap = rule.Gap(
        difference=measured.value - cell.value,
        uncertainty=measured.uncertainty,
        # One point, or 1 % of a value whose unit is no point.
        tolerance=rule.TOLERANCE if metric is None or metric.points else rule.TOLERANCE * abs(cell.value),
        rounding=cell.step,
    )
    return _together([CellVerdict(cell=cell, verdict="in line", measured=measured, gap=gap, choices=soft)])[0]


def _together(verdicts: Sequence[CellVerdict]) -> list[CellVerdict]:
    gaps = [verdict.gap for verdict in verdicts if verdict.gap is not None]
    phrases = iter(rule.words(gaps))
    return [verdict if verdict.gap is None else _worded(verdict, verdict.gap, next(phrases)) for verdict in verdicts]


def _worded(verdict: CellVerdict, gap: rule.Gap, word: rule.Word) -> CellVerdict:
    name: VerdictName = "not comparable"
    direction: Direction | None = None
    differs: tuple[Differing, ...] = ()
    if word == "too wide":
        widest = rule.WIDEST_TOLERANCES * gap.tolerance
        differs = (Differing("spread", f"at most ± {widest:.4g}", f"± {gap.uncertainty.width:.4g}"),)
    elif word == "not reproduced" and verdict.choices:
        differs = verdict.choices
    else:
        name = word
        if word == "not reproduced":
            direction = "lower" if gap.difference < 0 else "higher"
    return dataclasses.replace(verdict, verdict=name, direction=direction, differs=differs)


def _why_without_score(cell: PublishedCell, records: Sequence[Record]) -> str:
    ended = [record for record in records if record.status != "ok"]
    if not records:
        return "no run of this cell is among the records"
    if not ended:
        return f"no run has the score {cell.score!r}"
    statuses = ", ".join(sorted({record.status for record in ended}))
    return f"{len(ended)} of {len(records)} runs ended {statuses}: {ended[0].reason or 'no reason was recorded'}"


def _combined(widths: Sequence[Sequence[float | None]]) -> float | None:
    """The width of a mean over tasks. The scores of one task come from the same runs: their widths do not average out."""
    known = [[width for width in part if width is not None] for part in widths]
    if list(map(len, known)) != list(map(len, widths)):
        return None
    tasks = [statistics.fmean(part) for part in known]
    return math.sqrt(math.fsum(width**2 for width in tasks)) / len(tasks)
