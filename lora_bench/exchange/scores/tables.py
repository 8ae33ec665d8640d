"""Read a table into rows with their line numbers: CSV, JSON, Parquet, or data in memory. Nothing in a file runs."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lora_bench.errors import BadInput, Fault, LoraBenchError, first_line, refuse
from lora_bench.util.regular_files import MIB, open_regular, read_regular, read_start

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
SHOWN_FAULTS = 10
# A column is known by its first values. A list of JSON is read at once, lines are not.
HEAD_ROWS, MAX_BYTES = 200, 48 * MIB

Cell = Any
"""A text, number or boolean; None for nothing."""


class GivenTable(NamedTuple):
    """A table: the name of its file, its columns, and what yields its rows, each with its line in the file."""

    file: str
    names: Sequence[str]
    rows: Callable[[], Iterator[tuple[int, Sequence[Cell]]]]

    def head(self) -> dict[str, list[Cell]]:
        """Return the first values of each column."""
        rows = [row for _, row in itertools.islice(self.rows(), HEAD_ROWS)]
        return {name: [row[place] for row in rows] for place, name in enumerate(self.names)}


@dataclass
class Faults:
    """Faults of a table: the first are kept, and the others counted."""

    shown: list[Fault] = field(default_factory=list)
    more: int = 0

    def add(self, found: Fault) -> None:
        """Add a fault."""
        if len(self.shown) < SHOWN_FAULTS:
            self.shown.append(found)
        else:
            self.more += 1

    def refuse(self) -> None:
        """Raise BadInput if there is a fault."""
        refuse([*self.shown, *([Fault(f"and {self.more:,} more")] if self.more else [])])


def fault(message: str, file: str, line: int | None = None) -> BadInput:
    """Return the error of one fault."""
    return BadInput([Fault(message, file, line)])


def read_table(path: Path) -> GivenTable:
    """Open a table. Raise BadInput if it is empty, of an unknown format or does not fit its format."""
    suffix, file = path.suffix.lower(), str(path)
    try:
        if suffix in (".csv", ".tsv"):
            return _separated(path, "\t" if suffix == ".tsv" else None)
        if suffix == ".parquet":
            return _parquet(path)
        if suffix in SUFFIXES:
            return of_objects(lambda: objects_in(path), file)
    except OSError as error:
        raise fault(f"cannot be read: {error.strerror or first_line(error)}", file) from None
    sheet = "; save the sheet as CSV" if suffix in (".xlsx", ".xls", ".ods") else ""
    raise fault(f"has no known suffix ({', '.join(SUFFIXES)}){sheet}", file)


def table_of(frame: Any) -> GivenTable:
    """Return a table that Python has: a data frame, a dict of lists or a list of dicts."""
    if isinstance(frame, list):
        return of_objects(lambda: enumerate(frame, start=1), "the table")
    try:
        columns = {str(name): list(frame[name]) for name in (frame if isinstance(frame, dict) else frame.columns)}
    except (TypeError, AttributeError):
        raise LoraBenchError(f"a {type(frame).__name__} is no file, data frame or list of dicts") from None
    rows = [*zip(*columns.values(), strict=True)]
    return _checked(
        GivenTable("the table", [*columns], lambda: ((line, [*map(_present, row)]) for line, row in enumerate(rows, 1)))
    )


def _present(cell: Cell) -> Cell:
    # A frame has NaN, NaT or NA for a missing value.
    return None if cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell else cell


def _checked(table: GivenTable) -> GivenTable:
    if twice := sorted({name for name in table.names if table.names.count(name) > 1}):
        raise BadInput(Fault(f"has the column {name!r} twice", table.file) for name in twice)
    if not table.names or next(table.rows(), None) is None:
        raise fault("is empty" if not table.names else "has no row below the names of its columns", table.file)
    return table


def _separated(path: Path, mark: str | None) -> GivenTable:
    file = str(path)
    first = read_start(path, MIB).decode("utf-8-sig", errors="replace").lstrip("\r\n").partition("\n")[0]
    delimiter = mark or max(",;\t", key=first.count)
    names = next(csv.reader(io.StringIO(first), delimiter=delimiter), [])

    def rows() -> Iterator[tuple[int, Sequence[Cell]]]:
        uneven = Faults()
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=delimiter)
            try:
                for row in itertools.islice(filter(None, reader), 1, None):
                    if len(row) == len(names):
                        yield reader.line_num, [cell or None for cell in row]
                    else:
                        given = f"has {len(row)} values, but there are {len(names)} columns"
                        uneven.add(Fault(given, file, reader.line_num))
            except (csv.Error, UnicodeDecodeError) as error:
                raise fault(f"is no table in UTF-8: {first_line(error)}", file, reader.line_num + 1) from None
        uneven.refuse()

    return _checked(GivenTable(file, names, rows))


def _parquet(path: Path) -> GivenTable:
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(open_regular(path))
    except pyarrow.ArrowException as error:
        raise fault(f"is no valid parquet: {first_line(error)}", str(path)) from None

    def rows() -> Iterator[tuple[int, Sequence[Cell]]]:
        batches = (
            zip(*(column.to_pylist() for column in batch.columns), strict=True) for batch in opened.iter_batches()
        )
        return enumerate(itertools.chain.from_iterable(batches), start=1)

    return _checked(GivenTable(str(path), opened.schema_arrow.names, rows))


def objects_in(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the objects of JSON lines, or of one list, with their lines."""
    file = str(path)
    if read_start(path, MIB).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        yield from enumerate(load(read_regular(path, MAX_BYTES), file), start=1)
        return
    with open_regular(path) as stream:
        for line, raw in enumerate(stream, start=1):
            if raw.strip():
                yield line, load(raw, file, line)


def load(raw: bytes, file: str, line: int | None = None) -> Any:
    """Return the data of JSON; NaN is refused as a score alone, with its line."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise fault(f"is no valid JSON: {why}", file, line) from None


def of_objects(objects: Callable[[], Iterable[tuple[int, Any]]], file: str) -> GivenTable:
    """Return the table of objects, whose keys are columns; `a.b` is the value b inside a."""

    def plain() -> Iterator[tuple[int, dict[str, Any]]]:
        for line, given in objects():
            if not isinstance(given, dict):
                raise fault(f"must be an object with a value for each column, got {type(given).__name__}", file, line)
            inner = (
                (f"{key}.{name}", own) for key, of in given.items() if isinstance(of, dict) for name, own in of.items()
            )
            yield line, {key: own for key, own in (*given.items(), *inner) if not isinstance(own, dict | list)}

    names = [*dict.fromkeys(name for _, row in itertools.islice(plain(), HEAD_ROWS) for name in row)]
    return _checked(GivenTable(file, names, lambda: ((line, [*map(row.get, names)]) for line, row in plain())))
