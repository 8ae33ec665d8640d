"""Scores against costs: a line of panels a base model, a column a cost. Needs matplotlib, as `panels` does."""

import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from lora_bench.report.figures import panels as parts
from lora_bench.report.figures.plan import Cost, FigurePlan, Style, front_of, not_alone, padded
from lora_bench.report.model.comparison import ModelTable
from lora_bench.report.model.rows import Row

HEIGHT = 2.3

# Unlike an interval, upon which its steps rise, and unlike the dashes of exempt methods.
FRONT: dict[str, Any] = {"color": "#595959", "linewidth": 1.2, "linestyle": (0, (1, 1.4))}


def trade_offs(plan: FigurePlan) -> Figure:
    """Mean scores against every cost that rows have, with the front of each panel."""
    columns = len(plan.costs)
    titles = [parts.model_name(table) if column == 0 else "" for table in plan.tables for column in range(columns)]
    figure, panels = parts.make_panels(titles, height=HEIGHT, columns=columns)
    limits = parts.score_limits(plan.rows)
    for panel, (table, cost) in zip(panels, itertools.product(plan.tables, plan.costs), strict=True):
        panel.set_ylim(limits)
        panel.tick_params(labelbottom=True)
        _panel(panel, plan, table, cost, limits)
    for panel, cost in zip(panels[-columns:], plan.costs, strict=True):
        panel.set_xlabel(cost.label)
    parts.label_side(figure, parts.score_name(plan), inches=HEIGHT * len(plan.tables))
    further = []
    better = plan.settings[0].spec.task.higher_is_better
    if any(front_of(table.rows, cost, better) for table in plan.tables for cost in plan.costs):
        further.append((Line2D([], [], **FRONT), "front of the means"))
    if any(not_alone(row, cost) for row in plan.rows for cost in plan.costs):
        further.append((Line2D([], [], **parts.mark(Style(parts.QUIET, "o"), hollow=True)), "not measured alone"))
    parts.legend(figure, plan, [row for row in plan.rows if row.score is not None], further)
    return figure


def _panel(panel: Any, plan: FigurePlan, table: ModelTable, cost: Cost, limits: parts.Limits) -> None:
    rows = [row for row in table.rows if row.score is not None and cost.of(row) is not None]
    if cost.measured:
        # An axis of its own for every panel: measurements differ more between base models than between methods.
        panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        values = [value for row in rows if (value := cost.of(row)) is not None]
        panel.set_xlim(padded(min(values), max(values), share=0.15) if values else (0.0, 1.0))
    else:
        _parameter_axis(panel, plan, cost)
        for row in table.rows:
            if row.exempt and row.score is not None:
                colour = plan.styles[row.label].colour
                panel.axhline(row.score.mean, color=colour, linewidth=1.2, linestyle=parts.DASHES)
    places = {row.run_ids: value for row in rows if (value := cost.of(row)) is not None}
    if len(plan.settings) > 1:
        for label in dict.fromkeys(row.label for row in rows):
            of_label = [row for row in rows if row.label == label]
            _line(panel, of_label, places, color=plan.styles[label].colour, linewidth=1.0, alpha=0.7)
    front = front_of(table.rows, cost, plan.settings[0].spec.task.higher_is_better)
    _line(panel, front, places, drawstyle="steps-post", **FRONT)
    for row in rows:
        hollow = not_alone(row, cost)
        parts.draw_value(panel, row, plan.styles[row.label], places[row.run_ids], limits, hollow=hollow)


def _line(panel: Any, rows: Sequence[Row], places: dict[tuple[str, ...], float], **look: Any) -> None:
    means = [row.score.mean for row in rows if row.score is not None]
    panel.plot([places[row.run_ids] for row in rows], means, zorder=2.5, **look)


def _parameter_axis(panel: Any, plan: FigurePlan, cost: Cost) -> None:
    """The same axis for every base model, with the span that keeps each target."""
    budgets = [setting.budget for setting in plan.settings if setting.budget is not None]
    held = [(budget.parameter_target[1], budget.tolerance) for budget in budgets if budget.parameter_target is not None]
    counts = [count for row in plan.rows if row.score is not None and (count := cost.of(row)) is not None]
    values = [*counts, *(target for target, _ in held)]
    # At least a factor of 5 apart, so that equal counts look equal, and room at the sides.
    widen = max(1.5 * (max(values) / min(values)) ** 0.15, (5 * min(values) / max(values)) ** 0.5)
    limits = min(values) / widen, max(values) * widen
    parts.logarithmic(panel, limits, EngFormatter())
    for target, tolerance in held:
        panel.axvspan(target * (1 - tolerance), target * (1 + tolerance), color="#000000", alpha=0.06, linewidth=0)
