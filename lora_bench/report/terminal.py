"""The answer at the end of a run, for a terminal of 100 columns.

The answer comes last, since a terminal is read from its end. Colour is left out where NO_COLOR is set or the output is no
terminal. Strings of a record are shown as text and never read as rich's markup.
"""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from lora_bench.report.blocks import Block, Lead, TextTable, answers
from lora_bench.report.model.overview import Line, Overview
from lora_bench.report.model.report import Report
from lora_bench.report.sections import first_screen
from lora_bench.report.sections.chosen_rates import rates_table
from lora_bench.report.sections.headline import headline_blocks, headline_of
from lora_bench.report.text import cost, plain, unmarked


def _table(block: TextTable) -> Table:
    table = _answer_table()
    for place, name in enumerate(block.header):
        justify: JustifyMethod = "right" if place >= block.numbers_from else "left"
        table.add_column(Text(unmarked(name)), justify=justify, overflow="fold")
    for row in block.rows:
        table.add_row(*(Text(unmarked(cell)) for cell in row))
    return table


def terminal_answer(report: Report) -> Group:
    """Return the headline, the small table and the next step."""
    headline = headline_of(report)
    before = [Lead(answer) for section in report.sections for answer in answers(section)]
    parts = [*map(_paragraph, [*before, *headline_blocks(headline, alone=True)])]
    following = [*map(_paragraph, first_screen.next_step(headline.next))]
    shown = first_screen.shown_lines(report.overview)
    rates = [
        _table(block) if isinstance(block, TextTable) else _paragraph(block)
        for block in ([] if shown else rates_table(report.overview.comparison))
    ]
    return Group(*parts, *([_summary(report.overview, shown)] if shown else rates), *following)


def _paragraph(block: Block) -> Text:
    assert isinstance(block, str | Lead), "an answer is made of paragraphs"
    if isinstance(block, Lead):
        return Text(unmarked(block.text), style="bold")
    pieces = block.split("**")
    return Text.assemble(*((unmarked(piece), "bold" if index % 2 else "") for index, piece in enumerate(pieces)))


def _summary(seen: Overview, shown: Sequence[Line]) -> Table:
    table = _answer_table(" ".join(first_screen.notes(seen, short=True)))
    table.add_column("method", overflow="fold", max_width=34)
    alone = seen.comparison.scores_alone
    costs = ("place",) if alone else ("file, MiB", "time", "memory")
    given = [Text(seen.cost_name)] if any(line.cost is not None for line in shown) else []
    for name in ("score", *given, Text(f"less {plain(seen.reference, 16)}"), "verdict", *costs):
        table.add_column(name, justify="right", overflow="fold", max_width=26)
    for line in shown:
        sizes = first_screen.size_of(line).rsplit(" to ", 1)
        values = " to ".join([sizes[0].rsplit(" ", 1)[-1], *sizes[1:]])
        size = f", {unmarked(values)}" if values else ""
        name = f"{plain(line.label, 100)}{size}{' (reference)' if line.reference else ''}"
        cells = [
            first_screen.score_of(line, shown),
            *([cost(line.cost)] if given else []),
            first_screen.difference_of(line),
            first_screen.verdict_of(line, short=True),
        ]
        if alone:
            cells.append(first_screen.place_of(line, seen))
        else:
            ratios = [first_screen.ratio(found, line.reference) for found in (line.step, line.memory)]
            cells += [first_screen.file_of(line), *ratios]
        table.add_row(Text(name), *(Text(unmarked(cell)) for cell in cells))
    return table


def _answer_table(caption: str = "") -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, caption=Text(unmarked(caption)), caption_justify="left")
