"""Methods over the tasks of a base model: macro means, and each method compared with the reference on all tasks at once.

    Comparison + verdicts on each task → [OverTasks: base model, target] → [Across: a method]

A mean covers these tasks alone, and weights them equally in points of score. Only metrics that are shares or correlations
enter, with the one setting per task that was run with the target. A method without a score on one of the tasks has no macro
mean and is not ranked.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_bench.metrics import HALF_A_POINT, default_margin
from lora_bench.records.analysis import Analysis
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.ranking import Contest, Rank, other_pairs, rank_all
from lora_bench.report.model.rows import Row, grouped
from lora_bench.report.model.seed_scores import DRAWS, Compared, Scored, both_risks, items_of, overlap_of
from lora_bench.stats import MacroDifference, Risk, Summary, Verdict, judge, macro_difference, seed_from, summarise
from lora_bench.stats.apart import least_p
from lora_bench.stats.verdict import FEWEST_PAIRS, VerdictName


@dataclass(frozen=True, kw_only=True)
class Across:
    """A method over the tasks of a base model.

    Args:
        rows: Row of each task, by the task's name.
        mean: Mean of the macro means of the seeds that all tasks have; None where it lacks a task or there is no such seed.
        difference: Method less reference, over the tasks on which both have scores; None for the reference.
        verdict: Verdict on that difference.
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
    """The methods of a base model with one target, over tasks; the reference first.

    Args:
        table: Table of the base model, on one of the tasks.
        settings: Setting of each task, by its name.
    """

    table: ModelTable
    settings: Mapping[str, Setting]
    methods: tuple[Across, ...]


@dataclass(frozen=True, kw_only=True)
class JudgedTable:
    """The rows of one base model on one task.

    Args:
        scored: Scores of every row.
        reference: Place of the reference among them.
        found: Differences of the other rows to it, by place, where they can be compared.
        excluded: Rate of collapses that the runs of each method exclude, in all places, by label.
        verdicts: Verdicts on these.
    """

    setting: Setting
    table: ModelTable
    scored: Sequence[Scored]
    reference: int
    found: Mapping[int, Compared]
    excluded: Mapping[str, float]
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)


def judge_over_tasks(cells: Sequence[JudgedTable], analysis: Analysis) -> tuple[OverTasks, ...]:
    """Return every base model and target that has several tasks; the differences to the reference are one family."""
    groups = [group for group in _groups(cells) if len(group) > 1]
    differences: dict[tuple[int, str], MacroDifference] = {}
    for number, group in enumerate(groups):
        for label in _labels(group):
            found = _against_reference(group, label, analysis.reference)
            if found is not None:
                differences[number, label] = found
    if not differences:
        return ()
    margin = analysis.margin if isinstance(analysis.margin, float) else HALF_A_POINT
    apart = {key for key in differences if _apart(groups[key[0]], key[1])}
    risks = {
        (number, label): _risks(groups[number], (label, analysis.reference), of.tasks)
        for (number, label), of in differences.items()
    }
    verdicts = judge(differences, margin=margin, settings=analysis, collapsed=apart, risks=risks)
    ranks = _ranks(groups, verdicts, analysis)
    return tuple(
        OverTasks(
            table=next(iter(group.values())).table,
            settings={task: cell.setting for task, cell in group.items()},
            methods=tuple(
                _across(group, label, differences.get((number, label)), verdicts.get((number, label)), ranks[number])
                for label in (analysis.reference, *_labels(group))
                if label == analysis.reference or (number, label) in differences
            ),
        )
        for number, group in enumerate(groups)
        if any(key[0] == number for key in differences)
    )


def _groups(cells: Sequence[JudgedTable]) -> list[dict[str, JudgedTable]]:
    """Return the cells of each base model and target by task; a task with several settings has no one score, and stays out."""
    shares = [cell for cell in cells if default_margin(cell.setting.spec.task.metric) is not None]
    groups = grouped(shares, lambda one: (one.table.model.shown, one.table.weights, one.setting.parameter_target))
    by_task = [grouped(group, lambda cell: cell.setting.spec.task.name) for group in groups.values()]
    return [{task: found[0] for task, found in group.items() if len(found) == 1} for group in by_task]


def _labels(group: Mapping[str, JudgedTable]) -> list[str]:
    """Return the methods but the reference, in the order of the tables; those that stand twice in one are left out."""
    counts = [Counter(one.row.label for one in cell.scored) for cell in group.values()]
    others = (one for cell in group.values() for place, one in enumerate(cell.scored) if place != cell.reference)
    found = dict.fromkeys(one.row.label for one in others)
    return [label for label in found if all(count[label] < 2 for count in counts)]


def _of(cell: JudgedTable, label: str) -> Scored | None:
    """Return the one row of a method on a task, or the reference's."""
    reference = cell.scored[cell.reference]
    return next((one for one in (reference, *cell.scored) if one.row.label == label), None)


def _apart(group: Mapping[str, JudgedTable], label: str) -> bool:
    """Tell if runs of a method or the reference collapsed or stand apart on any of the tasks."""
    return any(
        verdict.apart and cell.scored[place].row.label == label
        for cell in group.values()
        for place, verdict in cell.verdicts.items()
    )


def _risks(group: Mapping[str, JudgedTable], labels: tuple[str, str], tasks: Iterable[str]) -> tuple[Risk, Risk] | None:
    """Return the costs of collapses of two methods over *tasks*, where both are known."""
    excluded, cells = next(iter(group.values())).excluded, [group[task] for task in tasks]
    places = ([(cell.setting, of.row) for cell in cells if (of := _of(cell, label)) is not None] for label in labels)
    return both_risks(*((rows, excluded[label]) for rows, label in zip(places, labels, strict=True)))


def _against_reference(group: Mapping[str, JudgedTable], label: str, reference: str) -> MacroDifference | None:
    """Return the difference over the tasks on which both have scores, or None where that is one task or no seed is in all."""
    found = {task: (_of(cell, label), _of(cell, reference)) for task, cell in group.items()}
    pairs = {
        task: (one, other) for task, (one, other) in found.items() if one and other and one.scores.keys() & other.scores
    }
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


def _mean(group: Mapping[str, JudgedTable], label: str) -> Summary | None:
    rows = [_of(cell, label) for cell in group.values()]
    scores = [row.scores for row in rows if row is not None and row.scores]
    seeds = sorted(set.intersection(*map(set, scores))) if len(scores) == len(group) else []
    if not seeds:
        return None
    return summarise([statistics.fmean(of_task[seed] for of_task in scores) for seed in seeds])


def _ranks(
    groups: Sequence[Mapping[str, JudgedTable]], verdicts: Mapping[tuple[int, str], Verdict], analysis: Analysis
) -> list[dict[str, Rank]]:
    """Return the ranks of the methods of each group that have all its tasks."""
    entered: list[list[str]] = []
    contests = []
    for number, group in enumerate(groups):
        means = {
            label: mean.mean
            for label in (analysis.reference, *_labels(group))
            if (mean := _mean(group, label)) is not None
            and (label == analysis.reference or (number, label) in verdicts)
        }
        labels = [*means]
        entered.append(labels)
        judged = [verdicts[number, label] for label in labels[1:]]
        contests.append(
            Contest(
                means=[*means.values()],
                against_reference={
                    (0, place): (-verdict.difference, verdict.adjusted_p)
                    for place, verdict in enumerate(judged, start=1)
                },
                others={
                    (one, other): _gain_and_p(group, labels[one], labels[other], analysis)
                    for one, other in other_pairs(len(labels))
                },
            )
        )
    return [
        dict(zip(labels, ranks, strict=True)) if ranks is not None and len(labels) > 1 else {}
        for labels, ranks in zip(entered, rank_all(contests, analysis.alpha), strict=True)
    ]


def _gain_and_p(
    group: Mapping[str, JudgedTable], one: str, other: str, analysis: Analysis
) -> tuple[float, float | None]:
    """As `scored.gain_and_p`, over tasks."""
    pairs = {
        task: (first, second)
        for task, cell in group.items()
        if (first := _of(cell, one)) is not None and (second := _of(cell, other)) is not None
    }
    found = _macro_difference(pairs, draws=0)
    if found is None:
        return 0.0, None
    share = analysis.share(found.pairs)
    p_value = replace(found.estimate, share=share).p_value()
    if p_value is None or p_value <= analysis.alpha:
        with_test_items = _macro_difference(pairs, draws=DRAWS)
        p_value = replace(with_test_items.estimate, share=share).p_value() if with_test_items is not None else None
    if p_value is not None and (_apart(group, one) or _apart(group, other)):
        p_value = max(p_value, min(1.0, least_p(found.pairs) / share))
    return found.estimate.value, p_value if found.pairs >= FEWEST_PAIRS else None


def _across(
    group: Mapping[str, JudgedTable],
    label: str,
    difference: MacroDifference | None,
    verdict: Verdict | None,
    ranks: Mapping[str, Rank],
) -> Across:
    rows = {task: found.row for task, cell in group.items() if (found := _of(cell, label)) is not None}
    shown = Counter(
        of_task.verdict
        for task, cell in group.items()
        for place, of_task in cell.verdicts.items()
        if cell.scored[place].row is rows.get(task)
    )
    return Across(
        label=label,
        rows=rows,
        mean=_mean(group, label),
        difference=difference,
        verdict=verdict,
        shown=shown,
        rank=ranks.get(label),
    )
