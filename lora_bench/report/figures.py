"""Figures of a report: SVG that is the same to the byte whenever it is drawn from the same records.

`plan_figures` says which figures a comparison has, what their files are called and what they show; `draw` makes one.
Each has a panel a base model on a shared score axis, the seeds as small points, and the mean with its 95 % interval.
Intervals of two seeds are so wide that they would squeeze everything else: they do not stretch the axis, and an
arrowhead shows where one leaves the panel.

Nothing here touches pyplot or the user's matplotlib settings. Text stays text, to be read aloud, searched and selected.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_bench.report.comparison import Comparison, Setting
from lora_bench.report.text import natural, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["scores", "parameters", "memory", "learning_rates"]

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("s", "^", "D", "v", "P", "X", "p")
REFERENCE_COLOUR, REFERENCE_MARKER = "#333333", "o"

SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8c8c8c",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.facecolor": "white",  # a panel of its own, readable on a dark page too
    "font.family": ["DejaVu Sans", "sans-serif"],  # the first is matplotlib's own: the layout needs no other
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "lora_bench",
    "text.parse_math": False,  # a label with two dollar signs is a label
    "xtick.color": "#404040",
    "ytick.color": "#404040",
}


@dataclass(frozen=True)
class FigurePlan:
    """One figure: what it shows, of which setting, and the name of its file."""

    kind: Kind
    setting: Setting
    file: str
    caption: str


@dataclass(frozen=True)
class Style:
    """How a method looks in every panel."""

    colour: str
    marker: str


def plan_figures(comparison: Comparison) -> list[FigurePlan]:
    """The figures that the data can fill, in the order of the report."""
    plans = []
    stems: set[str] = set()
    for setting in comparison.settings:
        slug = re.sub(r"[^a-z0-9]+", "-", plain(setting.spec.task.name, 40).lower()).strip("-") or "task"
        numbered = (slug if number == 1 else f"{slug}-{number}" for number in itertools.count(1))
        stem = next(name for name in numbered if name not in stems)
        stems.add(stem)
        for kind in _kinds(setting):
            plans.append(FigurePlan(kind, setting, f"{stem}-{kind.replace('_', '-')}.svg", _CAPTIONS[kind]))
    return plans


_LEAVES = "An arrowhead is an interval that leaves the panel."

_CAPTIONS: dict[Kind, str] = {
    "scores": f"Seeds (small points), their mean and its 95 % interval for each method. {_LEAVES}",
    "parameters": "Score against adapter parameters, without the head. The dashed line is the mean of the reference, "
    f"the grey band the budget. Methods with about the same count are set side by side around it. {_LEAVES}",
    "memory": f"Score against the peak memory of training. {_LEAVES}",
    "learning_rates": "Score against the learning rate: seeds as small points, lines through the means.",
}


def _kinds(setting: Setting) -> list[Kind]:
    scored = [row for row in setting.rows if row.score is not None]
    if not scored:
        return []
    if setting.search:
        return ["learning_rates"]
    kinds: list[Kind] = ["scores"]
    if any(row.parameters is not None and row.parameters.adapter is not None and not row.reference for row in scored):
        kinds.append("parameters")
    if any(row.train_peak_bytes is not None for row in scored):
        kinds.append("memory")
    return kinds


def draw(plan: FigurePlan) -> bytes:
    """The figure as SVG."""
    with _settings():
        figure = make_figure(plan)
        buffer = io.BytesIO()
        # Date and creator would change from day to day and from version to version.
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        title = f"{plain(plan.setting.spec.task.name, 60)}: {plan.caption}"
        figure.savefig(buffer, format="svg", metadata={"Title": title, **nothing})
    # matplotlib ends some lines of paths with a space, which tools that tidy a repository would take away.
    return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"


def make_figure(plan: FigurePlan) -> Figure:
    """The figure, to be drawn under this module's settings."""
    from lora_bench.report import panels

    paint = {
        "scores": panels.scores,
        "parameters": panels.parameters,
        "memory": panels.memory,
        "learning_rates": panels.learning_rates,
    }
    return paint[plan.kind](plan.setting, styles(plan.setting))


def styles(setting: Setting) -> dict[str, Style]:
    """Colour and marker of each method label; the same in every panel and figure of a setting."""
    labels = sorted({row.label for row in setting.rows if not row.reference}, key=natural)
    reference = {row.label: Style(REFERENCE_COLOUR, REFERENCE_MARKER) for row in setting.rows if row.reference}
    looks = zip(labels, itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return {**{label: Style(colour, marker) for label, colour, marker in looks}, **reference}


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib with our settings on top of its own defaults, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The viewer's font has the glyph even where the one that measures does not.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield
