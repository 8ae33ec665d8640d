"""Scores along one number, such as the rank or the number of different training rows. Needs matplotlib, as `panels` does."""

from __future__ import annotations

import itertools
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lora_bench.report.figures.panels import (
    Limits,
    draw_value,
    label_below,
    label_side,
    legend,
    logarithmic,
    make_panels,
    method_name,
    model_name,
    padded,
    score_limits,
    score_name,
    short,
)
from lora_bench.report.figures.plan import FigurePlan
from lora_bench.report.model.sweeps import Sweep
from lora_bench.report.text import swept

HEIGHT = 2.5

# Values that span this factor are drawn on a logarithmic axis.
LOGARITHMIC_FROM = 8.0

# Every value is a tick where there are few of them, each some way from the next.
MOST_TICKS, TICKS_APART = 8, 1.5

# The share of an axis between two methods at the same value, so that neither hides the other's interval.
ASIDE = 0.012


def sweep_panels(plan: FigurePlan) -> Figure:
    """Return a panel a base model, a line a method: seeds, means and intervals against the number."""
    titles = [model_name(sweep.table) + (f"\n{sweep.apart}" if sweep.apart else "") for sweep in plan.sweeps]
    figure, panels = make_panels(titles, height=HEIGHT)
    rows = [point.row for sweep in plan.sweeps for line in sweep.lines for point in line.points]
    limits = score_limits(rows)
    values = sorted({point.value for sweep in plan.sweeps for line in sweep.lines for point in line.points})
    for panel, sweep in zip(panels, plan.sweeps, strict=True):
        panel.set_ylim(limits)
        _fill(panel, plan, sweep, values, limits)
    label_below(panels, short(plan.sweeps[0].axis, 40))
    label_side(figure, score_name(plan), inches=HEIGHT)
    names = dict.fromkeys(line.name for sweep in plan.sweeps for line in sweep.lines)
    legend(figure, plan, [], [(_handle(plan, name), method_name(name)) for name in names])
    return figure


def _fill(panel: Any, plan: FigurePlan, sweep: Sweep, values: list[float], limits: Limits) -> None:
    on_log = values[0] > 0 and (sweep.kind != "option" or values[-1] >= LOGARITHMIC_FROM * values[0])
    formatter = FuncFormatter(lambda value, _: swept(value, rate=sweep.kind == "learning_rate"))
    if on_log:
        widen = max(1.15, (values[-1] / values[0]) ** 0.07)
        logarithmic(panel, (values[0] / widen, values[-1] * widen), formatter)
        if len(values) <= MOST_TICKS and all(
            after >= TICKS_APART * before for before, after in itertools.pairwise(values)
        ):
            panel.xaxis.set_major_locator(FixedLocator(values))
            panel.xaxis.set_minor_locator(NullLocator())
    else:
        panel.set_xlim(padded(values[0], values[-1], share=0.07))
        panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(formatter)
    for number, line in enumerate(sweep.lines):
        aside = ASIDE * (number - (len(sweep.lines) - 1) / 2)
        places = [
            point.value * (values[-1] / values[0]) ** aside
            if on_log
            else point.value + aside * (values[-1] - values[0])
            for point in line.points
        ]
        style = plan.styles[line.name]
        means = [point.row.score.mean for point in line.points if point.row.score is not None]
        panel.plot(places, means, color=style.colour, linewidth=1.2)
        for place, point in zip(places, line.points, strict=True):
            draw_value(panel, point.row, style, place, limits)


def _handle(plan: FigurePlan, name: str) -> Line2D:
    style = plan.styles[name]
    return Line2D([], [], color=style.colour, linewidth=1.2, marker=style.marker, markersize=7)
