"""The folded part of a base model's scores: each class, confusions, calibration, errors of numbers, and agreement."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from lora_bench.report import text
from lora_bench.report.blocks import MOST_COLUMNS, Block, Fold, TextTable, wide_table
from lora_bench.report.model.comparison import ModelTable
from lora_bench.report.model.given_answers import (
    ClassScores,
    GivenAnswers,
    class_scores,
    differing_items,
    error_scores,
    rows_with_answers,
)
from lora_bench.report.model.report import Report
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.method_tables import method_name
from lora_bench.report.text import MISSING, code, inert
from lora_bench.stats import Summary
from lora_bench.stats.verdict import FEWEST_FOR_INTERVAL

# More classes have no matrix: the lowest scores and the worst confusions say more.
MOST_SHOWN, MOST_PAIRS = 20, 10

# A matrix of more classes has numbers for its columns.
MOST_NAMED = MOST_COLUMNS - 2

ITEMS_PAGE = "items.md"

_Scored = tuple[Row, ClassScores]


def class_blocks(table: ModelTable, report: Report) -> list[Block]:
    """Return the part on one base model; empty where no predictions are stored."""
    rows = rows_with_answers(table, report.given_answers)
    if not rows:
        return []
    legend = (_POOLED if rows[0][1].seeds else _MEANS) + _LEGEND
    if not rows[0][1].classes:
        return [Fold("Errors in the unit of the label", [legend, _errors(rows)])]
    names = rows[0][1].classes
    scored = [(row, class_scores(of_row)) for row, of_row in rows]
    if rows[0][1].several:
        blocks = [legend, *_classes(scored, names, "label"), *_agreement(rows, report.overview.reference, report.name)]
        return [Fold("Labels", blocks)]
    if rows[0][1].tags:
        return [Fold("Entities", [legend, *_classes(scored, names, "type")])]
    if rows[0][1].lengths:
        return [Fold("Labels of words", [legend, *_classes(scored, names, "label"), *_confusions(scored, names)])]
    blocks = [legend, *_summary(scored), *_classes(scored, names), *_confusions(scored, names)]
    blocks += _agreement(rows, report.overview.reference, report.name)
    return [Fold("Classes, confusions and calibration", blocks)]


_MEANS = "Means over the runs with a score, with 95 % intervals over seeds from 3 on: "
_POOLED = "Pooled over folds: of the answers of all runs together, each to the rows of its fold: "
_LEGEND = "[how to read them](/docs/statistics.md#classes-and-calibration)."


def _errors(rows: Sequence[tuple[Row, GivenAnswers]]) -> TextTable:
    lines = []
    for row, given in rows:
        found = error_scores(given)
        lines.append(
            [
                method_name(row),
                str(len(row.scores)),
                *(_over_runs(one, unbounded=True) for one in (found.mae, found.rmse)),
            ]
        )
    return TextTable(["method", "runs", "MAE", "RMSE"], lines)


def _summary(scored: Sequence[_Scored]) -> list[Block]:
    calibrated = any(scores.calibration_error is not None for _, scores in scored)
    header = ["method", "runs", "macro F1"]
    lines = []
    for row, scores in scored:
        line = [method_name(row), str(len(row.scores)), _over_runs(scores.macro_f1)]
        if calibrated:
            line += [_over_runs(one) for one in (scores.calibration_error, scores.brier_score)]
        lines.append(line)
    if calibrated:
        return [TextTable([*header, "calibration error", "Brier score"], lines)]
    return [TextTable(header, lines), "Calibration is not shown: these runs kept no probabilities."]


def _classes(scored: Sequence[_Scored], names: Sequence[str], what: str = "class") -> list[Block]:
    """Precision, recall and F1 of the classes that the test items have."""
    items = scored[0][1].items
    present = [place for place, number in enumerate(items) if number]
    shown = present
    if len(present) > MOST_SHOWN:
        lowest = sorted(present, key=lambda place: (min(scores.f1[place].mean for _, scores in scored), place))
        shown = sorted(lowest[:MOST_SHOWN])
    lines = [
        [
            inert(names[place], 60), method_name(row), text.count(items[place]), text.score(scores.precision[place].mean),
            text.score(scores.recall[place].mean), _over_runs(scores.f1[place]),
        ]
        for place in shown
        for row, scores in scored
    ]  # fmt: skip
    header = [what, "method", "items", "precision", "recall", "F1"]
    several = "classes" if what == "class" else f"{what}s"
    some = f"{len(shown)} of {len(present)} {several}: those with the lowest F1 of any method."
    return [*([some] if len(shown) < len(present) else []), TextTable(header, lines, 2)]


def _confusions(scored: Sequence[_Scored], names: Sequence[str]) -> list[Block]:
    if len(names) > MOST_SHOWN:
        return _worst_pairs(scored, names)
    shown = [inert(name, 60) for name in names]
    if len(names) <= MOST_NAMED:
        lines = [
            [method_name(row), shown[right], *_counts(scores, right)]
            for row, scores in scored
            for right in range(len(names))
        ]
        return [TextTable(["method", "right class", *(f"answered {name}" for name in shown)], lines, numbers_from=2)]
    blocks: list[Block] = []
    for row, scores in scored:
        header = ["right class", *(str(number) for number in range(1, len(names) + 1))]
        matrix = [[f"{right + 1}: {shown[right]}", *_counts(scores, right)] for right in range(len(names))]
        blocks += [f"Answers of {method_name(row)}, by the number of the class:", TextTable(header, matrix)]
    return blocks


def _counts(scores: ClassScores, right: int) -> list[str]:
    """Return a line of a confusion matrix, with what is right in bold."""
    cells = [_mean_count(float(value)) for value in scores.confusion[right]]
    cells[right] = f"**{cells[right]}**"
    return cells


def _worst_pairs(scored: Sequence[_Scored], names: Sequence[str]) -> list[Block]:
    """Return the pairs of classes that are confused most often by any method."""
    most = np.max([scores.confusion for _, scores in scored], axis=0)
    np.fill_diagonal(most, 0)
    worst = [divmod(int(place), len(names)) for place in np.argsort(-most, axis=None, kind="stable")[:MOST_PAIRS]]
    lines = [
        [inert(names[right], 60), inert(names[said], 60)]
        + [_mean_count(float(scores.confusion[right, said])) for _, scores in scored]
        for right, said in worst
        if most[right, said] > 0
    ]
    if not lines:
        return ["No item was answered wrong."]
    header = ["right class", "answered", *(method_name(row) for row, _ in scored)]
    return ["The worst confusions, as the mean number of items:", *wide_table(header, lines, names=2)]


def _agreement(rows: Sequence[tuple[Row, GivenAnswers]], reference: str, folder: str) -> list[Block]:
    """Return how often each method and the reference are right on the same items, and where to find the others."""
    blocks: list[Block] = []
    right = [given.right_share > 0.5 for _, given in rows]
    place = next((place for place, (row, _) in enumerate(rows) if row.label == reference), None)
    if place is not None and len(rows) > 1:
        header = ["method", "both right", "method alone", f"{code(reference)} alone", "neither"]
        cells = [
            [method_name(row)]
            + [
                text.count(int(both.sum()))
                for both in (own & right[place], own & ~right[place], ~own & right[place], ~own & ~right[place])
            ]
            for (row, _), own in zip(rows, right, strict=True)
            if row is not rows[place][0]
        ]
        blocks += ["Test items that are answered right in most runs:", TextTable(header, cells)]
    differing = len(differing_items(rows))
    if differing:
        of_all = text.plural(len(rows[0][1].references), "test item")
        verb = "has" if differing == 1 else "have"
        page = quote(f"{folder}/{ITEMS_PAGE}")
        blocks.append(
            f"{text.count(differing)} of {of_all} {verb} one method right in most runs and another wrong: "
            f"[the items]({page})."
        )
    return blocks


def _over_runs(found: Summary | None, *, unbounded: bool = False) -> str:
    """Return a mean with its interval, which ends where shares and Brier scores of two classes do, at 0 and 1."""
    if found is None:
        return MISSING
    if found.interval is None or found.n < FEWEST_FOR_INTERVAL:
        return text.score(found.mean)
    low, high = (
        (found.interval.low, found.interval.high)
        if unbounded
        else (max(0.0, found.interval.low), min(1.0, found.interval.high))
    )
    return f"{text.score(found.mean)} ({text.score(low)} to {text.score(high)})"


def _mean_count(value: float) -> str:
    return text.count(int(value)) if value.is_integer() else f"{value:,.1f}"
