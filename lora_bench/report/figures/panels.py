"""The building blocks of every figure's panels, and the figure of a search.

Imported only when a figure is drawn, since it needs matplotlib.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, NullLocator

from lora_bench.report.figures.plan import FigurePlan, Style, padded, stretched
from lora_bench.report.model.comparison import ModelTable
from lora_bench.report.model.rows import Row
from lora_bench.report.text import learning_rate, natural, plain

COLUMNS = 3

# Inches. The first panel of a figure, with the names on its left, is as wide as a phone: further ones are scrolled to.
WIDTHS = {1: 5.6, 2: 7.2, 3: 9.0}
PHONE_INCHES = 3.7

# Of a method's label.
MOST_CHARACTERS = 28
# Of a base model's label, and of a line of it: more would reach over the next panel.
MOST_OF_MODEL, MOST_OF_LINE = 60, 36

DASHES = (0, (4, 2))
QUIET = "#8c8c8c"
SEEDS: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3.2, "markeredgewidth": 0}

Limits = tuple[float, float]


def learning_rates(plan: FigurePlan) -> Figure:
    """Score against the learning rate, a line a method; a panel a base model and target."""
    shown = by_setting(plan)
    figure, panels = make_panels([title for title, _ in shown], height=2.5)
    limits = score_limits(plan.rows)
    rates = [row.learning_rate for row in plan.rows if row.learning_rate is not None]
    for panel, (_, table) in zip(panels, shown, strict=True):
        panel.set_ylim(limits)
        logarithmic(panel, (min(rates) / 1.6, max(rates) * 1.6), FuncFormatter(lambda value, _: learning_rate(value)))
        for label in dict.fromkeys(row.label for row in table.rows):
            points = [
                (row.learning_rate, row)
                for row in table.rows
                if row.label == label and row.score is not None and row.learning_rate is not None
            ]
            means = [row.score.mean for _, row in points if row.score is not None]
            panel.plot([rate for rate, _ in points], means, color=plan.styles[label].colour, linewidth=1.2)
            for rate, row in points:
                draw_value(panel, row, plan.styles[label], rate, limits)
    label_below(panels, "learning rate")
    label_side(figure, score_name(plan), inches=2.5)
    legend(figure, plan, [row for row in plan.rows if row.score is not None])
    return figure


def by_setting(plan: FigurePlan) -> list[tuple[str, ModelTable]]:
    """Return the tables of every setting of a figure, with their titles."""
    titles = []
    for setting in plan.settings:
        target = "no target" if setting.parameter_target is None else f"target {setting.parameter_target[1]:,}"
        below = f"\n{target}" if len(plan.settings) > 1 else ""
        titles += [(f"{model_name(table)}{below}", table) for table in setting.tables]
    return titles


def make_panels(
    titles: Sequence[str], *, height: float, blocks: int = 1, columns: int | None = None
) -> tuple[Figure, list[Any]]:
    """Return a figure at the width of a page with titled panels, three or *columns* beside each other, and the panels.

    They are so many inches high, and there are so many *blocks* of them, one below the other.
    """
    columns = columns or min(COLUMNS, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(WIDTHS[columns], 0.8 + blocks * lines * height), layout="constrained")
    grid = figure.subplots(blocks * lines, columns, squeeze=False)
    panels = []
    for block in range(blocks):
        of_block = grid[block * lines : (block + 1) * lines].flatten().tolist()
        for index, panel in enumerate(of_block):
            if index >= len(titles):
                panel.remove()
                continue
            panel.set_title(titles[index])
            lowest = index + columns >= len(titles) and block == blocks - 1
            panel.tick_params(labelleft=index % columns == 0, labelbottom=lowest)
            panels.append(panel)
    return figure, panels


def draw_value(
    panel: Any, row: Row, style: Style, place: float, limits: Limits, *, hollow: bool = False, seeds: bool = True
) -> None:
    """Seeds, mean and interval of a row at *place* of the horizontal axis."""

    def plot(places: Sequence[float], values: Sequence[float], **look: Any) -> None:
        panel.plot(places, values, **{"color": style.colour, **look})

    if row.score is None:
        return
    if row.score.interval is not None:
        ends = row.score.interval
        low, high = max(ends.low, limits[0]), min(ends.high, limits[1])
        plot([place, place], [low, high], linewidth=1.4, alpha=0.5, solid_capstyle="butt")
        if ends.low < limits[0]:
            plot([place], [limits[0]], marker=CARETDOWN, markersize=5, clip_on=False)
        if ends.high > limits[1]:
            plot([place], [limits[1]], marker=CARETUP, markersize=5, clip_on=False)
    if seeds and row.score.n > 1:
        plot([place] * row.score.n, [score.value for score in row.scores], **SEEDS)
    plot([place], [row.score.mean], **mark(style, hollow=hollow))


def mark(style: Style, *, hollow: bool = False) -> dict[str, Any]:
    """Return the mark of a mean."""
    look: dict[str, Any] = {"marker": style.marker, "linestyle": "none", "color": style.colour, "zorder": 3}
    if hollow:
        return {**look, "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.5}
    return {**look, "markersize": 7.5, "markeredgecolor": "white", "markeredgewidth": 0.9}


def legend(figure: Figure, plan: FigurePlan, rows: Iterable[Row], further: Sequence[tuple[Any, str]] = ()) -> None:
    """One legend of methods, and of *further* handles with their names."""
    exempt = {row.label: row.exempt for row in rows}
    entries = []
    for label in sorted(exempt, key=lambda name: (not exempt[name], natural(name))):
        style = plan.styles[label]
        handle = Line2D([], [], color=style.colour, linestyle="none", marker=style.marker, markersize=7)
        entries.append((handle, method_name(label)))
    legend_below(figure, [*entries, *further])


def legend_below(figure: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """One legend below all panels, where it covers nothing, and on the left, where a phone shows it."""
    widest = 0.5 + 0.065 * max(len(name) for _, name in entries)
    columns = max(1, min(4, int(PHONE_INCHES / widest)))
    figure.legend(*zip(*entries, strict=True), loc="outside lower left", ncols=columns, frameon=False)


def score_limits(rows: Iterable[Row]) -> Limits:
    """Limits around all seeds, and around intervals as far as they reach half the span of the seeds further out."""
    scored = [row for row in rows if row.score is not None]
    seeds = [score.value for row in scored for score in row.scores]
    return padded(*stretched(seeds, (row.score.interval for row in scored if row.score is not None)), share=0.06)


def logarithmic(panel: Any, limits: Limits, formatter: Formatter, *, upwards: bool = False) -> None:
    """A logarithmic axis whose ticks have room for their labels."""
    decades = math.log10(limits[1] / limits[0])
    between = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.3 else (1.0,)
    if upwards:
        panel.set_yscale("log")
        panel.set_ylim(limits)
    else:
        panel.set_xscale("log")
        panel.set_xlim(limits)
    axis = panel.yaxis if upwards else panel.xaxis
    axis.set_major_locator(LogLocator(subs=between, numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(formatter)


def label_below(panels: Sequence[Any], text: str) -> None:
    """Name the horizontal axis of the lowest panels."""
    for panel in panels:
        if panel.xaxis.get_tick_params()["labelbottom"]:
            panel.set_xlabel(text)


def label_beside(panels: Sequence[Any], text: str, inches: float) -> None:
    """Name the vertical axis of the panels on the left, over several lines where they are not so many inches high."""
    for panel in panels:
        if panel.yaxis.get_tick_params()["labelleft"]:
            panel.set_ylabel(_wrapped(text, inches - 0.5))


def label_side(figure: Figure, text: str, inches: float) -> None:
    """Name the vertical axis of all panels, over several lines where they are not so many inches high."""
    figure.supylabel(_wrapped(text, inches), fontsize=9)


def score_name(plan: FigurePlan) -> str:
    """Return the metric, its split and task, and "lower is better" where that holds."""
    spec = plan.settings[0].spec
    better = " (lower is better)" if spec.task.higher_is_better is False else ""
    where = f"on the {spec.score_on} split of" if spec.score_on is not None else "on"
    return f"{short(spec.task.shown_metric, 40)} {where} {short(spec.task.name, 40)}{better}"


def _wrapped(text: str, inches: float) -> str:
    # Thirteen characters of 9 points are an inch.
    return textwrap.fill(text, int(13 * inches))


def method_name(label: str) -> str:
    """Return a method's label with both of its ends, of which the last tells variants apart."""
    name, half = short(label, 300), MOST_CHARACTERS // 2
    return name if len(name) <= MOST_CHARACTERS else f"{name[:half]}…{name[1 - half :]}"


def model_name(table: ModelTable) -> str:
    """Return the name of a base model over its panels; what a long one has in parentheses is a line of its own."""
    name = short(table.model.shown, MOST_OF_MODEL)
    if len(name) > MOST_OF_LINE:
        first, bracket, rest = name.partition(" (")
        name = short(first, MOST_OF_LINE) + (f"\n({short(rest, MOST_OF_LINE)}" if bracket else "")
    return name + (f" ({table.weights})" if table.ambiguous else "")


def short(text: str, limit: int) -> str:
    """Return a name from a record as one short line."""
    return plain(text, limit) or "?"
