"""Lists of words and of their labels, as tables have them: lists, JSON text of a list, or words separated by spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_bench.errors import Fault
from lora_bench.kinds.support.row_table import Table
from lora_bench.kinds.support.row_values import as_data


def listed(value: Any) -> list[Any] | None:
    """Return the list that a value of a table stands for, or None if it stands for none."""
    if isinstance(value, str):
        data = as_data(value) if value.lstrip().startswith("[") else None
        return data if isinstance(data, list) else value.split()
    return list(value) if isinstance(value, Sequence) else None


def words_of(table: Table, column: str, faults: list[Fault]) -> list[tuple[str, ...]]:
    """Return the words of each row; note every row without a list of words."""
    found: list[tuple[str, ...]] = []
    wrong, without = [], []
    for row, value in enumerate(table.columns[column]):
        words = [str(word) if type(word) in (int, float) else word for word in listed(value) or ()]
        if value is not None and (listed(value) is None or not all(isinstance(word, str) for word in words)):
            wrong.append(row)
            words = []
        elif not any(word.strip() for word in words):
            without.append(row)
            words = []
        found.append(tuple(words))
    hint = "; give a list, JSON text of one, or words separated by spaces"
    table.note(faults, f"has values in column {column!r} that are no list of words", wrong, hint)
    table.note(faults, f"has no words in column {column!r}", without)
    return found
