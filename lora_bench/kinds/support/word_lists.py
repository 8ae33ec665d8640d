"""Lists of words and of their labels, as tables have them: lists, JSON text of a list, or words separated by spaces."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from lora_bench.errors import Fault
from lora_bench.kinds.support.row_table import Table


def listed(value: Any) -> list[Any] | None:
    """Return the list that a value of a table stands for, or None if it stands for none.

    A list as Python prints it is one too: tables that pandas wrote have it.
    """
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            for read in (json.loads, ast.literal_eval):
                with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                    found = read(value.strip())
                    if isinstance(found, list):
                        return found
        return value.split()
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
    if wrong:
        hint = "; give a list, JSON text of one, or words separated by spaces"
        faults.append(table.rows_fault(f"has values in column {column!r} that are no list of words", wrong, hint))
    if without:
        faults.append(table.rows_fault(f"has no words in column {column!r}", without))
    return found
