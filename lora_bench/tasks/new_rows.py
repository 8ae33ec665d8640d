"""Rows to answer: a table with the columns of a task, which needs no label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lora_bench.errors import BadInput, Fault, LoraBenchError, refuse
from lora_bench.kinds.support.row_values import Table, Texts
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.files import read_file
from lora_bench.tasks.guess_task import how_separated
from lora_bench.tasks.row_examples import missing_columns
from lora_bench.tasks.source_tables import SEPARATED, Layout, format_of


@dataclass(frozen=True)
class NewRows:
    """A table whose rows are to be answered.

    Args:
        columns: All its columns, in order.
        readable: Indexes of the rows that can be answered, whose *texts* these are.
        notes: Sentences on what was guessed of its form, and on what is wrong with the other rows.
    """

    columns: Mapping[str, Sequence[Any]]
    layout: Layout
    readable: list[int]
    texts: Texts
    notes: list[str]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class _Noting(Table):
    """A table that remembers which rows have a fault."""

    wrong: set[int] = field(default_factory=set)

    def rows_fault(self, message: str, rows: Sequence[int], hint: str = "") -> Fault:
        self.wrong.update(rows)
        return super().rows_fault(message, rows, hint)


def read_new_rows(task: Task, path: Path, classes: Sequence[str]) -> NewRows:
    """Read rows to answer with one of *classes*. Raise BadInput for a bad file, a missing column, or no readable row."""
    layout, guessed = _layout(task, path), list[str]()
    try:
        names, table = _read(path, layout, task.text)
    except BadInput:
        format = layout.format or format_of(path.name)
        if format not in SEPARATED or layout.columns is not None or not path.is_file():
            raise
        delimiter, encoding = how_separated(path, format, guessed)
        if (delimiter, encoding) == (layout.delimiter, layout.encoding):
            raise
        layout = replace(layout, delimiter=delimiter, encoding=encoding)
        names, table = _read(path, layout, task.text)
    if not table.places:
        raise LoraBenchError(f"{table.shown} has no rows")
    readable, texts, faults = _texts(task, table, classes)
    if not readable:
        raise BadInput(faults)
    columns = {name: table.columns[name] for name in names}
    return NewRows(columns, layout, readable, texts, [*guessed, *map(str, faults)])


def _read(path: Path, layout: Layout, text: Sequence[str]) -> tuple[tuple[str, ...], Table]:
    """Return the names of all columns of a file, and its rows. Raise BadInput if it lacks a column of the text."""
    names = read_file(path, layout)[0].names
    table, _ = read_file(path, replace(layout, wanted=frozenset({*names, *text})))
    refuse(missing_columns(table, frozenset(text)))
    return names, table


def _layout(task: Task, path: Path) -> Layout:
    """Return how to read a file: as the task's own files, if it has their suffix or none that is known."""
    own, given = {format_of(file) for file in task.data.named_files.values()}, format_of(path.name)
    if given is None or given in own:
        return Layout(task.format, task.columns, task.quoting, delimiter=task.delimiter, encoding=task.encoding)
    return Layout(given)


def _texts(task: Task, table: Table, classes: Sequence[str]) -> tuple[list[int], Texts, list[Fault]]:
    """Return the indexes of the rows that can be answered, their texts, and the faults of the others."""
    rows, faults = list(range(len(table.places))), list[Fault]()
    while rows:
        part = table.where(rows)
        noting = _Noting(**{own.name: getattr(part, own.name) for own in fields(Table)})
        texts = task.kind_of.texts_to_answer(task, noting, classes, faults)
        if not noting.wrong:
            return rows, texts, faults
        rows = [row for place, row in enumerate(rows) if place not in noting.wrong]
    return [], [], faults
