"""Published tables: numbers that a paper printed, cell by cell, as data beside the suite that repeats it.

A table is a folder of `baselines/`. `published.csv` has one row a printed number, and `published.yaml` describes the table.
`suite.yaml` runs it, where the table can be repeated here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from lora_bench.documents import Strict

Statistic = Literal["mean", "median"]


class Unlike(NamedTuple):
    """A known difference between what a source did and what its suite can say."""

    field: str
    theirs: str
    ours: str


@dataclass(frozen=True, kw_only=True)
class PublishedCell:
    """One printed number, with the columns of docs/published.md#a-table-of-your-own; an empty one is None.

    Args:
        line: Its line in the file.
        step: Half of one in the last printed digit, in our unit: how far rounding may have moved the number.
        printed_parameters: The count of trained parameters as printed, with no more digits than were printed.
        unpublished: What the sources leave out of the recipe; the suite then makes a choice, which the notes name.
        derived: For an average over tasks: each task with the scores whose mean enters.
        notes: What is known of this number: where paper and script disagree, and what the suite takes.
    """

    line: int
    row: str
    method: str | None
    model: str
    task: str
    score: str
    printed_metric: str | None
    value: float
    spread: float | None
    printed: str
    printed_spread: str | None
    step: float
    statistic: Statistic | None
    seeds: int | None
    source: str
    table: str
    printed_parameters: int | None
    adapter_parameters: int | None
    copied: str | None
    unpublished: tuple[str, ...]
    unlike: tuple[Unlike, ...] = ()
    percent: bool = True
    no_run: str | None
    derived: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]

    @property
    def unit(self) -> float:
        """The size of one of the paper's units in ours: 0.01 for a percentage, else 1."""
        return 0.01 if self.percent else 1.0

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The unique key of a cell in the table: row, model, task and score."""
        return self.row, self.model, self.task, self.score


class TableFile(Strict):
    """Head of a table, as `published.yaml` gives it: name, title, source with its address, and remarks on all its cells.

    *no_suite* is the reason that no suite here repeats it, if none does.
    """

    table: str
    title: str
    source: str
    no_suite: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A published table, with its cells in the order of the file."""

    name: str
    title: str
    source: str
    no_suite: str | None
    notes: tuple[str, ...]
    folder: Path
    cells: tuple[PublishedCell, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of its base models."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks, averages apart."""
        return tuple(dict.fromkeys(cell.task for cell in self.cells if not cell.derived))
