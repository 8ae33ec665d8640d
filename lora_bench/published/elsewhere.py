"""Different numbers that two tables print for one row, base model, task and score.

A row's name stands for one method of one size, scored alike, in all tables. Where the numbers differ, a later paper has run the
row anew, or has copied it wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lora_bench.errors import BadInput
from lora_bench.published.reading import known_tables, read_table
from lora_bench.published.table import PublishedCell, PublishedTable


class Disagreement(NamedTuple):
    """A number of a table, and the different one that another table prints.

    Args:
        cell: The number in the table.
        table: Name of the other table.
        other: The number there.
    """

    cell: PublishedCell
    table: str
    other: PublishedCell


def disagreements(table: PublishedTable, others: Iterable[PublishedTable] | None = None) -> list[Disagreement]:
    """Return the numbers of *table* that other tables print differently, in its order.

    Args:
        table: The table.
        others: The other tables; all known ones if None, without those that cannot be read.
    """
    found: dict[tuple[str, ...], list[tuple[str, PublishedCell]]] = {}
    for other in _readable() if others is None else others:
        if other.name != table.name:
            for cell in other.cells:
                found.setdefault(cell.key, []).append((other.name, cell))
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
