"""The plan of a figure: all that it shows, before it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lora_bench.records.record import CurvePoint
from lora_bench.report.figures.captions import caption
from lora_bench.report.figures.curves import Line
from lora_bench.report.figures.pareto import Cost
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.model.sweeps import Sweep
from lora_bench.stats import Interval

Kind = Literal["scores", "trade_offs", "learning_curves", "over_time", "learning_rates", "sweeps"]


@dataclass(frozen=True)
class Style:
    """Looks of a method, the same in every figure."""

    colour: str
    marker: str


@dataclass(frozen=True, kw_only=True)
class FigurePlan:
    """A figure to draw: its content, its subject, and the name of its file.

    Args:
        settings: Settings of one task that differ in nothing but their target, the smallest first.
        tables: The rows of each base model over these settings, those exempt once.
        costs: The axes of a trade-off.
        curves: The learning curve of each run, by run id.
        styles: The look of each method, by label, or of each line of a sweep, by name.
        sweeps: Sweeps that it draws, of one task and number; a panel each.
        over_time: Scores over the seconds of training of each run, by run id.
    """

    kind: Kind
    settings: tuple[Setting, ...]
    tables: tuple[ModelTable, ...]
    styles: Mapping[str, Style]
    file: str
    costs: tuple[Cost, ...] = ()
    curves: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    over_time: Mapping[str, Line] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """How to read it, and its limits."""
        return caption(self)

    @property
    def rows(self) -> list[Row]:
        """The rows of all its base models."""
        return [row for table in self.tables for row in table.rows]


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A panel of a figure of heat maps.

    Args:
        rows: Name of each row, from the top.
        columns: Name of each column.
        values: Values by row and column; None for an empty cell.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A plane of learning and forgetting.

    Args:
        rows: Rows with a score and with what they lost.
        title: Name of the base model.
        below: Name of the horizontal axis.
        side: Name of the vertical axis.
    """

    rows: Sequence[Row]
    title: str
    below: str
    side: str


def stretched(values: Sequence[float], intervals: Iterable[Interval | None]) -> tuple[float, float]:
    """Return limits around all values, and around intervals as far as they reach half the span of the values further out."""
    ends = [end for interval in intervals if interval is not None for end in (interval.low, interval.high)]
    low, high = min(values), max(values)
    room = (high - low) / 2
    return max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
