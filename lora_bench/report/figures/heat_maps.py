"""Heat maps: a panel a matrix, with the number in each cell. Imported only when one is drawn, since it needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.colors import LinearSegmentedColormap

from lora_bench.report.figures import panels as parts
from lora_bench.report.figures.draw import settings, to_svg
from lora_bench.report.figures.plan import HeatMap
from lora_bench.report.text import plain

# None is a colour that a page changes on a dark ground, so a cell and its number keep their contrast.
_COLOURS = LinearSegmentedColormap.from_list("lora_bench", ["#f3f6fa", "#7fb3d5", "#004a78"])
_DARK_TEXT, _LIGHT_TEXT = "#010101", "#fefefe"


def draw_heat_maps(maps: Sequence[HeatMap], *, title: str, side: str, below: str, most: float, digits: int) -> bytes:
    """Return a figure of heat maps, at least one, as SVG; *most* is the value of the darkest colour, above 0."""
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
        return to_svg(figure, title)
