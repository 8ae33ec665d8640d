"""Figures of sections: heat maps, with the number in each cell, and the plane of learning and forgetting.

Imported only when one is drawn, since it needs matplotlib.
"""

import math
from collections.abc import Mapping, Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D

from lora_bench.report.figures import panels as parts
from lora_bench.report.figures.draw import settings, to_bytes
from lora_bench.report.figures.plan import Form, HeatMap, Style, padded, stretched
from lora_bench.report.model.rows import Row
from lora_bench.report.text import natural, plain

# None is a colour that a page changes on a dark ground, so a cell and its number keep their contrast.
_COLOURS = LinearSegmentedColormap.from_list("lora_bench", ["#f3f6fa", "#7fb3d5", "#004a78"])
_DARK_TEXT, _LIGHT_TEXT = "#010101", "#fefefe"
PLANE_HEIGHT = 3.0


def draw_heat_maps(
    maps: Sequence[HeatMap], form: Form, *, title: str, side: str, below: str, most: float, digits: int
) -> bytes:
    """Return a figure of heat maps, at least one; *most* is the value of the darkest colour, above 0."""
    with settings():
        height = 0.55 + 0.19 * max(len(one.rows) for one in maps)
        figure, panels = parts.make_panels([plain(one.title, 60) for one in maps], height=height)
        for panel, one in zip(panels, maps, strict=True):
            shades = [[math.nan if value is None else value / most for value in values] for values in one.values]
            panel.pcolormesh(shades, cmap=_COLOURS, vmin=0, vmax=1, linewidth=0)
            for row, values in enumerate(one.values):
                for column, value in enumerate(values):
                    if value is None:
                        continue
                    said = f"{value:.{digits}f}".removeprefix("0") if most <= 1 else f"{value:.{digits}f}"
                    ink = _LIGHT_TEXT if value > 0.6 * most else _DARK_TEXT
                    panel.text(column + 0.5, row + 0.5, said, ha="center", va="center", fontsize=6, color=ink)
            panel.set_xlim(0, len(one.columns))
            panel.set_ylim(len(one.rows), 0)
            panel.set_xticks([index + 0.5 for index in range(len(one.columns))], one.columns, fontsize=7)
            panel.set_yticks([index + 0.5 for index in range(len(one.rows))], one.rows, fontsize=7)
            panel.tick_params(length=0, labelleft=True, labelbottom=True)
            panel.grid(visible=False)
        parts.label_below(panels, below)
        parts.label_side(figure, side, inches=height)
        return to_bytes(figure, form, title)


def draw_plane(
    rows: Sequence[Row], styles: Mapping[str, Style], form: Form, *, name: str, below: str, side: str, title: str
) -> bytes:
    """Return the plane of rows with a score and with what they lost; its panel has a *name* and two axes."""
    with settings():
        figure, (panel,) = parts.make_panels([plain(name, 60)], height=PLANE_HEIGHT)
        upright = parts.score_limits(rows)
        # Around all runs and 0, and around intervals as far as they reach half the span of the runs further out.
        found = [row.forgetting for row in rows if row.forgetting is not None]
        runs = [0.0, *(lost for one in found for lost, _ in one.each)]
        across = padded(*stretched(runs, (one.lost.interval for one in found)), share=0.06)
        panel.set_ylim(upright)
        panel.set_xlim(across)
        panel.axvline(0, color=parts.QUIET, linewidth=1.0, linestyle=parts.DASHES)
        for row in rows:
            assert row.forgetting is not None and row.score is not None
            lost, look = row.forgetting.lost, styles[row.label]
            if lost.interval is not None:
                ends = [max(lost.interval.low, across[0]), min(lost.interval.high, across[1])]
                panel.plot(ends, [row.score.mean] * 2, color=look.colour, linewidth=1.4, alpha=0.5)
            if lost.n > 1:
                places, scores = zip(*row.forgetting.each, strict=True)
                panel.plot(places, scores, color=look.colour, **parts.SEEDS)
            # Its seeds stand at their own losses.
            parts.draw_value(panel, row, look, lost.mean, upright, seeds=False)
        parts.label_below([panel], below)
        parts.label_side(figure, plain(side, 60), inches=PLANE_HEIGHT)
        labels = sorted({row.label for row in rows}, key=natural)
        entries = [(Line2D([], [], **parts.mark(styles[label])), parts.method_name(label)) for label in labels]
        parts.legend_below(figure, entries)
        return to_bytes(figure, form, title)
