"""Training loss, and scores of evaluations while training, against the step. Needs matplotlib, as `panels` does."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lora_bench.report.figures import panels as parts
from lora_bench.report.figures.curves import Line, losses_of, mean_line, scores_of, thinned, timed_line
from lora_bench.report.figures.plan import FigurePlan, padded
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.rows import Row

HEIGHT = 2.5

# Points of a line of losses, at most: a loss of every step is of one batch, and hides the line in its noise.
POINTS = 20

# Not drawn, so the line ends before it and begins anew behind it.
GAP = (math.nan, math.nan)

# Losses whose lines span this factor are drawn on a parts.logarithmic axis.
LOGARITHMIC_FROM = 10.0


def learning_curves(plan: FigurePlan) -> Figure:
    """Return a panel a base model and target, a line a method; below them the same for evaluations, where there are any."""
    setting = plan.settings[0]
    shown = parts.by_setting(plan)
    losses = {run.run_id: thinned(losses_of(run.curve), POINTS) for run in plan.runs}
    scores = {run.run_id: scores_of(run.curve, setting.spec.task.metric) for run in plan.runs}
    evaluated = any(scores.values())
    figure, panels = parts.make_panels([title for title, _ in shown], height=HEIGHT, blocks=1 + evaluated)
    tables = [table for _, table in shown]
    above, below = panels[: len(tables)], panels[len(tables) :]
    parts.label_beside(above, "training loss", HEIGHT)
    for panel, table in zip(above, tables, strict=True):
        # A loss may be of a base model's own tokens: it is not compared with that of another.
        panel.tick_params(labelleft=True)
        _fill([panel], plan, [table], losses)
    if evaluated:
        parts.label_beside(below, _evaluated(setting), HEIGHT)
        _fill(below, plan, tables, scores)
    parts.label_below(panels, "step")
    parts.legend(figure, plan, [row for row in plan.rows if any(losses.get(run) for run in row.run_ids)])
    return figure


def over_time(plan: FigurePlan) -> Figure:
    """Return a panel a base model and target, a line a method: scores of evaluations against the seconds of training."""
    shown = parts.by_setting(plan)
    figure, panels = parts.make_panels([title for title, _ in shown], height=HEIGHT)
    parts.label_beside(panels, _evaluated(plan.settings[0]), HEIGHT)
    lines = {run.run_id: timed_line(run) for run in plan.runs}
    _fill(panels, plan, [table for _, table in shown], lines)
    parts.label_below(panels, "seconds of training")
    parts.legend(figure, plan, [row for row in plan.rows if any(lines[run] for run in row.run_ids)])
    return figure


def _fill(panels: Sequence[Any], plan: FigurePlan, tables: Sequence[ModelTable], lines: Mapping[str, Line]) -> None:
    drawn = [line for table in tables for row in table.rows for run in row.run_ids if (line := lines.get(run))]
    if not drawn:
        return
    steps = [step for line in drawn for step, _ in line]
    values = [value for line in drawn for _, value in line]
    low, high = min(values), max(values)
    for panel, table in zip(panels, tables, strict=True):
        panel.set_xlim(0, max(steps) * 1.04)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        if low > 0 and high >= LOGARITHMIC_FROM * low:
            upright = FuncFormatter(lambda value, _: f"{value:g}")
            parts.logarithmic(panel, (low / 1.2, high * 1.2), upright, upwards=True)
        else:
            panel.set_ylim(padded(low, high, share=0.06))
        for row in table.rows:
            _draw(panel, plan, row, lines)


def _draw(panel: Any, plan: FigurePlan, row: Row, lines: Mapping[str, Line]) -> None:
    """The seeds of a row, and the mean of those that ended `ok`, which ends with the method's parts.mark."""
    style = plan.styles[row.label]
    failed = {record.run_id for record in row.failures}
    # One line with gaps between the seeds: thousands of lines would take most of the time of a report.
    seeds = [point for run in row.run_ids if (line := lines.get(run)) for point in (*line, GAP)]
    if seeds:
        panel.plot(*zip(*seeds, strict=True), color=style.colour, linewidth=0.7, alpha=0.4)
    mean = mean_line([lines.get(run, []) for run in row.run_ids if run not in failed])
    if mean:
        panel.plot(*zip(*mean, strict=True), color=style.colour, linewidth=1.6)
        panel.plot(*mean[-1], clip_on=False, **parts.mark(style))


def _evaluated(setting: Setting) -> str:
    """Return the axis label of a learning curve: the metric, and the split that was evaluated if the rules name it."""
    rules = setting.spec.rules
    where = f"on the {rules.choose_on} split" if rules is not None else "of evaluations"
    return f"{parts.short(setting.spec.task.shown_metric, 40)} {where}"
