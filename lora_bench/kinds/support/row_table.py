"""Rows of a source, before a kind of task makes examples of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lora_bench.errors import Fault

SHOWN_ROWS = 3


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Args:
        shown: Source of the rows, for users.
        names: Names of all columns.
        columns: Values of the columns that were asked for and found.
        places: Line or row number of each row, counted from 1.
        place: Which of the two *places* are.
        class_names: Names behind the integers of a column, if the source has them.
        own: True if the user can change the source, as with a local file.
        left_out: Number of rows left out because they had too few or too many values.
        unlabelled: Number of rows left out because they had no label.
    """

    shown: str
    names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[int]
    place: Literal["line", "row"] = "line"
    class_names: dict[str, list[str]] = field(default_factory=dict)
    own: bool = True
    left_out: int = 0
    unlabelled: int = 0

    def fault(self, message: str) -> Fault:
        """Return a fault of this table."""
        return Fault(message, file=self.shown)

    def rows_fault(self, message: str, rows: Sequence[int], hint: str = "") -> Fault:
        """Return a fault of some rows, given by index: their number and the first three, and then the hint."""
        shown = ", ".join(str(self.places[row]) for row in rows[:SHOWN_ROWS])
        plural = "s" if len(rows) > 1 else ""
        more = ", …" if len(rows) > SHOWN_ROWS else ""
        return self.fault(f"{message} in {len(rows):,} row{plural} ({self.place}{plural} {shown}{more}){hint}")

    def note(self, faults: list[Fault], message: str, rows: Sequence[int], hint: str = "") -> None:
        """Add the fault of some rows to *faults*, if there are any; see `rows_fault`."""
        if rows:
            faults.append(self.rows_fault(message, rows, hint))

    def where(self, rows: Sequence[int]) -> Table:
        """Return the table with only these rows, given by index."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, places=[self.places[row] for row in rows])
