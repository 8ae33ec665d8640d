"""Methods over the tasks of a base model: macro means, and each method compared with the reference on all tasks at once.

    Comparison + verdicts on each task → [OverTasks: base model, target] → [Across: a method]

A mean covers these tasks alone, and weights them equally in points of score. Only metrics that are shares or correlations
enter, with the one setting per task that was run with the target. A method without a score on one of the tasks has no macro
mean and is not ranked.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lora_bench.metrics import HALF_A_POINT, default_margin
from lora_bench.records.analysis import Analysis
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.ranking import Contest, GainAndP, Rank, each_pair, rank_all
from lora_bench.report.model.rows import Row, grouped
from lora_bench.report.model.seed_scores import DRAWS, Compared, Scored, both_risks, items_of, overlap_of
from lora_bench.stats import MacroDifference, Summary, Verdict, judge, macro_difference, seed_from, summarise
from lora_bench.stats.apart import least_p
from lora_bench.stats.verdict import FEWEST_PAIRS, VerdictName


@dataclass(frozen=True, kw_only=True)
class Across:
    """A method over the tasks of a base model.

    Args:
        mean: Mean of the macro means of the seeds that all tasks have; None where it lacks a task or there is no such seed.
        difference: Method less reference, over the tasks on which both have scores; None for the reference.
        shown: Number of tasks with each verdict against the reference.
        rank: Rank among the methods that have all tasks; None where it has none.
    """

    label: str
    rows: Mapping[str, Row]
    mean: Summary | None
    difference: MacroDifference | None
    verdict: Verdict | None
    shown: Mapping[VerdictName, int]
    rank: Rank | None

    @property
    def runs(self) -> int:
        """Number of its runs on these tasks."""
        return sum(len(row.run_ids) for row in self.rows.values())

    @property
    def failed(self) -> int:
        """The number of runs that ended in another way than `ok`."""
        return sum(len(row.failures) for row in self.rows.values())


@dataclass(frozen=True, kw_only=True)
class OverTasks:
    """The methods of a base model with one target, over tasks, the reference first; *table* is of one of the tasks."""

    table: ModelTable
    settings: Mapping[str, Setting]
    methods: tuple[Across, ...]


@dataclass(frozen=True, kw_only=True)
class JudgedTable:
    """The rows of one base model on one task, with the place of the reference among them.

    Differences to it and verdicts are by place, where they can be compared.
    """

    setting: Setting
    table: ModelTable
    scored: Sequence[Scored]
    reference: int
    found: Mapping[int, Compared]
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)


class _Group(NamedTuple):
    """The tasks of a base model and target, with the rows of each method by task, the reference's first, and its verdicts."""

    cells: dict[str, JudgedTable]
    rows: dict[str, dict[str, Scored]]
    verdicts: dict[str, list[Verdict]]

    def apart(self, label: str) -> bool:
        """Tell if runs of a method or the reference collapsed or stand apart on any of the tasks."""
        return any(verdict.apart for verdict in self.verdicts.get(label, ()))

    def without_spread(self, label: str, reference: str) -> bool:
        """Tell if all seeds gave the same difference on any of the tasks, which says nothing of other seeds there."""
        others = self.rows[reference]
        pairs = [(one.scores, others[task].scores) for task, one in self.rows[label].items() if task in others]
        return any(len({one[seed] - other[seed] for seed in one.keys() & other.keys()}) == 1 for one, other in pairs)


def judge_over_tasks(
    cells: Sequence[JudgedTable], analysis: Analysis, excluded: Mapping[str, float]
) -> tuple[OverTasks, ...]:
    """Return every base model and target that has several tasks; the differences to the reference are one family.

    All runs of a method exclude a rate of collapses, by label.
    """
    reference = analysis.reference
    groups = [_group(by_task, reference) for by_task in _by_task(cells) if len(by_task) > 1]
    differences = {
        (number, label): found
        for number, group in enumerate(groups)
        for label, rows in group.rows.items()
        if label != reference and (found := _against(group.rows[reference], rows)) is not None
    }
    if not differences:
        return ()
    margin = analysis.margin if isinstance(analysis.margin, float) else HALF_A_POINT
    verdicts = judge(
        differences,
        margin={
            (number, label): None if groups[number].without_spread(label, reference) else margin
            for number, label in differences
        },
        settings=analysis,
        collapsed={(number, label) for number, label in differences if groups[number].apart(label)},
        risks={
            (number, label): both_risks(
                *(([groups[number].rows[one][task] for task in of.tasks], excluded[one]) for one in (label, reference))
            )
            for (number, label), of in differences.items()
        },
    )
    ranks = _ranks(groups, verdicts, analysis)
    return tuple(
        OverTasks(
            table=next(iter(group.cells.values())).table,
            settings={task: cell.setting for task, cell in group.cells.items()},
            methods=tuple(
                Across(
                    label=label,
                    rows={task: one.row for task, one in rows.items()},
                    mean=_mean(rows, group),
                    difference=differences.get((number, label)),
                    verdict=verdicts.get((number, label)),
                    shown=Counter(verdict.verdict for verdict in group.verdicts.get(label, ())),
                    rank=ranks[number].get(label),
                )
                for label, rows in group.rows.items()
                if label == reference or (number, label) in differences
            ),
        )
        for number, group in enumerate(groups)
        if any(key[0] == number for key in differences)
    )


def _by_task(cells: Sequence[JudgedTable]) -> list[dict[str, JudgedTable]]:
    """Return the cells of each base model and target by task; a task with several settings has no one score, and stays out."""
    shares = [cell for cell in cells if default_margin(cell.setting.spec.task.metric) is not None]
    groups = grouped(shares, lambda one: (one.table.model.shown, one.table.weights, one.setting.parameter_target))
    by_task = [grouped(group, lambda cell: cell.setting.spec.task.name) for group in groups.values()]
    return [{task: found[0] for task, found in group.items() if len(found) == 1} for group in by_task]


def _group(cells: dict[str, JudgedTable], reference: str) -> _Group:
    """Return the methods of some tasks; those that stand twice in one table are left out."""
    rows = {reference: {task: cell.scored[cell.reference] for task, cell in cells.items()}}
    verdicts: dict[str, list[Verdict]] = {}
    twice = set()
    for task, cell in cells.items():
        for place, one in enumerate(cell.scored):
            label = one.row.label
            if label == reference:
                continue
            if task in rows.setdefault(label, {}):
                twice.add(label)
            rows[label][task] = one
            verdicts.setdefault(label, []).extend([cell.verdicts[place]] if place in cell.verdicts else [])
    return _Group(cells, {label: found for label, found in rows.items() if label not in twice}, verdicts)


def _against(reference: Mapping[str, Scored], rows: Mapping[str, Scored]) -> MacroDifference | None:
    """Return the difference over the tasks on which both have scores, or None where that is one task or no seed is in all."""
    pairs = {task: (one, reference[task]) for task, one in rows.items() if one.scores.keys() & reference[task].scores}
    return _macro_difference(pairs, draws=DRAWS) if len(pairs) > 1 else None


def _macro_difference(pairs: Mapping[str, tuple[Scored, Scored]], *, draws: int) -> MacroDifference | None:
    """Return the first of each pair less the second; without test items where nothing is to be drawn."""
    everywhere = [set(side.scores) for pair in pairs.values() for side in pair]
    if not set.intersection(*everywhere):
        return None
    items = {task: found for task, pair in pairs.items() if (found := items_of(*pair)) is not None}
    # Beside items, seeds alone give the lesser p-value.
    overlap = statistics.fmean(overlap_of(*pair) for pair in pairs.values()) if draws or not items else 0.0
    return macro_difference(
        {task: one.scores for task, (one, _) in pairs.items()},
        {task: other.scores for task, (_, other) in pairs.items()},
        draw_seed=seed_from(*sorted(run_id for one, _ in pairs.values() for run_id in one.row.run_ids)),
        items=items if draws else {},
        draws=draws,
        choices={task: (one.choice, other.choice) for task, (one, other) in pairs.items()},
        overlap=overlap,
    )


def _mean(rows: Mapping[str, Scored], group: _Group) -> Summary | None:
    scores = [one.scores for one in rows.values() if one.scores]
    seeds = sorted(set.intersection(*map(set, scores))) if len(scores) == len(group.cells) else []
    return summarise([statistics.fmean(of_task[seed] for of_task in scores) for seed in seeds]) if seeds else None


def _ranks(
    groups: Sequence[_Group], verdicts: Mapping[tuple[int, str], Verdict], analysis: Analysis
) -> list[dict[str, Rank]]:
    """Return the ranks of the methods of each group that have all its tasks."""
    entered = [
        {
            label: mean.mean
            for label, rows in group.rows.items()
            if (mean := _mean(rows, group)) is not None and (label == analysis.reference or (number, label) in verdicts)
        }
        for number, group in enumerate(groups)
    ]

    def contest(number: int, means: Mapping[str, float]) -> Contest:
        labels = [*means]
        return Contest(
            means=[*means.values()],
            verdicts=[verdicts[number, label] for label in labels[1:]],
            compare=lambda: each_pair(
                len(labels) - 1,
                lambda one, other: _gain_and_p(groups[number], labels[1 + one], labels[1 + other], analysis),
            ),
        )

    ranked = rank_all([contest(number, means) for number, means in enumerate(entered)], analysis.alpha)
    return [dict(zip(labels, ranks, strict=False)) for labels, ranks in zip(entered, ranked, strict=True)]


def _gain_and_p(group: _Group, one: str, other: str, analysis: Analysis) -> GainAndP:
    """As `seed_scores.gain_and_p`, over tasks."""
    others = group.rows[other]
    pairs = {task: (first, others[task]) for task, first in group.rows[one].items() if task in others}
    found = _macro_difference(pairs, draws=0)
    if found is None:
        return 0.0, None
    share = analysis.share(found.pairs)
    p_value = replace(found.estimate, share=share).p_value()
    if p_value is None or p_value <= analysis.alpha:
        has_items = any(items_of(*pair) is not None for pair in pairs.values())
        with_test_items = _macro_difference(pairs, draws=DRAWS) if has_items else found
        p_value = replace(with_test_items.estimate, share=share).p_value() if with_test_items is not None else None
    if p_value is not None and (group.apart(one) or group.apart(other)):
        p_value = max(p_value, min(1.0, least_p(found.pairs) / share))
    return found.estimate.value, p_value if found.pairs >= FEWEST_PAIRS else None
