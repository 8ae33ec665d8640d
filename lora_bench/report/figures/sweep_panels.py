"""Scores along one number, such as the rank or the number of different training rows. Needs matplotlib, as `panels` does."""

import itertools
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lora_bench.report.figures import panels as parts
from lora_bench.report.figures.plan import FigurePlan, padded
from lora_bench.report.model.sweeps import Sweep
from lora_bench.report.text import swept

HEIGHT = 2.5

# Values that span this factor are drawn on a parts.logarithmic axis.
LOGARITHMIC_FROM = 8.0

# Every value is a tick where there are few of them, each some way from the next.
MOST_TICKS, TICKS_APART = 8, 1.5

# The share of an axis between two methods at the same value, so that neither hides the other's interval.
ASIDE = 0.012


def sweep_panels(plan: FigurePlan) -> Figure:
    """Return a panel a base model, a line a method: seeds, means and intervals against the number."""
    titles = [parts.model_name(sweep.table) + (f"\n{sweep.apart}" if sweep.apart else "") for sweep in plan.sweeps]
    figure, panels = parts.make_panels(titles, height=HEIGHT)
    rows = [point.row for sweep in plan.sweeps for line in sweep.lines for point in line.points]
    limits = parts.score_limits(rows)
    values = sorted({point.value for sweep in plan.sweeps for line in sweep.lines for point in line.points})
    for panel, sweep in zip(panels, plan.sweeps, strict=True):
        panel.set_ylim(limits)
        _fill(panel, plan, sweep, values, limits)
    parts.label_below(panels, parts.short(plan.sweeps[0].axis, 40))
    parts.label_side(figure, parts.score_name(plan), inches=HEIGHT)
    handles = []
    for name in dict.fromkeys(line.name for sweep in plan.sweeps for line in sweep.lines):
        look = plan.styles[name]
        handle = Line2D([], [], color=look.colour, linewidth=1.2, marker=look.marker, markersize=7)
        handles.append((handle, parts.method_name(name)))
    parts.legend(figure, plan, [], handles)
    return figure


def _fill(panel: Any, plan: FigurePlan, sweep: Sweep, values: list[float], limits: parts.Limits) -> None:
    on_log = values[0] > 0 and (sweep.kind != "option" or values[-1] >= LOGARITHMIC_FROM * values[0])
    formatter = FuncFormatter(lambda value, _: swept(value, rate=sweep.kind == "learning_rate"))
    if on_log:
        widen = max(1.15, (values[-1] / values[0]) ** 0.07)
        parts.logarithmic(panel, (values[0] / widen, values[-1] * widen), formatter)
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
        panel.plot(places, [point.mean for point in line.points], color=style.colour, linewidth=1.2)
        for place, point in zip(places, line.points, strict=True):
            parts.draw_value(panel, point.row, style, place, limits)
