"""Which orders of a published table its own printed standard deviations support.

Every two rows are compared on each base model, task and score: docs/published.md#which-orders-a-table-supports. Rounding
counts against an order: a difference is taken less half of one in the last digit of both numbers, a standard deviation at the
upper end of what its digits stand for. A median of normal scores has π/2 times the variance of a mean.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from lora_bench.metrics import find
from lora_bench.published.rule import ALPHA, MEDIAN_VARIANCE
from lora_bench.published.table import PublishedCell, PublishedTable
from lora_bench.report.model.rows import grouped
from lora_bench.stats import holm
from lora_bench.stats.paired import welch
from lora_bench.stats.verdict import FEWEST_PAIRS

Pair = tuple[PublishedCell, PublishedCell]


class FirstPlace(NamedTuple):
    """The row with the best number of a column, and of the others that can be judged those it is shown ahead of, and not."""

    cell: PublishedCell
    ahead: list[str]
    level: list[str]


class PrintedOrders(NamedTuple):
    """Pairs of rows of a table with different numbers in a column: all, those that can be judged, and those that are shown.

    *firsts* has the best row of each column in which it can be judged beside another, *without* counts the numbers that cannot
    be judged, by the reason.
    """

    printed: int
    judged: int
    supported: int
    firsts: list[FirstPlace]
    without: dict[str, int]


def printed_orders(table: PublishedTable) -> PrintedOrders:
    """Judge every pair of rows of a table that can be judged."""
    columns = grouped(table.cells, lambda cell: (cell.model, cell.task, cell.score)).values()
    pairs = [pair for cells in columns for pair in itertools.combinations(cells, 2)]
    judged = [pair for pair in pairs if not any(map(not_judged, pair))]
    shown = _shown(judged)
    return PrintedOrders(
        printed=sum(one.value != other.value for one, other in pairs),
        judged=sum(one.value != other.value for one, other in judged),
        supported=len(shown),
        firsts=[found for cells in columns if (found := _first_place(cells, shown)) is not None],
        without=Counter(reason for cell in table.cells if (reason := not_judged(cell)) is not None),
    )


def _first_place(cells: Sequence[PublishedCell], shown: Sequence[Pair]) -> FirstPlace | None:
    metric = find(cells[0].score.rpartition("/")[2])
    sign = 1 if metric is None or metric.higher_is_better else -1
    first = max(cells, key=lambda cell: sign * cell.value)
    others = [cell for cell in cells if cell is not first and not_judged(cell) is None]
    if not_judged(first) is not None or not others:
        return None
    ahead = [cell.row for cell in others if (first, cell) in shown or (cell, first) in shown]
    return FirstPlace(first, ahead, [cell.row for cell in others if cell.row not in ahead])


def not_judged(cell: PublishedCell) -> str | None:
    """Return why what is printed of a number judges no order, or None where it does."""
    if cell.spread is None:
        return "without a printed standard deviation"
    if cell.seeds is None:
        return "without a number of runs"
    return f"of fewer than {FEWEST_PAIRS} runs" if cell.seeds < FEWEST_PAIRS else None


def _shown(judged: Sequence[Pair]) -> list[Pair]:
    levels = holm([_p_value(*pair) for pair in judged], ALPHA)
    return [pair for pair, of in zip(judged, levels, strict=True) if of.p_value is not None and of.p_value <= ALPHA]


def _p_value(one: PublishedCell, other: PublishedCell) -> float | None:
    gap = abs(one.value - other.value) - one.step - other.step
    return welch(max(0.0, gap), *((_variance(cell), cell.seeds or 1) for cell in (one, other))).p_value()


def _variance(cell: PublishedCell) -> float:
    """Return the variance of a score such that a mean of so many would vary as the printed number does."""
    digits = Decimal(cell.printed_spread or "0").as_tuple()
    rounding = float(Decimal(5).scaleb(int(digits.exponent) - 1)) * cell.unit
    factor = MEDIAN_VARIANCE if cell.statistic == "median" else 1.0
    return factor * ((cell.spread or 0.0) + rounding) ** 2
