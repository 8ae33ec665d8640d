"""The folded part of a base model's scores: each class, confusions, calibration, and errors of numbers.

Test items that one method answers right in most runs and another wrong have a page of their own, since it may show texts: a
report can be passed on without them.
"""

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from lora_bench.report.blocks import MOST_COLUMNS, Block, Fold, Heading, TextTable, known_columns, wide_table
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.given_answers import (
    ClassScores,
    GivenAnswers,
    class_scores,
    differing_items,
    error_scores,
    rows_with_answers,
)
from lora_bench.report.model.report import Report, TextsOf
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.method_tables import method_name, model_name, setting_name
from lora_bench.report.text import MISSING, count, inert, listed, plural, score
from lora_bench.stats import Summary
from lora_bench.stats.verdict import FEWEST_FOR_INTERVAL

# Of more classes those with the lowest scores are shown.
MOST_SHOWN = 20

# More classes have no matrix: the worst confusions say more.
MOST_NAMED, MOST_PAIRS = MOST_COLUMNS - 2, 10

ITEMS_PAGE = "items.md"

_Scored = tuple[Row, ClassScores]

_MEANS = "Means over the runs with a score, with 95 % intervals over seeds from 3 on: "
_POOLED = "Pooled over folds: of the answers of all runs together, each to the rows of its fold: "
_LEGEND = "[how to read them](/docs/statistics.md#classes-and-calibration)."
MOST_ITEMS, FEWEST_ITEMS = 50, 5
MOST_CHARACTERS = 300
ABOUT = (
    "Each of these items is answered right by one method in most runs and wrong by another, the clearest first. "
    "A cell has the number of runs that are right, and the commonest wrong answer where there are several."
)


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
        return [Fold("Labels", [legend, *_classes(scored, names, "label")])]
    if rows[0][1].tags:
        return [Fold("Entities", [legend, *_classes(scored, names, "type")])]
    if rows[0][1].lengths:
        return [Fold("Labels of words", [legend, *_classes(scored, names, "label"), *_confusions(scored, names)])]
    blocks = [legend, *_summary(scored), *_classes(scored, names), *_confusions(scored, names)]
    blocks += _differing(rows, report.name)
    return [Fold("Classes, confusions and calibration", blocks)]


def _errors(rows: Sequence[tuple[Row, GivenAnswers]]) -> TextTable:
    lines = [
        [method_name(row), str(len(row.scores)), *(_over_runs(one, unbounded=True) for one in error_scores(given))]
        for row, given in rows
    ]
    return TextTable(["method", "runs", "MAE", "RMSE"], lines)


def _summary(scored: Sequence[_Scored]) -> list[Block]:
    calibrated = any(scores.calibration_error is not None for _, scores in scored)
    header = ["method", "runs", "macro F1", "calibration error", "Brier score"]
    lines = [
        [method_name(row), str(len(row.scores)), *map(_over_runs, (of.macro_f1, of.calibration_error, of.brier_score))]
        for row, of in scored
    ]
    none = [] if calibrated else ["Calibration is not shown: these runs kept no probabilities."]
    return [TextTable(*known_columns(header, lines, () if calibrated else header[3:])), *none]


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
            inert(names[place], 60), method_name(row), count(items[place]), score(scores.precision[place].mean),
            score(scores.recall[place].mean), _over_runs(scores.f1[place]),
        ]
        for place in shown
        for row, scores in scored
    ]  # fmt: skip
    header = [what, "method", "items", "precision", "recall", "F1"]
    several = "classes" if what == "class" else f"{what}s"
    some = f"{len(shown)} of {len(present)} {several}: those with the lowest F1 of any method."
    return [*([some] if len(shown) < len(present) else []), TextTable(header, lines, 2)]


def _confusions(scored: Sequence[_Scored], names: Sequence[str]) -> list[Block]:
    if len(names) > MOST_NAMED:
        return _worst_pairs(scored, names)
    shown = [inert(name, 60) for name in names]
    lines = []
    for row, scores in scored:
        for right, counts in enumerate(scores.confusion):
            cells = [_mean_count(float(value)) for value in counts]
            cells[right] = f"**{cells[right]}**"
            lines.append([method_name(row), shown[right], *cells])
    header = ["method", "right class", *(f"answered {name}" for name in shown)]
    return [TextTable(header, lines, numbers_from=2, bold_is_shown=False)]


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


def _differing(rows: Sequence[tuple[Row, GivenAnswers]], folder: str) -> list[Block]:
    """Say how many items some methods answer differently, and where to find them."""
    differing = len(differing_items(rows))
    if not differing:
        return []
    of_all = plural(len(rows[0][1].references), "test item")
    verb = "has" if differing == 1 else "have"
    page = quote(f"{folder}/{ITEMS_PAGE}")
    said = f"{count(differing)} of {of_all} {verb} one method right in most runs and another wrong"
    return [f"{said}: [the items]({page})."]


def _over_runs(found: Summary | None, *, unbounded: bool = False) -> str:
    """Return a mean with its interval, which ends where shares and Brier scores of two classes do, at 0 and 1."""
    if found is None:
        return MISSING
    if found.interval is None or found.n < FEWEST_FOR_INTERVAL:
        return score(found.mean)
    low, high = found.interval.low, found.interval.high
    if not unbounded:
        low, high = max(0.0, low), min(1.0, high)
    return f"{score(found.mean)} ({score(low)} to {score(high)})"


def _mean_count(value: float) -> str:
    return count(int(value)) if value.is_integer() else f"{value:,.1f}"


def items_page(report: Report) -> list[Block]:
    """Return the page; empty if no methods differ on an item."""
    if not report.records:
        return []
    found = [
        (setting, table, rows, items)
        for setting in report.comparison.results
        for table in setting.tables
        for rows in [rows_with_answers(table, report.given_answers)]
        for items in [differing_items(rows)]
        if items
    ]
    if not found:
        return []
    most = max(FEWEST_ITEMS, MOST_ITEMS // len(found))
    suites = listed([inert(suite) for suite in report.comparison.suites])
    blocks: list[Block] = [Heading(1, f"{suites}: test items"), ABOUT]
    for setting, table, rows, items in found:
        blocks.append(Heading(2, f"{setting_name(setting, report.comparison)}, {model_name(table)}"))
        blocks += _table(setting, rows, items, most, report.texts)
    return blocks


def _table(
    setting: Setting, rows: Sequence[tuple[Row, GivenAnswers]], items: Sequence[int], most: int, texts: TextsOf
) -> list[Block]:
    first = rows[0][1]
    references = [int(value) for value in first.references]
    shown = texts(setting.spec.task, references, first.seeds)
    header = ["item", "right class", *(method_name(row) for row, _ in rows), *(["text"] if shown is not None else [])]
    lines = []
    for place in items[:most]:
        line = [str(place + 1), inert(first.classes[references[place]], 60)]
        line += [_cell(given, place) for _, given in rows]
        if shown is not None:
            name, *said = shown[place]
            line[0] = inert(name, 60)
            line.append(inert(" / ".join(said), MOST_CHARACTERS))
        lines.append(line)
    of_all = f"{count(min(most, len(items)))} of {plural(len(items), 'such item')}"
    facts = [str((setting.spec.task.definition or {}).get(name) or "") for name in ("licence", "citation")]
    credit = " ".join(inert(fact) for fact in facts if fact)
    by = f"by their id; texts: {credit.rstrip('.')}" if credit else "by their id"
    by = by if shown is not None else "by their place in the test split; texts are not shown"
    return [f"{of_all}, {by}.", *wide_table(header, lines, 2)]


def _cell(given: GivenAnswers, place: int) -> str:
    said = given.answers[:, place]
    wrong = Counter(int(answer) for answer in said if answer != given.references[place])
    right = f"{int(np.sum(said == given.references[place]))} of {len(said)}"
    if not wrong or len(given.classes) == 2:  # of two classes it is the other one
        return right
    answer = min(wrong, key=lambda one: (-wrong[one], one))
    return f"{right}, {inert(given.classes[answer], 40)}"
