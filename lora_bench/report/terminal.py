"""The table at the end of a run, for a terminal of 100 columns.

It is rich's, which leaves colour out where NO_COLOR is set or the output is no terminal. Whatever a record says is
shown as text and never read as rich's markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.model.comparison import ModelTable, Setting, compare
from lora_bench.report.model.rows import Row, canonical
from lora_bench.report.sections.tables import REFERENCE, SHARED
from lora_bench.report.text import plain


def terminal_table(records: Sequence[Record]) -> Group:
    """A table for each task and setting, with a section a base model; failures are rows with their reason.

    Raises:
        LoraBenchError: If two different records have the same run id.
    """
    comparison = compare(records)
    return Group(*(_table(setting) for setting in comparison.settings))


def _table(setting: Setting) -> Table:
    rows = setting.rows
    table = Table(
        title=Text(_title(setting)),
        title_justify="left",
        caption=Text(_caption(rows)),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("method", overflow="fold", max_width=32)
    if setting.search:
        table.add_column("learning rate", justify="right", no_wrap=True)
    table.add_column("adapter\nparameters", justify="right", no_wrap=True)
    what = "median; mean ± sd (n)" if setting.by_median else "mean ± sd (n)"
    table.add_column(Text(f"{plain(setting.spec.task.metric or 'score', 24)}\n{what}"), overflow="fold", max_width=36)
    table.add_column("peak\nMiB", justify="right", no_wrap=True)
    table.add_column("step\nms", justify="right", no_wrap=True)
    for of_model in setting.tables:
        table.add_row(Text(_model_name(of_model), style="bold"))
        for row in of_model.rows:
            _add(table, row, setting)
        table.add_section()
    return table


def _add(table: Table, row: Row, setting: Setting) -> None:
    name = Text(f"  {plain(row.label, 60)}{REFERENCE if row.reference else ''}")
    own = [name] + ([Text(text.learning_rate(row.learning_rate))] if setting.search else [])
    adapter = Text(text.count(row.parameters.adapter if row.parameters is not None else None))
    if row.ok:
        mark = SHARED if row.exclusive is False else ""
        measured = [text.mebibytes(row.train_peak_bytes), text.milliseconds(row.step_seconds)]
        table.add_row(*own, adapter, Text(_score(row, setting)), *(Text(value + mark) for value in measured))
    # The reasons of several seeds are mostly one.
    for (status, reason), number in _reasons(row).items():
        ended = Text(f"{status.replace('_', ' ')} ({number} of {len(row.run_ids)})", style="red")
        table.add_row(*own, adapter, Text.assemble(ended, f": {plain(reason, 200)}"))


def _reasons(row: Row) -> dict[tuple[str, str], int]:
    numbers: dict[tuple[str, str], int] = {}
    for failure in row.failures:
        key = (failure.status, failure.reason)
        numbers[key] = numbers.get(key, 0) + 1
    return numbers


def _score(row: Row, setting: Setting) -> str:
    if row.score is None:
        return text.MISSING
    sd = f" ± {text.score(row.score.sd)}" if row.score.sd is not None else ""
    median = f"{text.score(row.score.median)}; " if setting.by_median else ""
    return f"{median}{text.score(row.score.mean)}{sd} ({row.score.n})"


def _title(setting: Setting) -> str:
    differs = ", ".join(f"{name}: {canonical(value)}" for name, value in setting.differs.items())
    shown = f"{plain(setting.spec.task.name, 60)}, {setting.spec.score_on or 'unnamed'} split"
    return shown + (f"; here {plain(differs, 200)}" if differs else "")


def _model_name(table: ModelTable) -> str:
    return plain(table.model.shown, 60) + (f" ({table.weights})" if table.ambiguous else "")


def _caption(rows: Sequence[Row]) -> str:
    notes = []
    if any(row.reference for row in rows):
        notes.append(f"{REFERENCE} reference line, exempt from the parameter budget")
    if any(row.exclusive is False for row in rows):
        notes.append(f"{SHARED} measured while other work ran beside it")
    return "\n".join(notes)
