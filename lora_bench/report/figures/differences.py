"""The picture of a report's first screen: each method's difference to the reference, with the interval its verdict rests on.

A verdict has a mark of its own, so that the picture can be read without colours. It is drawn once for a page and once for a
telephone, where names stand above their intervals. Needs matplotlib when it is drawn.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_bench.report.figures.draw import settings, to_bytes
from lora_bench.report.figures.plan import Form, padded, stretched
from lora_bench.report.model.overview import UNLESS, Contrast, unless_words
from lora_bench.report.text import amount, difference, plain, points
from lora_bench.stats.verdict import FEWEST_FOR_INTERVAL, VerdictName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Mark and colour of each verdict: the colours are those of methods, with their own for dark pages.
LOOKS: dict[VerdictName, tuple[str, str]] = {
    "better": (">", "#009E73"),
    "worse": ("<", "#D55E00"),
    "equivalent": ("s", "#0072B2"),
    "non-inferior": ("D", "#0072B2"),
    "inconclusive": ("o", "#595959"),
}

# More rows fill more than a screen.
MOST_ROWS = 60

# Characters of a method's name that fit beside the names of base models.
BESIDE = 18

# Inches.
NARROW = 3.7
ROW, NARROW_ROW, GAP, HEAD, FOOT = 0.205, 0.36, 0.1, 0.3, 0.26
LABELS, CHARACTER, WORDS, PLOT = 1.48, 0.068, 1.75, 4.2


@dataclass(frozen=True)
class _Row:
    """A line of the picture: a heading, or a comparison; no heading stands above the only one of a method."""

    name: str
    contrast: Contrast | None = None


def can_draw(contrasts: Sequence[Contrast]) -> bool:
    """Tell if the differences share one scale and fit into a picture."""
    return 0 < len(contrasts) <= MOST_ROWS and len({_scale(contrast) for contrast in contrasts}) == 1


def caption(contrasts: Sequence[Contrast]) -> str:
    """Return one line that explains how to read the picture, and only the marks that it has."""
    limits = _value_limits(contrasts)
    intervals = [(contrast.unit, one) for contrast in contrasts if (one := contrast.verdict.adjusted) is not None]
    beyond = any(unit * one.low < limits[0] or unit * one.high > limits[1] for unit, one in intervals)
    said = ["Mark: mean difference."]
    if intervals:
        said.append("Line: its interval at the level of its test (Holm); *better* and *worse* rest on it.")
    said += ["Arrowhead: it leaves the panel."] if beyond else []
    if len(margins := _margins(contrasts)) == 1:
        said.append(f"Grey: within the margin of {amount(margins.pop(), contrasts[0].shares)}.")
    said += ["Small points: seeds."] if any(_shows_seeds(contrast) for contrast in contrasts) else []
    starred = [contrast.verdict for contrast in contrasts if contrast.shown.endswith(UNLESS)]
    said += [f"*: {unless_words(starred)}."] if starred else []
    return " ".join(said)


def draw_differences(
    contrasts: Sequence[Contrast], reference: str, *, narrow: bool = False, form: Form = "svg"
) -> bytes:
    """Return the picture of comparisons, at least one and all on one scale; *narrow* is for a telephone."""
    reference = plain(reference, 40)
    with settings():
        return to_bytes(_figure(contrasts, reference, narrow), form, f"Differences to {reference}")


def _scale(contrast: Contrast) -> tuple[object, ...]:
    metric = None if contrast.shares else contrast.setting.spec.task.metric
    return contrast.shares, contrast.higher_is_better, metric


def _shows_seeds(contrast: Contrast) -> bool:
    return 1 < contrast.verdict.pairs <= FEWEST_FOR_INTERVAL  # one seed is the mean


def _figure(contrasts: Sequence[Contrast], reference: str, narrow: bool) -> "Figure":
    from matplotlib.figure import Figure

    rows = _rows(contrasts)
    above = narrow or any(len(row.name) > BESIDE for row in rows if row.contrast is None)
    places, depth = _placed(rows, NARROW_ROW if narrow else ROW, above)
    model = _only_model(contrasts)
    head = HEAD + (0.17 if model else 0)
    height = head + depth + FOOT
    plot = NARROW - 0.1 if narrow else PLOT
    beside = _names_at(rows)
    names = beside + CHARACTER * max(len(row.name) for row in rows if row.contrast is not None) + 0.15
    width = NARROW if narrow else names + plot + WORDS
    figure = Figure(figsize=(width, height))
    limits = _value_limits(contrasts)
    left = 0.05 if narrow else names
    axes = figure.add_axes((left / width, FOOT / height, plot / width, depth / height))
    _frame(axes, limits, depth, contrasts)
    for row, place in zip(rows, places, strict=True):
        if row.contrast is not None:
            _draw(axes, row.contrast, place, limits, plot, narrow)
    _names(figure, rows, places, (width, height), head, narrow)
    first = contrasts[0]
    unit = "points of 100" if first.shares else plain(first.setting.spec.task.metric or "score", 40)
    over = f", means over {first.tasks} tasks" if first.tasks > 1 else ""
    better = "" if first.higher_is_better else " (lower is better)"
    title = f"difference to {reference}, {unit}{over}{better}"
    centre = 0.02 if narrow else names / width
    for number, line in enumerate([title, *([model] if model else [])]):
        at = 1 - (0.13 + 0.17 * number) / height
        figure.text(centre, at, line, fontsize=8.5 if narrow else 9, ha="left", va="center", color="#404040")
    return figure


def _only_model(contrasts: Sequence[Contrast]) -> str | None:
    """Return the base model of all comparisons, or None where there are several."""
    names = {_model_name(contrast) for contrast in contrasts}
    return names.pop() if len(names) == 1 else None


def _model_name(contrast: Contrast) -> str:
    return plain(contrast.table.model.shown, 50) + (f" ({contrast.table.weights})" if contrast.table.ambiguous else "")


def _names_at(rows: Sequence[_Row]) -> float:
    """Return where the names of comparisons begin, in inches: at the left where no method has a heading."""
    return LABELS if any(row.contrast is None for row in rows) else 0.04


def _rows(contrasts: Sequence[Contrast]) -> list[_Row]:
    """Return a heading for each method at each of its targets, where it has several, with its base models below."""
    tasks = {contrast.setting.spec.task.name for contrast in contrasts if contrast.tasks == 1}
    targets = {contrast.setting.parameter_target for contrast in contrasts}
    numbers = {contrast.setting.distinct_examples for contrast in contrasts if contrast.tasks == 1}
    found: dict[str, dict[str, Contrast]] = {}
    for contrast in contrasts:
        target = contrast.setting.parameter_target
        held = "no target" if target is None else f"{target[1]:,} {target[0].replace('_', ' ')}"
        heading = plain(contrast.label, 40) + (f", {held}" if len(targets) > 1 else "")
        number = contrast.setting.distinct_examples
        parts = [plain(contrast.setting.spec.task.name, 24)] if len(tasks) > 1 else []
        parts += [_model_name(contrast)] if _only_model(contrasts) is None else []
        parts += [f"{number:,} rows"] if len(numbers) > 1 and number is not None else []
        own = ", ".join(parts)
        of_heading = found.setdefault(heading, {})
        # Two settings of a task may have the same target, and a row of their own each.
        names = (own if count == 1 else f"{own} ({count})".strip() for count in itertools.count(1))
        of_heading[next(name for name in names if name not in of_heading)] = contrast
    if all(name == "" for of_heading in found.values() for name in of_heading):
        return [_Row(heading, of_heading[""]) for heading, of_heading in found.items()]
    rows = []
    for heading, of_heading in found.items():
        rows += [_Row(heading), *(_Row(name, contrast) for name, contrast in of_heading.items())]
    return rows


def _placed(rows: Sequence[_Row], row_height: float, above: bool) -> tuple[list[float], float]:
    """The middle of each row in inches from the top, and the depth of all. A short heading stands beside its first row."""
    places: list[float] = []
    at = 0.0
    for number, row in enumerate(rows):
        if row.contrast is None:
            at += GAP if number else 0.03
            places.append(at + ROW / 2)
            at += ROW if above else 0.0
        else:
            places.append(at + row_height / 2)
            at += row_height
    return places, at + 0.04


def _value_limits(contrasts: Sequence[Contrast]) -> tuple[float, float]:
    """Room for every mark and the margin, and for intervals as far as they reach half that span further out."""
    values, intervals = [0.0], []
    for contrast in contrasts:
        unit, verdict, margin = contrast.unit, contrast.verdict, contrast.verdict.margin or 0.0
        values += [unit * verdict.difference, unit * margin, -unit * margin]
        values += [unit * value for value in contrast.by_seed] if _shows_seeds(contrast) else []
        if (own := verdict.adjusted) is not None:
            intervals.append(replace(own, low=unit * own.low, high=unit * own.high))
    return padded(*stretched(values, intervals), share=0.04)


def _margins(contrasts: Sequence[Contrast]) -> set[float]:
    return {contrast.verdict.margin for contrast in contrasts if contrast.verdict.margin is not None}


def _frame(axes: Any, limits: tuple[float, float], depth: float, contrasts: Sequence[Contrast]) -> None:
    """The axis of differences with the margin as a band, where it is one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(limits)
    axes.set_ylim(depth, 0)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", labelsize=8, length=2, pad=2)
    margins = _margins(contrasts)
    if len(margins) == 1:
        margin = contrasts[0].unit * margins.pop()
        axes.axvspan(-margin, margin, color="#000000", alpha=0.1, linewidth=0)
    axes.axvline(0, color="#404040", linewidth=1)


def _draw(axes: Any, contrast: Contrast, place: float, limits: tuple[float, float], plot: float, narrow: bool) -> None:
    """The interval, the seeds where they are few, the mean, and the verdict in words."""
    marker, colour = LOOKS[contrast.verdict.verdict]
    unit = contrast.unit
    level = place + 0.08 if narrow else place
    interval = contrast.verdict.adjusted
    if interval is not None:
        low, high = max(unit * interval.low, limits[0]), min(unit * interval.high, limits[1])
        width = 1.2 if _shows_seeds(contrast) else 2.2
        axes.plot([low, high], [level, level], color=colour, linewidth=width, solid_capstyle="butt")
        for end, beyond, arrow in ((low, unit * interval.low < low, 8), (high, unit * interval.high > high, 9)):
            if beyond:
                axes.plot([end], [level], marker=arrow, color=colour, markersize=5, clip_on=False)
    if _shows_seeds(contrast):
        seeds = [unit * value for value in contrast.by_seed]
        axes.plot(seeds, [level] * len(seeds), linestyle="none", marker="o", markersize=3, color=colour, alpha=0.75)
    face = "white" if contrast.verdict.verdict == "inconclusive" else colour
    axes.plot(
        [unit * contrast.verdict.difference], [level], marker=marker, markersize=6.5, color=colour,
        markerfacecolor=face, markeredgewidth=1.4, zorder=3, clip_on=False,
    )  # fmt: skip
    x, y, side = (1.0, place - 0.09, "right") if narrow else (1 + 0.1 / plot, place, "left")
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.text(
        x, y, words(contrast), transform=axes.get_yaxis_transform(), ha=side, va="center", fontsize=8.5, color="#333333",
        bbox=behind if narrow else None,
    )  # fmt: skip


def words(contrast: Contrast) -> str:
    """Return a difference and its verdict, such as "+2.1, better" or "−0.4, equivalent*"."""
    value = contrast.verdict.difference
    shown = points(value) if contrast.shares else difference(value)
    word: str = contrast.verdict.verdict
    if word == "inconclusive":
        word = f"{contrast.verdict.unless_collapse}*" if contrast.verdict.unless_collapse else "undecided"
    return f"{shown}, {word}"


def _names(
    figure: Any, rows: Sequence[_Row], places: Sequence[float], size: tuple[float, float], head: float, narrow: bool
) -> None:
    """Methods and base models at the left of the page, or above their intervals on a telephone."""
    width, height = size
    beside = _names_at(rows)
    for row, place in zip(rows, places, strict=True):
        x, y, weight, font, limit = 0.04, place, "bold", 9.0, 60
        if row.contrast is not None:
            x, y = (0.04, place - 0.09) if narrow else (beside, place)
            weight, font = "normal" if beside == LABELS else "bold", 8.5
            limit = 34 if narrow else 60
        name = row.name if len(row.name) <= limit else row.name[: limit - 1] + "…"
        figure.text(
            x / width, 1 - (head + y) / height, name, fontsize=font, fontweight=weight, va="center",
            ha="left", color="#000000",
        )  # fmt: skip
