"""The facts of a report's first screen: the comparisons on which its answer rests, and each method over all of them.

    Comparison + verdicts + probes → [Contrast: a method on one base model] → [Line: a method over all its base models]

Contrasts are the means over tasks where a report has them, else those of each task. Costs are ratios to the reference on the
same base model, so that large and small base models count alike.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

from lora_bench.metrics import default_margin
from lora_bench.records.budget import ParameterAxis
from lora_bench.report import text
from lora_bench.report.model.choose_method import Choice, Taken, take
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, rows_of
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.reference import undeclared_analysis
from lora_bench.report.model.rows import Row, grouped, unique
from lora_bench.report.model.searches import Beside, is_probed_by
from lora_bench.report.probes.cells import STEP, Probed, Value, probed_cells
from lora_bench.stats import Verdict
from lora_bench.stats.verdict import VerdictName

PEAK = "measured.peak_bytes"

# Marks a verdict that holds if no run collapses; readers see the rate instead: `unless_words`.
UNLESS = "if sound"

# Verdicts in the order in which they are named: those that decide, and those that hold if no run collapses.
DECIDED: tuple[VerdictName, ...] = ("better", "worse", "equivalent", "non-inferior")
WITHIN: tuple[VerdictName, ...] = ("equivalent", "non-inferior")
UNLESS_COLLAPSE = tuple(f"{word} {UNLESS}" for word in WITHIN)
SHOWN = (*DECIDED, *UNLESS_COLLAPSE)

Target = tuple[ParameterAxis, int] | None

# Where runs come from, and a number among the settings of one task and target.
Group = tuple[str, int]


def shown_verdict(verdict: Verdict) -> str:
    """Return the verdict; of an open one what would hold if runs never collapsed, with a mark."""
    if verdict.verdict == "inconclusive" and verdict.unless_collapse is not None:
        return f"{verdict.unless_collapse} {UNLESS}"
    return verdict.verdict


def unless_words(verdicts: Iterable[Verdict]) -> str:
    """Return the least rate of collapses that would cancel any of these verdicts, in words."""
    rates = [one.cancelled.rate for one in verdicts if one.cancelled is not None]
    return f"unless over {rate_words(min(rates))} of runs collapse" if rates else "unless some runs collapse"


def rate_words(rate: float, *, up: bool = False) -> str:
    """Return a rate of collapses, rounded down, as one that cancels a claim, or *up*, as one that runs exclude."""
    digits = 0 if rate >= 0.1 else 1 if rate >= 0.001 else 2
    parts = 10 ** (digits + 2)
    whole = math.ceil(rate * parts - 1e-9) if up else math.floor(rate * parts + 1e-9)
    return text.percent(whole / parts, digits)


def verdict_name(shown: str, verdicts: Iterable[Verdict]) -> str:
    """Return a verdict that some comparisons share, with what would cancel one that holds if no run collapses."""
    name, *if_sound = shown.split(f" {UNLESS}")
    return f"{name} {unless_words(verdicts)}" if if_sound else name


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A method less the reference on one base model, on one task or in the mean over several.

    Args:
        setting: Setting of the task, or of one of several.
        by_task: The verdict on each of several tasks by itself.
        shares: Whether the score is a share or a correlation, so that differences are points of 100.
    """

    label: str
    table: ModelTable
    setting: Setting
    verdict: Verdict
    by_seed: tuple[float, ...]
    tasks: int = 1
    by_task: Mapping[str, VerdictName] = field(default_factory=dict)
    higher_is_better: bool = True
    shares: bool = True

    @property
    def shown(self) -> str:
        """The verdict, as `shown_verdict` has it."""
        return shown_verdict(self.verdict)

    @property
    def unit(self) -> float:
        """The factor from a difference to what is shown: points of 100, or the metric's own unit."""
        return 100.0 if self.shares else 1.0


class Ratio(NamedTuple):
    """A measured cost as a multiple of the reference's, the geometric mean over base models.

    It is *exclusive* if nothing is known to have run beside any of the measurements, and *resumed* if some are of the part of a
    run after a checkpoint.
    """

    value: float
    exclusive: bool
    resumed: bool = False


class Place(NamedTuple):
    """A row where it stands, with the reference of its table."""

    setting: Setting
    table: ModelTable
    row: Row
    reference: Row | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method at one target over its tasks and base models.

    Args:
        group: Settings that it is of: those of different groups differ in more than the task and the target.
        score: Mean score over places; None without a common scale, or where a stranger's method lacks a place of the choice.
        scored: Number of places with a score.
        file_bytes: Bytes of the files to ship at each place.
        counted: Whether these are computed from parameter counts, as no files were kept.
        file_ratios: Bytes as multiples of the reference's.
        step: Of the runs' middle steps; *mean_step* is of all their steps.
        cost: Mean cost over places, of a stranger's table that has one for all runs.
    """

    label: str
    target: Target
    group: Group
    reference: bool
    places: tuple[Place, ...]
    score: float | None
    scored: int
    contrasts: tuple[Contrast, ...]
    file_bytes: tuple[float, ...]
    counted: bool
    file_ratios: tuple[float, ...]
    step: Ratio | None
    mean_step: Ratio | None
    memory: Ratio | None
    cost: float | None = None

    @cached_property
    def by_verdict(self) -> dict[str, list[Contrast]]:
        """Its comparisons by their verdicts, in the order in which these are named; open ones last."""
        found = grouped(self.contrasts, lambda contrast: contrast.shown)
        return {word: found[word] for word in (*SHOWN, "inconclusive") if word in found}

    def all_shown(self, words: Sequence[str]) -> bool:
        """Tell if every comparison has one of these verdicts."""
        return bool(self.contrasts) and all(word in words for word in self.by_verdict)

    @property
    def difference(self) -> float | None:
        """The mean of its differences; None where their scores have no common scale."""
        if not self.contrasts or not _one_scale(contrast.setting for contrast in self.contrasts):
            return None
        return statistics.fmean(contrast.verdict.difference for contrast in self.contrasts)


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The content of a report's first screen.

    Args:
        lines: Every method at every target, one target after the other; the reference of each first. Groups of settings
            with verdicts come before others, and planned runs before those of one's own scripts.
        methods: Every method over all targets; the reference first.
        choices: The result of `choose_method` for each task, base model and target; empty where nothing was judged, or runs
            learned nothing.
        cost_name: Name of the costs of lines, which says their unit.
    """

    comparison: Comparison
    judged: Judged | None
    reference: str
    contrasts: tuple[Contrast, ...]
    lines: tuple[Line, ...]
    methods: tuple[Line, ...]
    choices: tuple[Choice, ...] = ()
    cost_name: str = ""

    @cached_property
    def taken(self) -> Taken | None:
        """The one method to take, where all its tables share some."""
        return take(self.choices)

    @property
    def learned_little(self) -> bool:
        """Whether so many runs learned nothing that more work helps before more seeds."""
        return self.judged is not None and self.judged.learned_little


def overview(
    comparison: Comparison, judged: Judged | None, beside: Beside, choices: tuple[Choice, ...] = ()
) -> Overview:
    """Return the first screen of a report; the probes of *beside* are preferred to what was measured in runs."""
    labels = sorted({row.label for setting in comparison.settings for row in setting.rows})
    analysis = judged.analysis if judged is not None else undeclared_analysis(comparison)
    reference = analysis.reference if analysis is not None else labels[0]
    contrasts = tuple(contrasts_of(judged)) if judged is not None else ()
    places = _places(comparison, reference)
    probed = probed_cells(beside.probes)
    chosen = choices if comparison.scores_alone else ()
    common = [choice.table for choice in chosen if reference in [row.label for row in choice.rows]]

    def lines(apart: bool) -> tuple[Line, ...]:
        def key(label: str, setting: Setting) -> tuple[str, Group, Target]:
            return label, *(_apart(setting, comparison) if apart else (("", 0), None))

        of_lines = grouped(places, lambda place: key(place.row.label, place.setting))
        for line, every in of_lines.items():
            of_lines[line] = [place for place in every if place.table in common] or every
        compared = grouped(contrasts, lambda contrast: key(contrast.label, contrast.setting))
        found = [
            _line(label, target, group, of_line, reference, compared.get((label, group, target), []), beside, probed)
            for (label, group, target), of_line in of_lines.items()
        ]
        lacking = [line for line in found if sum(place.table in common for place in line.places) < len(common)]
        blank = partial(replace, score=None, cost=None)
        found = [blank(line) if line in lacking or line.scored < len(common) else line for line in found]
        judged_groups = {line.group for line in found if line.contrasts}
        order = [*dict.fromkeys(line.target for line in found)]

        def place(line: Line) -> tuple[object, ...]:
            return line.group not in judged_groups, line.group, order.index(line.target), not line.reference

        return tuple(sorted(found, key=place))

    return Overview(
        comparison=comparison,
        judged=judged,
        reference=reference,
        contrasts=contrasts,
        lines=lines(apart=True),
        methods=lines(apart=False),
        choices=choices,
        cost_name=beside.given.name if beside.given is not None else "",
    )


def _apart(setting: Setting, comparison: Comparison) -> tuple[Group, Target]:
    """Return the key that keeps the scores of two settings out of one mean."""
    kin = [
        other
        for other in comparison.results
        if other.spec.task.name == setting.spec.task.name
        and other.parameter_target == setting.parameter_target
        and other.spec.source == setting.spec.source
    ]
    return (setting.spec.source or "", kin.index(setting)), setting.parameter_target


def _places(comparison: Comparison, reference: str) -> list[Place]:
    """Every row that is a result, with the reference of its table. Tables without a score enter only if no table has one."""
    scored = any(row.score is not None for setting in comparison.results for row in setting.rows)
    return [
        Place(setting, table, row, next((other for other in table.rows if other.label == reference), None))
        for setting, table, row in rows_of(comparison.results)
        if not setting.search and (not scored or any(other.score is not None for other in table.rows))
    ]


def contrasts_of(judged: Judged, *, of_tasks: bool = False) -> list[Contrast]:
    """Return the comparisons on which an answer rests, over tasks where there are any such, or those *of_tasks* in any case."""
    if judged.over_tasks and not of_tasks:
        return [
            Contrast(
                label=one.label,
                table=group.table,
                setting=next(iter(group.settings.values())),
                tasks=len(one.difference.tasks),
                by_task={
                    task: held.verdict.verdict for task, row in one.rows.items() if (held := judged.of(row)) is not None
                },
                verdict=one.verdict,
                by_seed=one.difference.differences,
            )
            for group in judged.over_tasks
            for one in group.methods
            if one.verdict is not None and one.difference is not None
        ]
    return [
        Contrast(
            label=held.row.label,
            table=held.table,
            setting=held.setting,
            verdict=held.verdict,
            by_seed=held.difference.differences,
            higher_is_better=bool(held.setting.spec.task.higher_is_better),
            shares=default_margin(held.setting.spec.task.metric) is not None,
        )
        for held in judged.held
    ]


def _line(
    label: str,
    target: Target,
    group: Group,
    places: Sequence[Place],
    reference: str,
    contrasts: Sequence[Contrast],
    beside: Beside,
    probed: Sequence[Probed],
) -> Line:
    once = [*{place.row.run_ids: place for place in places}.values()]
    sizes = [(place, _file_bytes(place.row, place, beside)) for place in once]
    scores = [score for place in once if (score := place.setting.score_of(place.row)) is not None]
    costs = [] if beside.given is None else [beside.given.mean(place.row) for place in once]
    known = [cost for cost in costs if cost is not None]
    ratios = []
    # A method that is exempt from the target has one set of runs, and the files of each target's reference beside them.
    for place in places:
        size, _ = _file_bytes(place.row, place, beside)
        other = _file_bytes(place.reference, place, beside)[0] if place.reference is not None else None
        ratios += [size / other] if size is not None and other else []
    return Line(
        label=label,
        target=target,
        group=group,
        reference=label == reference,
        places=tuple(once),
        score=statistics.fmean(scores) if scores and _one_scale(place.setting for place in once) else None,
        scored=len(scores),
        contrasts=tuple(contrasts),
        file_bytes=tuple(size for _, (size, _) in sizes if size is not None),
        counted=any(counted for _, (size, counted) in sizes if size is not None),
        file_ratios=tuple(ratios),
        step=_ratio(once, probed, STEP, lambda row: row.step_seconds),
        mean_step=_ratio(once, (), STEP, lambda row: 1 / row.examples_per_second if row.examples_per_second else None),
        memory=_ratio(once, probed, PEAK, lambda row: row.train_peak_bytes),
        cost=statistics.fmean(known) if known and len(known) == len(once) else None,
    )


def _one_scale(settings: Iterable[Setting]) -> bool:
    """Tell if a mean over these scores has a meaning: they share one metric, or all are shares or correlations."""
    metrics = {setting.spec.task.metric for setting in settings}
    return len(metrics) == 1 or all(default_margin(metric) is not None for metric in metrics)


def _file_bytes(row: Row, place: Place, beside: Beside) -> tuple[float | None, bool]:
    """Bytes of the files to ship, and whether they are computed from the number of stored parameters."""
    kept = beside.checkpoint_bytes(row, place.table, place.setting)
    return (row.counted_bytes, True) if kept is None else (kept, False)


def _ratio(
    places: Sequence[Place], probed: Sequence[Probed], of: Value, in_runs: Callable[[Row], float | None]
) -> Ratio | None:
    """Return a cost over places, from probes where both methods have one, else from runs with the same kind of memory."""
    found: list[Ratio] = []
    for place in places:
        if place.reference is None:
            continue
        # The one probe of a method on a base model.
        cells = [
            unique(cell for cell in probed if cell.records and is_probed_by(cell.spec, row, place.table))
            for row in (place.row, place.reference)
        ]
        pair = [cell.value(of) if cell is not None else None for cell in cells]
        alone = all(record.exclusive is not False for cell in cells if cell is not None for record in cell.records)
        resumed = False
        if None in pair:
            rows = (place.row.measured, place.reference.measured)
            pair = [in_runs(row) for row in rows] if rows[0].memory_kind == rows[1].memory_kind else [None]
            alone = all(row.exclusive is not False for row in rows)
            resumed = any(row.only_resumed for row in rows)
        own, other = pair if len(pair) == 2 else (None, None)
        if own and other:
            found.append(Ratio(own / other, alone, resumed))
    if not found:
        return None
    return Ratio(
        statistics.geometric_mean(one.value for one in found),
        all(one.exclusive for one in found),
        any(one.resumed for one in found),
    )
