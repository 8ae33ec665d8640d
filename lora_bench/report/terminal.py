"""The tables and the answer at the end of a run, for a terminal of 100 columns.

The answer comes last, since a terminal is read from its end. Colour is left out where NO_COLOR is set or the output is no
terminal. Strings of a record are shown as text and never read as rich's markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lora_bench.records.record import Record
from lora_bench.report import text
from lora_bench.report.blocks import Block, Lead, answers
from lora_bench.report.figures.differences import notes_of_words, value_limits, words
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, compare
from lora_bench.report.model.overview import Contrast, Line, Overview
from lora_bench.report.model.report import Report
from lora_bench.report.model.rows import Row, canonical
from lora_bench.report.sections import summary
from lora_bench.report.sections.chosen_rates import rate_rows, rates_note
from lora_bench.report.sections.first_screen import picture_contrasts
from lora_bench.report.sections.headline import headline_blocks, headline_of
from lora_bench.report.sections.method_tables import EXEMPT, SHARED
from lora_bench.report.text import plain, unmarked


def terminal_table(records: Sequence[Record]) -> Group:
    """Return a table for each task and setting, with a section a base model; failures are rows with their reason.

    Raises:
        LoraBenchError: If two different records have the same run id.
    """
    comparison = compare(records)
    return Group(*(_table(setting) for setting in comparison.settings))


# A terminal shows about so many lines below the prompt.
ANSWER_LINES = 25
BAR = 33


def terminal_answer(report: Report) -> Group:
    """Return the headline, the differences where they are few, the small table and the next step."""
    headline = headline_of(report)
    before = [Lead(answer) for section in report.sections for answer in answers(section)]
    parts = [*map(_paragraph, [*before, *headline_blocks(headline, alone=True)])]
    following = [*map(_paragraph, summary.next_step(headline.next))]
    shown = summary.shown_lines(report.overview)
    bars = _bars(picture_contrasts(report.overview))
    # A paragraph has two lines at most, a table four beside its rows.
    if 2 * (len(parts) + len(following)) + len(shown) + 4 + len(bars) <= ANSWER_LINES:
        parts += bars
    return Group(
        *parts, *([_summary(report.overview, shown)] if shown else _rates(report.overview.comparison)), *following
    )


def _paragraph(block: Block) -> Text:
    assert isinstance(block, str | Lead), "an answer is made of paragraphs"
    if isinstance(block, Lead):
        return Text(unmarked(block.text), style="bold")
    pieces = block.split("**")
    return Text.assemble(*((unmarked(piece), "bold" if index % 2 else "") for index, piece in enumerate(pieces)))


def _summary(seen: Overview, shown: Sequence[Line]) -> Table:
    table = _answer_table(" ".join(summary.notes(seen)))
    table.add_column("method", no_wrap=True, max_width=34)
    for name in ("score", Text(f"less {plain(seen.reference, 16)}"), "verdict", "file, MiB", "time", "memory"):
        table.add_column(name, justify="right", overflow="fold", max_width=26)
    for line in shown:
        sizes = summary.size_of(line).rsplit(" to ", 1)
        values = " to ".join([sizes[0].rsplit(" ", 1)[-1], *sizes[1:]])
        size = f", {unmarked(values)}" if values else ""
        name = f"{plain(line.label, 22)}{size}{' (reference)' if line.reference else ''}"
        cells = [
            summary.score_of(line),
            summary.difference_of(line),
            summary.verdict_of(line, short=True),
            summary.file_of(line),
        ]
        cells += [summary.ratio(found, line.reference) for found in (line.step, line.memory)]
        table.add_row(Text(name), *(Text(unmarked(cell)) for cell in cells))
    return table


def _answer_table(caption: str) -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, caption=Text(unmarked(caption)), caption_justify="left")


def _rates(comparison: Comparison) -> list[Table]:
    rows = rate_rows(comparison)
    if not rows:
        return []
    table = _answer_table(rates_note(comparison))
    for name in rows[0]:
        table.add_column(Text(unmarked(name)), overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(unmarked(cell)) for cell in row))
    return [table]


def _bars(contrasts: Sequence[Contrast]) -> list[Text]:
    """Return the differences as lines of text: the interval, the mean, and a line at no difference."""
    if not contrasts:
        return []
    low, high = value_limits(contrasts)

    def place(value: float) -> int:
        return min(BAR - 1, max(0, round((contrasts[0].unit * value - low) / (high - low) * (BAR - 1))))

    lines = []
    for contrast in contrasts:
        bar = [" "] * BAR
        interval = contrast.verdict.adjusted
        if interval is not None:
            bar[place(interval.low) : place(interval.high) + 1] = "-" * (place(interval.high) - place(interval.low) + 1)
        bar[place(0.0)] = "|"
        bar[place(contrast.verdict.difference)] = "o"
        name = f"{plain(contrast.label, 20):20} {plain(contrast.table.model.shown, 22):22}"
        lines.append(Text(f"{name} {''.join(bar)} {words(contrast)}"))
    return [*lines, *(Text(note) for note in notes_of_words(contrasts))]


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
    name = Text(f"  {plain(row.label, 60)}{EXEMPT if row.exempt else ''}")
    own = [name] + ([Text(text.learning_rate(row.learning_rate))] if setting.search else [])
    adapter = Text(text.count(row.parameters.adapter if row.parameters is not None else None))
    if row.ok:
        mark = SHARED if row.exclusive is False else ""
        measured = [text.mebibytes(row.train_peak_bytes), text.milliseconds(row.step_seconds)]
        table.add_row(*own, adapter, Text(_score(row, setting)), *(Text(value + mark) for value in measured))
    # The reasons of several seeds are mostly one.
    for (status, reason), number in Counter((failure.status, failure.reason) for failure in row.failures).items():
        ended = Text(f"{status.replace('_', ' ')} ({number} of {len(row.run_ids)})", style="red")
        table.add_row(*own, adapter, Text.assemble(ended, f": {plain(reason, 200)}"))


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
    if any(row.exempt for row in rows):
        notes.append(f"{EXEMPT} exempt from the parameter target")
    if any(row.exclusive is False for row in rows):
        notes.append(f"{SHARED} other work ran beside")
    return "\n".join(notes)
