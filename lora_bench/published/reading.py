"""Strict reading of a published table: the paper's digits and our numbers (87.5 and 0.875) must agree, line by line."""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from lora_bench.documents import read_yaml, validate
from lora_bench.errors import BadInput, Fault, did_you_mean, unknown
from lora_bench.published.table import PublishedCell, PublishedTable, TableFile, Unlike
from lora_bench.report.model.rows import grouped
from lora_bench.util.paths import folders
from lora_bench.util.regular_files import MIB, read_regular

COLUMNS = (
    "row", "method", "model", "task", "score", "printed_metric", "value", "spread", "printed", "printed_spread", "percent",
    "statistic", "seeds", "source", "table", "printed_parameters", "adapter_parameters", "copied", "unpublished", "unlike",
    "no_run", "derived", "notes",
)  # fmt: skip

TEXTS = ("row", "model", "task", "score", "printed", "source", "table")
OPTIONAL_TEXTS = ("method", "printed_metric", "printed_spread", "copied", "no_run")
COUNTS = ("seeds", "printed_parameters", "adapter_parameters")

_UNLIKE = re.compile(r"([\w.]+): (.+) > (.+)")


def known_tables() -> dict[str, Path]:
    """Every published table by name, with its folder."""
    files = (file for folder in reversed(folders("baselines")) for file in sorted(folder.glob("*/published.csv")))
    return {file.parent.name: file.parent for file in files}


def load_table(name: str) -> PublishedTable:
    """Read a table by name. Raise LoraBenchError if nothing answers to it, and BadInput with every fault of its files."""
    tables = known_tables()
    if name not in tables:
        raise unknown("published table", name, tables)
    return read_table(tables[name])


def read_table(folder: Path) -> PublishedTable:
    """Read the table in a folder. Raise BadInput with every fault of its files."""
    document = read_yaml(folder / "published.yaml")
    about = validate(TableFile, document)
    if about.table != folder.name:
        message = f"must be {folder.name!r}, its folder's name, got {about.table!r}"
        raise BadInput([document.fault(("table",), message)])
    file = folder / "published.csv"
    try:
        text = read_regular(file, 16 * MIB).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput([Fault(f"cannot be read: {error}", file=str(file))]) from None
    facts = about.model_dump(exclude={"table"})
    return PublishedTable(name=about.table, folder=folder, cells=read_cells(text, str(file)), **facts)


def read_cells(text: str, file: str) -> tuple[PublishedCell, ...]:
    """Read the cells of a CSV file with `COLUMNS`. Raise BadInput with every fault, each with its line and column."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if faults := _header_faults(header, file):
            raise BadInput(faults)
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise BadInput([Fault(f"is no CSV: {error}", file=file, line=reader.line_num)]) from None
    faults, cells, seen = [], [], dict[tuple[str, ...], int]()
    for line, row in lines:
        if len(row) != len(COLUMNS):
            faults.append(Fault(f"has {len(row)} columns, not {len(COLUMNS)}", file=file, line=line))
            continue
        reading = _Reading(dict(zip(header, row, strict=True)), file, line)
        cell = reading.cell()
        faults += reading.faults
        if cell.key in seen:
            faults.append(Fault(f"is the cell of line {seen[cell.key]} again: {' · '.join(cell.key)}", file, line))
        seen.setdefault(cell.key, line)
        cells.append(cell)
    faults += _derived_faults(cells, file)
    if faults:
        raise BadInput(sorted(faults, key=lambda fault: fault.line or 0))
    return tuple(cells)


def _header_faults(header: list[str], file: str) -> list[Fault]:
    unread = [name for name in header if name not in COLUMNS]
    faults = [Fault(f"unknown column {name!r}{did_you_mean(name, COLUMNS)}", file, 1) for name in unread]
    faults += [Fault(f"the column {name!r} is missing", file, 1) for name in COLUMNS if name not in header]
    return faults + [
        Fault(f"the column {name!r} stands {header.count(name)} times", file, 1)
        for name in COLUMNS
        if header.count(name) > 1
    ]


def _derived_faults(cells: Iterable[PublishedCell], file: str) -> list[Fault]:
    known = {cell.key for cell in cells}
    return [
        Fault(f"is a mean over {task}: {score}, which this row does not have", file, cell.line, "derived")
        for cell in cells
        for task, scores in cell.derived
        for score in scores
        if (cell.row, cell.model, task, score) not in known
    ]


class Disagreement(NamedTuple):
    """A number of a table, and the different one that another table, here by its name, prints."""

    cell: PublishedCell
    table: str
    other: PublishedCell


def disagreements(table: PublishedTable, others: Iterable[PublishedTable] | None = None) -> list[Disagreement]:
    """Return the numbers of *table* that *others* print differently, in its order; by default all tables that can be read."""
    elsewhere = [other for other in (_readable() if others is None else others) if other.name != table.name]
    found = grouped(((other.name, cell) for other in elsewhere for cell in other.cells), lambda pair: pair[1].key)
    return [
        Disagreement(cell, name, other)
        for cell in table.cells
        for name, other in found.get(cell.key, ())
        if other.value != cell.value
    ]


def _readable() -> Iterator[PublishedTable]:
    for _, folder in sorted(known_tables().items()):
        try:
            yield read_table(folder)
        except BadInput:  # the list of tables names its faults
            continue


class _Reading:
    """One line of the file on its way to a cell; collects the faults of all its columns."""

    def __init__(self, row: Mapping[str, str], file: str, line: int) -> None:
        self.row, self.file, self.line = row, file, line
        self.faults: list[Fault] = []

    def cell(self) -> PublishedCell:
        percent = self._one_of("percent", ("yes", "no")) == "yes"
        value = self._same_number("value", "printed", percent)
        spread = self._same_number("spread", "printed_spread", percent)
        derived = self._derived()
        facts: dict[str, Any] = {column: self._text(column) for column in TEXTS}
        facts |= {column: self.row[column] or None for column in OPTIONAL_TEXTS}
        facts |= {column: self._count(column) for column in COUNTS}
        cell = PublishedCell(
            **facts,
            line=self.line,
            value=math.nan if value is None else value,
            spread=spread,
            step=self._step(percent),
            statistic=self._one_of("statistic", ("mean", "median")) if self.row["statistic"] else None,  # type: ignore[arg-type]
            unpublished=_listed(self.row["unpublished"]),
            unlike=self._unlike(),
            percent=percent,
            derived=derived,
            notes=_listed(self.row["notes"], " | "),
        )
        if sum((cell.method is not None, cell.no_run is not None and not derived, bool(derived))) != 1:
            self._fault(
                "method", "give one of method, no_run and derived: what repeats it, why nothing does, or its parts"
            )
        return cell

    def _fault(self, column: str, message: str) -> None:
        self.faults.append(Fault(message, self.file, self.line, column))

    def _text(self, column: str) -> str:
        if not self.row[column].strip():
            self._fault(column, "is empty")
        return self.row[column]

    def _one_of(self, column: str, choices: tuple[str, ...]) -> str:
        cell = self.row[column]
        if cell not in choices:
            self._fault(column, f"must be {' or '.join(map(repr, choices))}, got {cell!r}")
        return cell

    def _count(self, column: str) -> int | None:
        cell = self.row[column]
        if not cell:
            return None
        if not (cell.isascii() and cell.isdecimal()) or int(cell) < 1:
            self._fault(column, f"must be a whole number above 0, got {cell!r}")
            return None
        return int(cell)

    def _number(self, column: str) -> Decimal | None:
        cell = self.row[column]
        if not cell:
            return None
        try:
            number = Decimal(cell)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite():
            self._fault(column, f"must be a number, got {cell!r}")
            return None
        return number

    def _same_number(self, column: str, printed: str, percent: bool) -> float | None:
        """The number of a column, which must be the printed one in our unit."""
        ours, theirs = self._number(column), self._number(printed)
        if (ours is None) != (theirs is None):
            self._fault(column, f"is given without {printed}, or {printed} without it")
        elif ours is not None and theirs is not None and ours != (expected := theirs / 100 if percent else theirs):
            self._fault(column, f"is {ours}, but {theirs} is printed, which is {expected}")
        return None if ours is None else float(ours)

    def _step(self, percent: bool) -> float:
        digits = self._number("printed")
        if digits is None:
            return 0.0
        exponent = digits.as_tuple().exponent
        step = Decimal(5).scaleb(int(exponent) - 1)
        return float(step / 100 if percent else step)

    def _unlike(self) -> tuple[Unlike, ...]:
        """Known differences, written ``loss: the sum over a text > the mean over a batch; positions: …``."""
        unlike = []
        for part in _listed(self.row["unlike"]):
            match = _UNLIKE.fullmatch(part)
            if match is None:
                self._fault("unlike", f"must be 'field: theirs > ours' parts with ';' between them, got {part!r}")
            else:
                unlike.append(Unlike(*match.groups()))
        return tuple(unlike)

    def _derived(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Parts of an average, written ``mnli:accuracy,mismatched/accuracy; cola:matthews_correlation``."""
        parts = []
        for part in _listed(self.row["derived"]):
            task, colon, scores = part.partition(":")
            if not colon or not task or not all(scores.split(",")):
                self._fault("derived", f"must be task:score,score parts with ';' between them, got {part!r}")
            parts.append((task, tuple(scores.split(","))))
        return tuple(parts)


def _listed(text: str, separator: str = ";") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())
