"""Rows of a table as examples: texts and labels as the kind of task reads them, ids, and every fault in them."""

from collections.abc import Iterator
from dataclasses import replace

from lora_bench.errors import BadInput, Fault, did_you_mean
from lora_bench.kinds.support.row_values import SHOWN_VALUES, Examples, Table
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.text_facts import longest_with


def wanted_of(task: Task, part: str) -> frozenset[str]:
    """Return the columns to read of a part; those of the test split may name its subsets."""
    if task.subsets is not None and part in ("test", "all"):
        return task.wanted | {task.subsets.column}
    return task.wanted


def with_labels(task: Task, table: Table) -> Table:
    """Return the table of the task's `rows`, without those that have no label, if it leaves them out.

    Raise BadInput if the task uses some `rows`, and the table has none of them.
    """
    for column, values in task.rows.items():
        if column in table.columns:
            known = table.columns[column]
            rows = [row for row, value in enumerate(known) if str(value) in values]
            if not rows:
                near = did_you_mean(values[0], map(str, dict.fromkeys(known)))
                raise BadInput([table.fault(f"has no row with {' or '.join(values)} in column {column!r}{near}")])
            table = table.where(rows)
    columns = [name for name in task.label.columns or (task.label.column,) if name in table.columns]
    if task.unlabelled_rows == "refuse" or not columns:
        return table
    rows = task.kind_of.labelled(task, table)
    return replace(table.where(rows), unlabelled=len(table.places) - len(rows))


def missing_columns(table: Table, wanted: frozenset[str]) -> Iterator[Fault]:
    """Return a fault for each missing column, with the nearest one."""
    for name in sorted(wanted - set(table.names)):
        known = ", ".join(table.names)
        yield table.fault(f"has no column {name!r}{did_you_mean(name, table.names)} (columns: {known})")


def examples_of(task: Task, table: Table, faults: list[Fault], part: str) -> Examples:
    """Return the examples of a table; note every fault of its columns and rows."""
    missing = list(missing_columns(table, wanted_of(task, part)))
    if missing:
        faults += missing
        return Examples([], [], [], [], [], [])
    kind, count = task.kind_of, len(table.places)
    texts = kind.texts(task, table, faults)
    ids = ids_of(task, table, faults)
    by, before = (task.shares.by, task.shares.before) if task.shares is not None else (None, None)
    groups = [kind.kept_together(text) for text in texts] if by is None else _group_values(table, by, before, faults)
    if task.shares is not None and task.shares.phrases:
        groups = longest_with(groups)
    subsets = _subset_values(task, table) if part in ("test", "all") else list[str | None]([None] * count)
    labels = kind.labels(task, table, texts, faults)
    examples = Examples(list(range(count)), ids, texts, labels, groups, subsets)
    return examples.where([kind.makes_example(label) for label in labels])


def _subset_values(task: Task, table: Table) -> list[str | None]:
    """Return the subset of the test split that each row is in, or None."""
    if task.subsets is None:
        return [None] * len(table.places)
    known = {value: name for name, values in task.subsets.parts.items() for value in values}
    return [known.get(str(value), task.subsets.rest) for value in table.columns[task.subsets.column]]


def ids_of(task: Task, table: Table, faults: list[Fault]) -> list[str]:
    """Return the id of each row: from the id column, whose faults are noted, or its number.

    Of a task that uses some `rows` it is their place in the file, so that a row has one id in all tasks that use it.
    """
    if task.id is None and task.rows:
        return [str(place) for place in table.places]
    if task.id is None:
        return [str(number) for number in range(1, len(table.places) + 1)]
    values = table.columns[task.id]
    without = [row for row, value in enumerate(values) if value is None or value == ""]
    table.note(faults, f"has no id in column {task.id!r}", without)
    ids = [str(value) for value in values]
    first: dict[str, int] = {}
    repeated = [row for row, value in enumerate(ids) if first.setdefault(value, row) != row]
    if repeated and not without:
        shown = ", ".join(repr(ids[row]) for row in repeated[:SHOWN_VALUES])
        faults.append(table.rows_fault(f"repeats an id of column {task.id!r} ({shown})", repeated))
    return ids


def _group_values(table: Table, by: str, before: str | None, faults: list[Fault]) -> list[str]:
    values = table.columns[by]
    without = [row for row, value in enumerate(values) if value is None or value == ""]
    table.note(faults, f"has no value in column {by!r}, by which rows are split", without)
    return [str(value).partition(before)[0] if before is not None else str(value) for value in values]
