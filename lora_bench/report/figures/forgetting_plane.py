"""The plane of learning and forgetting: scores against what was lost.

Imported only when one is drawn, since it needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.lines import Line2D

from lora_bench.report.figures import panels as parts
from lora_bench.report.figures.draw import settings, to_svg
from lora_bench.report.figures.plan import Style, stretched
from lora_bench.report.model.rows import Row
from lora_bench.report.text import natural, plain

HEIGHT = 3.0


def draw_plane(
    rows: Sequence[Row], styles: Mapping[str, Style], *, name: str, below: str, side: str, title: str
) -> bytes:
    """Return the plane of rows with a score and with what they lost as SVG; its panel has a *name* and two axes."""
    with settings():
        figure, (panel,) = parts.make_panels([plain(name, 60)], height=HEIGHT)
        upright, across = parts.score_limits(rows), _across(rows)
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
                panel.plot(
                    places, scores, color=look.colour, linestyle="none", marker="o", markersize=3.2, markeredgewidth=0
                )
            # Its seeds stand at their own losses.
            parts.draw_value(panel, row, look, lost.mean, upright, seeds=False)
        parts.label_below([panel], below)
        parts.label_side(figure, plain(side, 60), inches=HEIGHT)
        labels = sorted({row.label for row in rows}, key=natural)
        handles = [Line2D([], [], **parts.mark(styles[label])) for label in labels]
        parts.legend_below(figure, handles, [parts.method_name(label) for label in labels])
        return to_svg(figure, title)


def _across(rows: Sequence[Row]) -> parts.Limits:
    """Limits around all runs and 0, and around intervals as far as they reach half the span of the runs further out."""
    found = [row.forgetting for row in rows if row.forgetting is not None]
    runs = [0.0, *(lost for one in found for lost, _ in one.each)]
    return parts.padded(*stretched(runs, (one.lost.interval for one in found)), share=0.06)
