"""Figures of a report: SVG, and PDF for papers, that is the same to the byte whenever it is drawn from the same records.

`plan_figures` says which figures a comparison has, what their files are called and what they show; `draw` makes one. A figure
is of one task: its settings that differ in nothing but their target for parameters share one. Each has a panel a base model,
the seeds as small points, and the mean with its 95 % interval. Intervals of few seeds are so wide that they would squeeze
everything else: they stretch an axis by half the span of the seeds at most, and an arrowhead shows where one leaves it.

Nothing here touches pyplot or the user's matplotlib settings. Text stays text, to be read aloud, searched and selected.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_bench.report.figures.curves import losses_of, timed_line
from lora_bench.report.figures.plan import FigurePlan, Form, Kind, Style, costs_of
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, model_key
from lora_bench.report.model.rows import grouped
from lora_bench.report.model.sweeps import Sweep, over_targets, sweeps
from lora_bench.report.text import natural, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's blue, vermilion and green, and three that keep apart from them and from grey for colour-blind readers
# too, all with a contrast of 3 to 1 on white. `html.DARK` has another of each for dark pages, found in the same way.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#993279", "#6C5828", "#8C87B8")
MARKERS = ("s", "^", "D", "v", "P", "X", "p")
NEUTRAL, EXEMPT_MARKERS = "#333333", ("o", "*", "h", "d")

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
    "pdf.fonttype": 42,  # TrueType: publishers refuse the other kind
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "lora_bench",
    "text.parse_math": False,  # a label with two dollar signs is a label
    "xtick.color": "#404040",
    "ytick.color": "#404040",
}

# More methods have no room in a legend, and no colours that can be told apart.
MOST_METHODS = 14


def plan_figures(comparison: Comparison) -> list[FigurePlan]:
    """Return the figures that the data can fill, in the order of the report."""
    plans = []
    stems: set[str] = set()
    for settings in over_targets(comparison):
        stem = _stem(plain(settings[0].spec.task.name, 40), stems)
        plan = FigurePlan(
            kind="trade_offs",
            settings=tuple(settings),
            tables=_over_targets_by_model(settings),
            costs=tuple(costs_of(settings, comparison.environments)),
            styles=styles(comparison),
            file=stem,
        )
        plans += [replace(plan, kind=kind, file=f"{stem}-{kind.replace('_', '-')}.svg") for kind in _kinds(plan)]
    return [*plans, *_over_sweeps(comparison, stems)]


def _over_sweeps(comparison: Comparison, stems: set[str]) -> list[FigurePlan]:
    """Return a figure for each task and number that methods were run over; one of a search is there already."""
    plans = []
    of_search = {setting.spec.task.name for setting in comparison.results if setting.search}
    for (task, axis), group in itertools.groupby(sweeps(comparison), key=lambda sweep: sweep.subject):
        found = tuple(group)
        names = list(dict.fromkeys(line.name for sweep in found for line in sweep.lines))
        if len(names) > MOST_METHODS or (found[0].kind == "learning_rate" and task in of_search):
            continue
        stem = _stem(f"{plain(task, 40)}-over-{plain(axis, 40)}", stems)
        plans.append(
            FigurePlan(
                kind="sweeps",
                settings=(found[0].setting,),
                tables=tuple(sweep.table for sweep in found),
                styles=_line_styles(found, names, styles(comparison)),
                file=f"{stem}.svg",
                sweeps=found,
            )
        )
    return plans


def _line_styles(found: Sequence[Sweep], names: Sequence[str], of_labels: Mapping[str, Style]) -> dict[str, Style]:
    """Return the looks of lines: those of their methods where every line is of one method and named as it is."""
    if all(line.name == line.label for sweep in found for line in sweep.lines):
        return {name: of_labels[name] for name in names}
    looks = zip(names, itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return {name: Style(colour, marker) for name, colour, marker in looks}


def _stem(name: str, stems: set[str]) -> str:
    """Return the first part of a file's name, unlike all of *stems*, which it joins."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "task"
    numbered = (slug if number == 1 else f"{slug}-{number}" for number in itertools.count(1))
    stem = next(name for name in numbered if name not in stems)
    stems.add(stem)
    return stem


def left_out(comparison: Comparison) -> str | None:
    """Return a sentence on the figures that a report leaves out since its methods are too many, or None."""
    if all(_readable(settings) for settings in over_targets(comparison)):
        return None
    return f"Figures with a legend are left out where there are more than {MOST_METHODS} methods."


def _readable(settings: Sequence[Setting]) -> bool:
    return len({row.label for setting in settings for row in setting.rows}) <= MOST_METHODS


def _kinds(plan: FigurePlan) -> list[Kind]:
    if not _readable(plan.settings):
        return []
    if plan.settings[0].search:
        return ["learning_rates"] if any(row.score is not None for row in plan.rows) else []
    kinds: list[Kind] = ["trade_offs"] if plan.costs else []
    if any(len(losses_of(run.curve)) > 1 for run in plan.runs):
        kinds.append("learning_curves")
    if not plan.settings[0].trials and any(map(timed_line, plan.runs)):
        kinds.append("over_time")
    return kinds


def _over_targets_by_model(settings: Sequence[Setting]) -> tuple[ModelTable, ...]:
    """Return the rows of each base model over several targets, a method's together; those exempt, which stand at each, once."""
    found = grouped((table for setting in settings for table in setting.tables), lambda table: model_key(table.model))
    merged = []
    for _, tables in sorted(found.items()):
        rows = {row.run_ids: row for table in tables for row in table.rows}
        ordered = sorted(rows.values(), key=lambda row: (not row.exempt, natural(row.label)))
        ambiguous = any(table.ambiguous for table in tables)
        merged.append(ModelTable(model=tables[0].model, ambiguous=ambiguous, rows=tuple(ordered)))
    return tuple(merged)


def draw(plan: FigurePlan, form: Form = "svg") -> bytes:
    """Return the figure."""
    with settings():
        return to_bytes(make_figure(plan), form, f"{plain(plan.settings[0].spec.task.name, 60)}: {plan.caption}")


def to_bytes(figure: "Figure", form: Form, title: str) -> bytes:
    """Return a figure that was made under `settings`: the same to the byte whenever it is drawn."""
    buffer = io.BytesIO()
    # Date and creator would change from day to day and from version to version.
    of_svg, of_pdf = ("Date", "Creator", "Format", "Type"), ("CreationDate", "Creator", "Producer")
    nothing = dict.fromkeys(of_svg if form == "svg" else of_pdf)
    figure.savefig(buffer, format=form, metadata={"Title": title, **nothing})
    if form == "pdf":
        return buffer.getvalue()
    # matplotlib ends some lines of paths with a space, which tools that tidy a repository would take away.
    return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"


def make_figure(plan: FigurePlan) -> "Figure":
    """Return the figure, to be drawn under this module's settings."""
    from lora_bench.report.figures import learning_curves, panels, sweep_panels, trade_offs

    paint = {
        "trade_offs": trade_offs.trade_offs,
        "learning_curves": learning_curves.learning_curves,
        "over_time": learning_curves.over_time,
        "learning_rates": panels.learning_rates,
        "sweeps": sweep_panels.sweep_panels,
    }
    return paint[plan.kind](plan)


def styles(comparison: Comparison) -> dict[str, Style]:
    """Colour and marker of each method label; the same in every figure of a comparison."""
    rows = [row for setting in comparison.settings for row in setting.rows]
    exempt = sorted({row.label for row in rows if row.exempt}, key=natural)
    labels = sorted({row.label for row in rows}.difference(exempt), key=natural)
    looks = zip(labels, itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    of_exempt = zip(exempt, itertools.cycle(EXEMPT_MARKERS), strict=False)
    return {
        **{label: Style(colour, marker) for label, colour, marker in looks},
        **{label: Style(NEUTRAL, marker) for label, marker in of_exempt},
    }


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib with our settings on top of its own defaults, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The advice of a drawing library is for its programmers: a user of reports can do nothing about it.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield
