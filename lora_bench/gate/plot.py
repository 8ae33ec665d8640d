"""Figure of the course of a series: accepted nights, tonight, and its bounds."""

from lora_bench.gate.gate_summary import STATUS_SAID, named
from lora_bench.gate.night_answer import Answer, SeriesAnswer
from lora_bench.report.figures.draw import COLOURS, NEUTRAL, settings, to_bytes
from lora_bench.report.text import plain

BLUE, RED, GREEN = COLOURS[:3]
MOST_LABELS = 12


def plots(answer: Answer) -> dict[str, bytes]:
    """Draw an SVG for every series with scores, by file name; the same answer gives the same bytes."""
    drawn = (series for series in answer.series if series.observed is not None or series.history)
    return {f"{series.series}.svg": draw(series, answer.label) for series in drawn}


def draw(series: SeriesAnswer, label: str) -> bytes:
    """Draw the course of a series as SVG."""
    from matplotlib.figure import Figure

    title = f"{named(series)}: {STATUS_SAID[series.status]}"
    with settings():
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        nights = range(len(series.history))
        means = [point.mean for point in series.history]
        axes.plot(nights, means, color=BLUE, marker="o", markersize=3.5, linewidth=1.2, label="accepted nights")
        if series.expected is not None:
            axes.axhline(series.expected, color=NEUTRAL, linewidth=0.9, label="expected")
        for bound, colour, name in ((series.worst, RED, "worse beyond"), (series.best, GREEN, "better beyond")):
            if bound is not None:
                axes.axhline(bound, color=colour, linewidth=0.9, linestyle=(0, (4, 2)), label=name)
        tonight = len(means)
        axes.plot(
            [tonight] * len(series.scores), series.scores, color=RED, marker="_", linestyle="none", label="its seeds"
        )
        if series.observed is not None:
            axes.plot(
                [tonight], [series.observed], color=RED, marker="D", markersize=5, linestyle="none", label="tonight"
            )
        if series.confirmation:
            again = [tonight + 0.4] * len(series.confirmation)
            axes.plot(again, series.confirmation, color=RED, marker="x", linestyle="none", label="new seeds")
        labels = [*(point.label for point in series.history), label]
        # Counted back from tonight, so that tonight always has a label.
        places = range(len(labels) - 1, -1, -max(1, -(-len(labels) // MOST_LABELS)))
        axes.set_xticks(
            list(places), [plain(labels[place], 24) for place in places], rotation=45, ha="right", fontsize=7
        )
        axes.set_xlim(-0.5, tonight + 0.9)
        axes.set_ylabel(plain(series.name.metric, 40))
        axes.set_title(plain(title, 90), loc="left")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=7)
        return to_bytes(figure, "svg", title)
