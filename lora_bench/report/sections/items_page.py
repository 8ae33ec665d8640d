"""The page of test items that one method answers right in most runs and another wrong.

It is a page of its own, since it may show texts: a report can be passed on without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lora_bench.records.spec import TaskSpec
from lora_bench.report import text
from lora_bench.report.blocks import Block, Heading, wide_table
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.given_answers import GivenAnswers, differing_items, rows_with_answers
from lora_bench.report.model.report import Report, TextsOf
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.method_tables import method_name, model_name, setting_name
from lora_bench.report.text import inert, listed

MOST_ITEMS, FEWEST_ITEMS = 50, 5
MOST_CHARACTERS = 300


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
        blocks += _table(setting, table, rows, items, most, report.texts)
    return blocks


ABOUT = (
    "Each of these items is answered right by one method in most runs and wrong by another, the clearest first. "
    "A cell has the number of runs that are right, and the commonest wrong answer where there are several."
)


def _table(
    setting: Setting,
    table: ModelTable,
    rows: Sequence[tuple[Row, GivenAnswers]],
    items: Sequence[int],
    most: int,
    texts: TextsOf,
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
    of_all = f"{text.count(min(most, len(items)))} of {text.plural(len(items), 'such item')}"
    return [
        f"{of_all}, {_said_of_texts(setting.spec.task, shown is not None)}.",
        *wide_table(header, lines, 2),
    ]


def _said_of_texts(task: TaskSpec, shown: bool) -> str:
    if not shown:
        return "by their place in the test split; texts are not shown"
    facts = [str((task.definition or {}).get(name) or "") for name in ("licence", "citation")]
    credit = " ".join(inert(fact) for fact in facts if fact)
    return f"by their id; texts: {credit.rstrip('.')}" if credit else "by their id"


def _cell(given: GivenAnswers, place: int) -> str:
    said = given.answers[:, place]
    wrong = Counter(int(answer) for answer in said if answer != given.references[place])
    right = f"{int(np.sum(said == given.references[place]))} of {len(said)}"
    if not wrong or len(given.classes) == 2:  # of two classes it is the other one
        return right
    answer = min(wrong, key=lambda one: (-wrong[one], one))
    return f"{right}, {inert(given.classes[answer], 40)}"
