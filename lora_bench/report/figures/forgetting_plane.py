"""The plane of learning and forgetting: scores against what was lost.

Imported only when one is drawn, since it needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.lines import Line2D

from lora_bench.report.figures.draw import settings, to_svg
from lora_bench.report.figures.panels import (
    DASHES,
    PHONE_INCHES,
    QUIET,
    Limits,
    draw_value,
    label_below,
    label_side,
    make_panels,
    mark,
    method_name,
    padded,
    score_limits,
)
from lora_bench.report.figures.plan import Style
from lora_bench.report.model.rows import Row
from lora_bench.report.text import natural, plain

HEIGHT = 3.0


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A plane to draw.

    Args:
        rows: Rows with a score and with what they lost.
        title: Name of the base model.
        below: Name of the horizontal axis.
        side: Name of the vertical axis.
    """

    rows: Sequence[Row]
    title: str
    below: str
    side: str


def draw_plane(plane: Plane, styles: Mapping[str, Style], *, title: str) -> bytes:
    """Return the plane as SVG."""
    with settings():
        figure, (panel,) = make_panels([plain(plane.title, 60)], height=HEIGHT)
        upright, across = score_limits(plane.rows), _across(plane.rows)
        panel.set_ylim(upright)
        panel.set_xlim(across)
        panel.axvline(0, color=QUIET, linewidth=1.0, linestyle=DASHES)
        for row in plane.rows:
            assert row.forgetting is not None and row.score is not None
            lost, look = row.forgetting.lost, styles[row.label]
            if lost.interval is not None:
                ends = [max(lost.interval.low, across[0]), min(lost.interval.high, across[1])]
                panel.plot(ends, [row.score.mean] * 2, color=look.colour, linewidth=1.4, alpha=0.5)
            if lost.n > 1:
                places, scores = zip(*row.forgetting.each, strict=True)
                panel.plot(
                    places, scores, color=look.colour, linestyle="none", marker="o", markersize=3.2, markeredgewidth=0
                )
            # Its seeds stand at their own losses.
            draw_value(panel, row, look, lost.mean, upright, seeds=False)
        label_below([panel], plane.below)
        label_side(figure, plain(plane.side, 60), inches=HEIGHT)
        labels = sorted({row.label for row in plane.rows}, key=natural)
        handles = [Line2D([], [], **mark(styles[label])) for label in labels]
        names = [method_name(label) for label in labels]
        columns = max(1, min(4, int(PHONE_INCHES / (0.5 + 0.065 * max(map(len, names))))))
        figure.legend(handles, names, loc="outside lower left", ncols=columns, frameon=False)
        return to_svg(figure, title)


def _across(rows: Sequence[Row]) -> Limits:
    """Limits around all runs and 0, and around intervals as far as they reach half the span of the runs further out."""
    found = [row.forgetting for row in rows if row.forgetting is not None]
    runs = [0.0, *(lost for one in found for lost, _ in one.each)]
    low, high = min(runs), max(runs)
    room = (high - low) / 2
    ends = [
        end for one in found if one.lost.interval is not None for end in (one.lost.interval.low, one.lost.interval.high)
    ]
    return padded(max(min([low, *ends]), low - room), min(max([high, *ends]), high + room), share=0.06)
