"""The plan of a figure: all that it shows, before it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_bench.records.record import CurvePoint
from lora_bench.report.figures.pareto import Cost
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.model.sweeps import Sweep

Kind = Literal["scores", "trade_offs", "learning_curves", "learning_rates", "sweeps"]


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
    """

    kind: Kind
    settings: tuple[Setting, ...]
    tables: tuple[ModelTable, ...]
    costs: tuple[Cost, ...]
    curves: Mapping[str, Sequence[CurvePoint]]
    styles: Mapping[str, Style]
    file: str
    caption: str
    sweeps: tuple[Sweep, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """The rows of all its base models."""
        return [row for table in self.tables for row in table.rows]
