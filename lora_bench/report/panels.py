"""What is in the panels of each figure. Imported only when a figure is drawn, since it needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT, CARETUP
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from lora_bench.report.comparison import ModelTable, Setting
from lora_bench.report.rows import Row
from lora_bench.report.text import MIB, learning_rate, natural, plain

if TYPE_CHECKING:
    from lora_bench.report.figures import Style

COLUMNS = 3
Limits = tuple[float, float]

# Counts within this share of the axis would cover each other.
CROWDED = 0.07


def scores(setting: Setting, styles: Mapping[str, Style]) -> Figure:
    """A line a method: seeds, mean and interval along the score axis; failures as words."""
    names = list(dict.fromkeys(_line_name(row) for row in sorted(setting.rows, key=lambda row: not row.reference)))
    figure, panels = _figure(setting, panel_height=0.55 + 0.34 * len(names))
    limits = _score_limits(setting.rows)
    for panel, table in zip(panels, setting.tables, strict=True):
        panel.set_xlim(limits)
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.set_yticks(range(len(names)), names)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        for row in table.rows:
            line = names.index(_line_name(row))
            _value(panel, row, styles[row.label], line, limits, across=True)
            _failed(panel, row, line)
    figure.supxlabel(_score_name(setting), fontsize=9)
    return figure


def parameters(setting: Setting, styles: Mapping[str, Style]) -> Figure:
    """Score against adapter parameters; the reference has no place on this axis and is a line across it."""
    held = [row for row in setting.rows if row.score is not None and _adapter(row) is not None and not row.reference]
    figure, panels = _figure(setting, panel_height=2.5)
    limits = _score_limits(setting.rows)
    across = _log_limits([count for row in held if (count := _adapter(row)) is not None], setting)
    for panel, table in zip(panels, setting.tables, strict=True):
        panel.set_xscale("log")
        panel.set_xlim(across)
        panel.set_ylim(limits)
        _log_ticks(panel, FuncFormatter(lambda value, _: _short_count(value)))
        _budget_band(panel, setting)
        rows = [row for row in table.rows if row in held]
        counts = [count for row in rows if (count := _adapter(row)) is not None]
        for row, x in zip(rows, _side_by_side(counts, across), strict=True):
            _value(panel, row, styles[row.label], x, limits)
        for row in table.rows:
            if row.reference and row.score is not None:
                panel.axhline(row.score.mean, color=styles[row.label].colour, linewidth=1.2, linestyle=(0, (4, 2)))
    _x_label(panels, "adapter parameters")
    figure.supylabel(_score_name(setting), fontsize=9)
    _legend(figure, setting, styles, lines_for_reference=True)
    return figure


def memory(setting: Setting, styles: Mapping[str, Style]) -> Figure:
    """Score against the peak of training above what the process held before the base model was loaded."""
    # Base models differ more in memory than methods do, so every panel has its own axis.
    figure, panels = _figure(setting, panel_height=2.6, sharex=False)
    limits = _score_limits(setting.rows)
    for panel, table in zip(panels, setting.tables, strict=True):
        rows = [row for row in table.rows if row.score is not None and row.train_peak_bytes is not None]
        peaks = [row.train_peak_bytes / MIB for row in rows if row.train_peak_bytes is not None]
        panel.set_ylim(limits)
        panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if peaks:
            panel.set_xlim(_padded(min(peaks), max(peaks), share=0.15))
        for row, peak in zip(rows, peaks, strict=True):
            _value(panel, row, styles[row.label], peak, limits)
    _x_label(panels, "peak memory above the start, MiB")
    figure.supylabel(_score_name(setting), fontsize=9)
    _legend(figure, setting, styles)
    return figure


def learning_rates(setting: Setting, styles: Mapping[str, Style]) -> Figure:
    """Score against the learning rate, a line a method."""
    figure, panels = _figure(setting, panel_height=2.5)
    limits = _score_limits(setting.rows)
    rates = [row.learning_rate for row in setting.rows if row.learning_rate is not None]
    for panel, table in zip(panels, setting.tables, strict=True):
        panel.set_xscale("log")
        panel.set_xlim(min(rates) / 1.6, max(rates) * 1.6)
        panel.set_ylim(limits)
        _log_ticks(panel, FuncFormatter(lambda value, _: learning_rate(value)))
        for label in dict.fromkeys(row.label for row in table.rows):
            of_label = [
                row
                for row in table.rows
                if row.label == label and row.score is not None and row.learning_rate is not None
            ]
            means = [row.score.mean for row in of_label if row.score is not None]
            panel.plot([row.learning_rate for row in of_label], means, color=styles[label].colour, linewidth=1.2)
            for row in of_label:
                assert row.learning_rate is not None
                _value(panel, row, styles[label], row.learning_rate, limits, interval=False)
    _x_label(panels, "learning rate")
    figure.supylabel(_score_name(setting), fontsize=9)
    _legend(figure, setting, styles)
    return figure


def _figure(setting: Setting, *, panel_height: float, sharex: bool = True) -> tuple[Figure, list[Any]]:
    """A figure with a titled panel for each base model, at the width of a page."""
    columns = min(COLUMNS, len(setting.tables))
    lines = -(-len(setting.tables) // columns)
    figure = Figure(figsize=(5.6 if columns == 1 else 9.0, 0.8 + lines * panel_height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=True).flatten().tolist()
    for panel, table in zip(panels, setting.tables, strict=False):
        panel.set_title(_model_name(table))
    for empty in panels[len(setting.tables) :]:
        empty.remove()
    for lowest in panels[max(0, len(setting.tables) - columns) : len(setting.tables)]:
        lowest.tick_params(labelbottom=True)
    return figure, panels[: len(setting.tables)]


def _value(
    panel: Any, row: Row, style: Style, place: float, limits: Limits, *, across: bool = False, interval: bool = True
) -> None:
    """Seeds, mean and interval of a row at *place*: upwards, or *across* where the score axis is the horizontal one."""

    def plot(places: Sequence[float], values: Sequence[float], **look: Any) -> None:
        panel.plot(*((values, places) if across else (places, values)), color=style.colour, **look)

    if row.score is None:
        return
    if interval and row.score.low is not None and row.score.high is not None:
        low, high = max(row.score.low, limits[0]), min(row.score.high, limits[1])
        plot([place, place], [low, high], linewidth=1.4, alpha=0.5, solid_capstyle="butt")
        if row.score.low < limits[0]:
            plot([place], [limits[0]], marker=CARETLEFT if across else CARETDOWN, markersize=5, clip_on=False)
        if row.score.high > limits[1]:
            plot([place], [limits[1]], marker=CARETRIGHT if across else CARETUP, markersize=5, clip_on=False)
    seeds = [score.value for score in row.scores]
    # Beside the interval, where neither it nor the mean covers them.
    shift = ScaledTranslation(0 if across else 6 / 72, -6 / 72 if across else 0, panel.figure.dpi_scale_trans)
    beside = panel.transData + shift
    plot([place] * len(seeds), seeds, linestyle="none", marker="o", markersize=3.2, markeredgewidth=0, transform=beside)
    look = {"markersize": 7.5, "markeredgecolor": "white", "markeredgewidth": 0.9, "zorder": 3}
    plot([place], [row.score.mean], linestyle="none", marker=style.marker, **look)


def _failed(panel: Any, row: Row, line: int) -> None:
    """Say on a method's line how many of its runs ended otherwise."""
    ended = [f"{number} {status.replace('_', ' ')}" for status, number in row.statuses.items() if status != "ok"]
    if ended:
        text = f"{', '.join(ended)} of {len(row.run_ids)}"
        place, side = (0.99, "right") if row.score is not None else (0.5, "center")
        lift = -0.28 if row.score is not None else 0.0
        panel.text(
            place, line + lift, text, transform=panel.get_yaxis_transform(), ha=side, va="center", fontsize=7.5,
            color="#595959", style="italic",
        )  # fmt: skip


def _legend(
    figure: Figure, setting: Setting, styles: Mapping[str, Style], *, lines_for_reference: bool = False
) -> None:
    """One legend below all panels, where it covers nothing."""
    references = {row.label for row in setting.rows if row.reference}
    handles, labels = [], []
    scored = {row.label for row in setting.rows if row.score is not None}
    for label in sorted(scored, key=lambda name: (name not in references, natural(name))):
        style = styles[label]
        if lines_for_reference and label in references:
            handles.append(Line2D([], [], color=style.colour, linewidth=1.2, linestyle=(0, (4, 2))))
        else:
            handles.append(Line2D([], [], color=style.colour, linestyle="none", marker=style.marker, markersize=7))
        labels.append(_short(label, 28) + (" (reference)" if label in references else ""))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)


def _adapter(row: Row) -> int | None:
    return row.parameters.adapter if row.parameters is not None else None


def _budget_band(panel: Any, setting: Setting) -> None:
    """The span of adapter parameters that keeps the budget."""
    target, tolerance = setting.target, setting.budget.tolerance if setting.budget is not None else 0.0
    if target is not None:
        panel.axvspan(target * (1 - tolerance), target * (1 + tolerance), color="#000000", alpha=0.06, linewidth=0)


def _score_limits(rows: Iterable[Row]) -> Limits:
    values: list[float] = []
    for row in rows:
        values += [score.value for score in row.scores]
        if row.score is not None and row.score.n > 2 and row.score.low is not None and row.score.high is not None:
            values += [row.score.low, row.score.high]
    return _padded(min(values), max(values), share=0.1)


def _padded(low: float, high: float, share: float) -> Limits:
    span = (high - low) or abs(high) * 0.1 or 1.0
    return low - share * span, high + share * span


def _log_limits(counts: Sequence[int], setting: Setting) -> Limits:
    """Limits around the counts and the target, at least a factor of 5 apart so that equal counts look equal."""
    values = [*counts, *([setting.target] if setting.target is not None else [])]
    low, high = min(values) / 1.5, max(values) * 1.5
    widen = max(1.0, (5 / (high / low)) ** 0.5)
    return low / widen, high * widen


def _side_by_side(counts: Sequence[int], limits: Limits) -> list[float]:
    """Places on a logarithmic axis for counts that would cover each other: moved apart around their common middle."""
    from math import log10

    span = log10(limits[1] / limits[0])
    order = sorted(range(len(counts)), key=lambda index: (counts[index], index))
    clusters: list[list[int]] = []
    for index in order:
        near = clusters and log10(counts[index] / counts[clusters[-1][-1]]) < CROWDED * span
        if near:
            clusters[-1].append(index)
        else:
            clusters.append([index])
    places = [0.0] * len(counts)
    for cluster in clusters:
        middle = sum(log10(counts[index]) for index in cluster) / len(cluster)
        for position, index in enumerate(cluster):
            shift = (position - (len(cluster) - 1) / 2) * CROWDED * span
            places[index] = 10 ** (middle + shift)
    return places


def _x_label(panels: Sequence[Any], text: str) -> None:
    for panel in panels:
        if panel.xaxis.get_tick_params()["labelbottom"]:
            panel.set_xlabel(text)


def _log_ticks(panel: Any, formatter: FuncFormatter) -> None:
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(formatter)


def _short_count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _score_name(setting: Setting) -> str:
    task = setting.spec.task
    better = " (lower is better)" if task.higher_is_better is False else ""
    where = f"on the {setting.spec.score_on} split of" if setting.spec.score_on is not None else "on"
    return f"{_short(task.metric or 'score', 40)} {where} {_short(task.name, 40)}{better}"


def _line_name(row: Row) -> str:
    return _short(row.label, 28) + (" (reference)" if row.reference else "")


def _model_name(table: ModelTable) -> str:
    return _short(table.model.shown, 36) + (f" ({table.weights})" if table.ambiguous else "")


def _short(text: str, limit: int) -> str:
    return plain(text, limit) or "?"
