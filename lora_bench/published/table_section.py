"""The section of a report that compares records with a published table: a line a printed number, with its verdict.

All numbers are in the paper's unit (87.5, where a record has 0.875). Cells with runs come first. Notes on a number, its
differences and reasons for missing runs stand once below, for all the cells that share them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from lora_bench.published import CellVerdict, Disagreement, PublishedCell, PublishedTable
from lora_bench.published.cell_verdict import VerdictName
from lora_bench.published.printed_orders import FirstPlace, printed_orders
from lora_bench.report.blocks import Block, Heading, SectionAnswer, TextList, TextTable
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import MISSING, code, inert, json_value, listed, plural

VERDICTS: tuple[VerdictName, ...] = ("reproduced", "in line", "not reproduced", "not comparable", "not run")

_HEADER = (
    "row", "task", "score", "published", "measured", "95 % interval", "n", "difference", "verdict", "notes",
)  # fmt: skip

# Cells with runs that a section names in its first paragraph.
FEW = 3

_LEGEND = TextList(
    [
        "Numbers are in the paper's unit. *published*: the printed number ± its printed spread, and what it is of: a median or "
        "mean, and of how many seeds.",
        "*measured*: the same statistic of our n runs, with its 95 % interval over seeds.",
        "*reproduced*: our number equals the published one within a tolerance of one point (1 % for NIST and CIDEr), shown by "
        "a test. *Not reproduced*: a difference is shown, with the direction of our value. *In line*: neither is shown. A "
        "wrong word of a kind stands in at most 1 of 20 such tables.",
        "*not comparable*: the runs are not of what the number is of; the fields that differ are below. A recipe that the "
        "source leaves open is filled by the suite: a choice that misses the number says nothing about it.",
    ]
)


class _Notes:
    """Numbered notes: a sentence that holds for several cells is said once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, cell: PublishedCell) -> str:
        """The numbers of a cell's notes."""
        said = [f"copied from {cell.copied}"] if cell.copied else []
        said += cell.notes
        if cell.unpublished:
            said.append(f"the source does not say: {', '.join(cell.unpublished)}".replace("_", " "))
        numbers = [self._numbers.setdefault(note, len(self._numbers) + 1) for note in said]
        return ", ".join(map(str, numbers)) or MISSING

    def blocks(self) -> list[Block]:
        """Return the notes in the order of their numbers."""
        if not self._numbers:
            return []
        return [Heading(3, "Notes"), TextList([*map(_sentence, self._numbers)], numbered=True)]


def published_section(
    table: PublishedTable,
    verdicts: Sequence[CellVerdict],
    *,
    elsewhere: Sequence[Disagreement] = (),
) -> list[Block]:
    """Return the section of *verdicts*, one a cell; *elsewhere* are numbers that other tables print differently."""
    shown = sorted(verdicts, key=lambda verdict: verdict.measured is None)
    notes = _Notes()
    blocks: list[Block] = [
        Heading(2, f"Published: {inert(table.title)}", listed=False),
        SectionAnswer(" ".join([*_few(verdicts), f"Compared with the printed numbers: {summary(verdicts)}"])),
        f"{inert(table.source, 600)}.",
    ]
    blocks += [TextList([inert(note, 600) for note in table.notes])] if table.notes else []
    blocks += ["How to read the columns:", _LEGEND] if shown else []
    for model in dict.fromkeys(verdict.cell.model for verdict in shown):
        rows = [_line(verdict, notes) for verdict in shown if verdict.cell.model == model]
        blocks += [Heading(3, code(model)), TextTable(_HEADER, rows, numbers_from=len(_HEADER))]
    orders: list[Block] = [Heading(3, "Orders that the printed spreads support"), *orders_blocks(table)]
    return [*blocks, *_differing(shown), *_reasons(shown), *orders, *_elsewhere(elsewhere), *notes.blocks()]


def _few(verdicts: Sequence[CellVerdict]) -> list[str]:
    """Return a sentence for each cell with runs, in the paper's unit; none where these are many."""
    measured = [(verdict, verdict.measured) for verdict in verdicts if verdict.measured is not None]
    return [
        f"{inert(one.cell.row)} on {code(one.cell.model)}, {code(one.cell.task)}, {code(one.cell.score)}: "
        f"{published_value(one.cell)} printed, {in_its_unit(one.cell, ours.value)} in {plural(ours.n, 'run')} of ours: "
        f"{inert(verdict_text(one))}."
        for one, ours in measured
        if len(measured) <= FEW
    ]


def summary(verdicts: Iterable[CellVerdict]) -> str:
    """Count the cells with each verdict, and those that could have been refuted."""
    verdicts = list(verdicts)
    counts = Counter(verdict.verdict for verdict in verdicts)
    refutable = Counter(verdict.verdict for verdict in verdicts if verdict.refutable)
    said = f"{plural(counts.total(), 'cell')}: {', '.join(f'{counts[name]} {name}' for name in VERDICTS)}."
    if not refutable:
        return f"{said} None could have been refuted."
    judged = ", ".join(f"{refutable[name]} {name}" for name in VERDICTS[:3])
    return f"{said} Of {plural(refutable.total(), 'cell')} that could have been refuted: {judged}."


def published_value(cell: PublishedCell) -> str:
    """Return a published number with its spread, as printed."""
    value = cell.printed if cell.printed_spread is None else f"{cell.printed} ± {cell.printed_spread}"
    return value.replace("-", "−")


def in_its_unit(cell: PublishedCell, value: float | None, *, signed: bool = False) -> str:
    """Return a value of ours in the paper's unit, with a digit more than is printed."""
    if value is None:
        return MISSING
    decimals = max(0, round(-math.log10(2 * cell.step / cell.unit))) + 1 if cell.step > 0 else 4
    return f"{value / cell.unit:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def published_statistic(cell: PublishedCell) -> str:
    """The statistic of a published number, such as "median of 5", as far as it is known."""
    if cell.derived:
        return "mean over tasks"
    if cell.seeds is None:
        return cell.statistic or ""
    return f"{cell.statistic} of {cell.seeds}" if cell.statistic else plural(cell.seeds, "seed")


def verdict_text(verdict: CellVerdict) -> str:
    """A verdict with its direction, or the names of the fields that differ; to be made inert where it is shown."""
    if verdict.direction is not None:
        return f"{verdict.verdict} ({verdict.direction})"
    if verdict.differs:
        names = list(dict.fromkeys(one.field for one in verdict.differs))
        more = f" and {len(names) - 3} more" if len(names) > 4 else ""
        return f"{verdict.verdict}: {', '.join(names[:3] if more else names)}{more}"
    return verdict.verdict


def _line(verdict: CellVerdict, notes: _Notes) -> list[str]:
    cell, measured = verdict.cell, verdict.measured
    of = published_statistic(cell)
    published = published_value(cell) + (f" ({of})" if of else "")
    own = [inert(cell.row), code(cell.task), code(cell.score), published]
    if measured is None:
        return [*own, MISSING, MISSING, MISSING, MISSING, inert(verdict_text(verdict)), notes.of(cell)]
    interval = MISSING
    if measured.own_width is not None:
        low, high = measured.value - measured.own_width, measured.value + measured.own_width
        interval = f"{in_its_unit(cell, low)} to {in_its_unit(cell, high)}"
    runs = str(measured.n) + (f" (and {measured.diverged} diverged)" if measured.diverged else "")
    return [
        *own, in_its_unit(cell, measured.value), interval, runs, in_its_unit(cell, verdict.difference, signed=True),
        inert(verdict_text(verdict)), notes.of(cell),
    ]  # fmt: skip


def _sentence(note: str) -> str:
    note = inert(note, 600)
    return note[:1].upper() + note[1:] + "."


def _differing(verdicts: Sequence[CellVerdict]) -> list[Block]:
    pairs = [(one, verdict.cell) for verdict in verdicts for one in verdict.differs]
    rows = []
    for found in grouped(pairs, lambda pair: repr(pair[0])).values():  # by their text: values may be lists
        one = found[0][0]
        asked = "not published" if one.asked is None else json_value(one.asked)
        rows.append([code(one.field), asked, json_value(one.run), _where([cell for _, cell in found])])
    header = ["field", "the published number is of", "the runs are of", "cells"]
    return [Heading(3, "What is not comparable"), TextTable(header, rows, numbers_from=len(header))] if rows else []


def _reasons(verdicts: Sequence[CellVerdict]) -> list[Block]:
    found = grouped([(verdict.reason, verdict.cell) for verdict in verdicts if verdict.reason], lambda pair: pair[0])
    items = [f"{_sentence(reason)[:-1]}: {_where([cell for _, cell in own])}." for reason, own in found.items()]
    return [Heading(3, "What was not run, and why"), TextList(items)] if items else []


def disagreement_text(found: Disagreement) -> str:
    """Return both numbers of a disagreement, with the cell that they are of; to be made inert where it is shown."""
    cell = found.cell
    where = ", ".join((cell.row, cell.model.rsplit("/", 1)[-1], cell.task, cell.score))
    return f"{where}: {published_value(cell)} here, {published_value(found.other)} in {found.table}"


def orders_blocks(table: PublishedTable) -> list[Block]:
    """Return the card of a table: which of its orders its own printed standard deviations support."""
    found = printed_orders(table)
    without = listed([f"{plural(number, 'number')} {reason}" for reason, number in found.without.items()])
    missing = f" Not judged: {without}." if without else ""
    if not found.judged:
        return [f"None of its {plural(found.printed, 'order')} of two rows can be judged.{missing}"]
    are = "is" if found.supported == 1 else "are"
    said = (
        f"Of {plural(found.printed, 'order')} of two rows, {found.judged:,} can be judged and {found.supported:,} {are} "
        f"supported.{missing}"
    )
    return [said, _TESTED, TextList([*map(_first_place, found.firsts)])]


_TESTED = (
    "Welch's test, as a table does not say which runs shared a seed, with Holm's procedure over all pairs that can be judged, "
    "at 0.05. It takes ± for a standard deviation over runs and scores for normal, and does not see collapses. Rounding counts "
    "against an order. Numbers that were copied from other work may differ for other reasons than the method."
)


def _first_place(one: FirstPlace) -> str:
    cell, rows = one.cell, len(one.ahead) + len(one.level)
    ahead = f"{len(one.ahead)} of" if one.ahead and one.level else "all" if one.ahead else "none of"
    level = f", not of {inert('; '.join(one.level), 600)}" if one.ahead and one.level else ""
    place = f"{code(cell.model)}, {code(cell.task)}, {code(cell.score)}: {inert(cell.row)} ({published_value(cell)})"
    return f"{place} is best, and shown ahead of {ahead} {plural(rows, 'judged row')}{level}."


def _elsewhere(found: Sequence[Disagreement]) -> list[Block]:
    items = [f"{inert(disagreement_text(one))}." for one in found]
    return [Heading(3, "What other tables print"), TextList(items)] if items else []


def _where(cells: Sequence[PublishedCell]) -> str:
    """The rows and tasks of some cells, or their number where these are many."""
    places = dict.fromkeys(f"{cell.row}, {cell.task}" for cell in cells)
    return plural(len(cells), "cell") if len(places) > 4 else inert("; ".join(places))
