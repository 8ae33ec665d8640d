"""From the rows of a comparison to verdicts: each method against the reference, on each task and base model.

    Comparison + declaration → family of paired differences → [Held: a row, its reference, the verdict]

All comparisons of a report are one family, over which the error level holds. Only runs that nobody could have chosen by their
own scores are judged: searches, and protocols that choose on the reported split, are left out and said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_bench.analysis import DEFAULT_MARGIN, SHARES, Analysis, default_analysis
from lora_bench.record import Record
from lora_bench.report.comparison import Comparison, ModelTable, Setting
from lora_bench.report.rows import Row
from lora_bench.stats import (
    METRICS,
    Items,
    ItemScores,
    MacroDifference,
    PairedDifference,
    Verdict,
    item_metric,
    judge,
    macro_difference,
    paired_difference,
    seed_from,
    with_failures_at_floor,
)
from lora_bench.store import Answers

# Resamples of test items, for a metric that is no mean over them.
DRAWS = 2_000

Declared = Literal["before", "changed", "never"]

AnswersOf = Callable[[str], Answers | None]


@dataclass(frozen=True, kw_only=True)
class Held:
    """A row held against the reference.

    Args:
        difference: Row less reference, as the metric has it.
        items: Both scores as functions of the test items, where predictions are stored and the metric has that form.
        at_floor: The difference where every run that failed counts as the majority class; None where none failed.
    """

    setting: Setting
    table: ModelTable
    row: Row
    reference: Row
    difference: PairedDifference
    items: tuple[Items, Items] | None
    at_floor: float | None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Across:
    """A method held against the reference over the tasks of a base model, each of which counts alike, in raw points."""

    model: str
    label: str
    reference: str
    difference: MacroDifference
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdicts of a report.

    Args:
        comparison: What was judged.
        analysis: The declaration that they follow.
        declared: Whether the records carry it, and nothing else: "before" their runs. "changed" where they carry another one
            or several, "never" where they carry none.
        held: Every comparison.
        across: Every method on every base model over tasks, where there are several: a family of its own.
        left_out: What is not judged, with the reason.
    """

    comparison: Comparison
    analysis: Analysis
    declared: Declared
    held: tuple[Held, ...]
    across: tuple[Across, ...]
    left_out: tuple[str, ...]

    def of(self, row: Row) -> Held | None:
        """The comparison of a row, or None for the reference and what is not judged."""
        return next((held for held in self.held if held.row is row), None)


def judge_comparison(
    comparison: Comparison,
    records: Sequence[Record],
    answers: AnswersOf = lambda run_id: None,
    analysis: Analysis | None = None,
) -> Judged | None:
    """The verdicts on a comparison, or None where there is nothing to hold against anything.

    Args:
        comparison: Of *records*.
        records: What it was made of; they carry the declarations.
        answers: Gives the predictions of a run, where they are stored.
        analysis: A declaration in place of the records' own.
    """
    carried = {record.analysis.sha256: record.analysis for record in records if record.analysis is not None}
    chosen = analysis or _declaration(carried, records)
    if chosen is None:
        return None
    family: dict[
        tuple[int, int, int],
        tuple[Setting, ModelTable, Row, Row, PairedDifference, tuple[Items, Items] | None, float | None],
    ] = {}
    left_out: dict[str, None] = {}
    for number, setting in enumerate(comparison.settings):
        if setting.search or setting.spec.score_on == "selection":
            continue  # trials, which choose and are no results
        if reason := _not_judged(setting):
            left_out[f"{setting.spec.task.name}: {reason}"] = None
            continue
        for place, table in enumerate(setting.tables):
            reference = next((row for row in table.rows if row.label == chosen.reference), None)
            for index, row in enumerate(table.rows):
                if row is reference:
                    continue
                where = f"{row.label} on {table.model.shown}, {setting.spec.task.name}"
                if reference is None:
                    left_out[f"{where}: {chosen.reference} was not run there"] = None
                    continue
                found = row_difference(row, reference, setting, (answers, answers))
                if isinstance(found, str):
                    left_out[f"{where}: {found}"] = None
                    continue
                difference, items = found
                family[number, place, index] = (
                    setting, table, row, reference, difference, items, _at_floor(row, reference)
                )  # fmt: skip
    if not family:
        return None
    verdicts = _verdicts(family, chosen)
    held = tuple(
        Held(
            setting=setting, table=table, row=row, reference=reference, difference=difference, items=items,
            at_floor=at_floor, verdict=verdicts[key],
        )
        for key, (setting, table, row, reference, difference, items, at_floor) in family.items()
    )  # fmt: skip
    everyone = all(record.analysis is not None for record in records if record.spec.score_on == "test")
    declared: Declared = (
        "never" if not carried else "before" if everyone and set(carried) == {chosen.sha256} else "changed"
    )
    return Judged(
        comparison=comparison,
        analysis=chosen,
        declared=declared,
        held=held,
        across=_across(held, chosen),
        left_out=tuple(left_out),
    )


def _declaration(carried: Mapping[str, Analysis], records: Sequence[Record]) -> Analysis | None:
    """What the records carry; where they carry several the one of the most, and where none, the defaults."""
    if carried:
        number = {key: sum(r.analysis is not None and r.analysis.sha256 == key for r in records) for key in carried}
        return carried[max(sorted(carried), key=lambda key: number[key])]
    return default_analysis(sorted({record.spec.method.label for record in records}))


def _not_judged(setting: Setting) -> str | None:
    """Why the scores of a setting are not judged, or None where they are."""
    rules = setting.spec.rules
    if rules is not None and rules.choose_on != "selection":
        return "its protocol chooses on the split that it reports"
    if setting.spec.task.higher_is_better is None:
        return "nobody says whether a higher or a lower score is better"
    return None


def scores_by_seed(row: Row) -> dict[int, float]:
    """The scores of a row by seed; runs whose seed nobody knows have no partner and are left out."""
    return {score.seed: score.value for score in row.scores if score.seed is not None}


def row_difference(
    row: Row, reference: Row, setting: Setting, answers: tuple[AnswersOf, AnswersOf]
) -> tuple[PairedDifference, tuple[Items, Items] | None] | str:
    """A row less its reference and the items that enter, or why they cannot be compared.

    Args:
        row: What is judged.
        reference: What it is held against, on the same task and base model.
        setting: Of the row.
        answers: Gives the predictions of the row's runs, and of the reference's.
    """
    mine, theirs = scores_by_seed(row), scores_by_seed(reference)
    for label, scores in ((row.label, mine), (reference.label, theirs)):
        if not scores:
            return f"no run of {label} has a score"
    if not mine.keys() & theirs.keys():
        return "they share no seed"
    items = _items(row, reference, setting, answers)
    # A mean over items needs no draws for its variance, and 2,000 give that of another metric to 2 %.
    means = items is not None and all(isinstance(one, ItemScores) for one in items)
    difference = paired_difference(
        mine,
        theirs,
        draw_seed=seed_from(*sorted(row.run_ids), *sorted(reference.run_ids)),
        items=items,
        draws=0 if means else DRAWS,
    )
    return difference, items


def _items(
    row: Row, reference: Row, setting: Setting, answers: tuple[AnswersOf, AnswersOf]
) -> tuple[Items, Items] | None:
    """Both rows' scores as functions of the test items, where predictions are stored and the metric is known by item."""
    metric = setting.spec.task.metric
    if metric not in METRICS:
        return None
    both = []
    expected: list[Any] | None = None
    for one, answers_of in zip((row, reference), answers, strict=True):
        predictions: dict[int, Sequence[Any]] = {}
        for score in one.scores:
            found = answers_of(score.run_id)
            if found is None or score.seed is None:
                return None
            expected = found.references if expected is None else expected
            if found.references != expected:
                return None
            predictions[score.seed] = found.predictions
        if not expected or isinstance(expected[0], str | list):
            return None
        both.append(item_metric(metric, expected, predictions, classes=len(setting.spec.task.labels or ()) or None))
    return both[0], both[1]


def _at_floor(row: Row, reference: Row) -> float | None:
    """The mean difference where runs that failed count at the majority's score; None where none failed or nobody knows it."""
    floor = row.majority_score if row.majority_score is not None else reference.majority_score
    if floor is None or not (row.failures or reference.failures):
        return None
    means = []
    for one in (row, reference):
        failed = [failure.seed for failure in one.failures if failure.seed is not None]
        scores = with_failures_at_floor(scores_by_seed(one), failed, floor)
        means.append(sum(scores.values()) / len(scores))
    return means[0] - means[1]


def _verdicts(family: Mapping[Any, tuple[Any, ...]], analysis: Analysis) -> dict[Any, Verdict]:
    """Verdicts over the whole family: comparisons with a margin and those without are judged with one error level."""
    margins, directions, differences = {}, {}, {}
    for key, (setting, _, _, _, difference, *_) in family.items():
        task = setting.spec.task
        margins[key] = analysis.margin_of(task.name, task.metric)
        directions[key] = bool(task.higher_is_better)
        differences[key] = difference
    return judge(differences, margin=margins, alpha=analysis.alpha, higher_is_better=directions)


def _across(held: Sequence[Held], analysis: Analysis) -> tuple[Across, ...]:
    """Differences over the tasks of each base model; a task with several settings has no one difference, and stays out."""
    groups: dict[tuple[str, str, str], dict[str, list[Held]]] = {}
    for one in held:
        if one.setting.spec.task.metric in SHARES:
            of_task = groups.setdefault((one.table.model.shown, one.table.weights, one.row.label), {})
            of_task.setdefault(one.setting.spec.task.name, []).append(one)
    differences: dict[tuple[str, str, str], MacroDifference] = {}
    for key, by_task in groups.items():
        alone = {task: found[0] for task, found in by_task.items() if len(found) == 1}
        seeds = [set(one.difference.seeds) for one in alone.values()]
        if len(alone) > 1 and set.intersection(*seeds):
            differences[key] = macro_difference(
                {task: scores_by_seed(one.row) for task, one in alone.items()},
                {task: scores_by_seed(one.reference) for task, one in alone.items()},
                draw_seed=seed_from(*sorted(run_id for one in alone.values() for run_id in one.row.run_ids)),
                items={task: one.items for task, one in alone.items() if one.items is not None},
                draws=DRAWS,
            )
    if not differences:
        return ()
    margin = analysis.margin if isinstance(analysis.margin, float) else DEFAULT_MARGIN
    verdicts = judge(differences, margin=margin, alpha=analysis.alpha)
    return tuple(
        Across(model=key[0], label=key[2], reference=analysis.reference, difference=difference, verdict=verdicts[key])
        for key, difference in differences.items()
    )
