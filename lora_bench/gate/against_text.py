"""An answer on two sets of runs as Markdown, short enough for a comment on a pull request."""

from collections.abc import Sequence

from lora_bench.gate.against import Against
from lora_bench.gate.gate_summary import STATUS_SAID, headline, named
from lora_bench.gate.night_answer import SAID, SeriesAnswer
from lora_bench.report.sections.compare_runs import Pair
from lora_bench.report.text import MISSING, change, code, difference, fenced, inert, listed, plain, score, table

COLUMNS = ("cell", "answer", "before", "now", "difference", "95 % interval", "step time", "peak memory")
# Characters of the picture's scale, an odd number so that 0 has one.
WIDTH = 41
MOST_ROWS = 60
MOST_CHANGES = 20


def comment_lines(against: Against, commands: Sequence[str]) -> list[str]:
    """Render an answer: verdict, picture, table, what was found, what else changed, and the commands to run next."""
    answer = against.answer
    first = answer.series[:MOST_ROWS]
    lines = [f"## {SAID[answer.verdict].capitalize()}: fine-tuning in {inert(answer.suite)}", ""]
    lines += [f"{inert(headline(answer))}.", "", f"Plan: {answer.plan}.", ""]
    drawn = [(series, against.pairs[series.series]) for series in first if series.series in against.pairs]
    if picture := _picture(drawn):
        lines += ["```text", *picture, "```", ""]
    lines += table(COLUMNS, [_row(series, against.pairs.get(series.series)) for series in first], numbers_from=2)
    if len(first) < len(answer.series):
        lines += ["", f"{len(answer.series) - len(first)} more, with nothing worse than these."]
    texts = [(named(series), finding.text) for series in first for finding in series.findings]
    if texts:
        lines += ["", "What was found:", "", *(f"- {inert(name)}: {inert(text, 600)}" for name, text in texts)]
    lines += ["", "What else differs:", "", *_differs(against)]
    return [*lines, "", "Next:", "", *fenced(commands)]


def _row(series: SeriesAnswer, pair: Pair | None) -> list[str]:
    interval = None if pair is None else pair.verdict.interval
    return [
        inert(named(series)),
        STATUS_SAID[series.status],
        score(series.expected),
        score(series.observed),
        MISSING if pair is None else difference(pair.verdict.difference),
        MISSING if interval is None else f"{difference(interval.low)} to {difference(interval.high)}",
        MISSING if pair is None else change(pair.first.step_seconds, pair.second.step_seconds),
        MISSING if pair is None else change(pair.first.train_peak_bytes, pair.second.train_peak_bytes),
    ]


def _picture(drawn: Sequence[tuple[SeriesAnswer, Pair]]) -> list[str]:
    """Draw each difference with its interval; `|` is no difference, `:` the margin on either side."""
    reach = [abs(pair.verdict.difference) for _, pair in drawn]
    reach += [abs(end) for _, pair in drawn if (held := pair.verdict.interval) for end in (held.low, held.high)]
    reach += [pair.verdict.margin for _, pair in drawn if pair.verdict.margin is not None]
    most = max(reach, default=0.0)
    if not most:
        return []

    def place(value: float) -> int:
        return round((value / most + 1) / 2 * (WIDTH - 1))

    # No fence of a name's own ends the block.
    names = [plain(named(series), 60).replace("`", "'") for series, _ in drawn]
    width = max(map(len, names))
    lines = []
    for name, (series, pair) in zip(names, drawn, strict=True):
        bar = [" "] * WIDTH
        if (held := pair.verdict.interval) is not None:
            bar[place(held.low) : place(held.high) + 1] = "─" * (place(held.high) - place(held.low) + 1)
        margin = pair.verdict.margin
        for value in (0.0, *(() if margin is None else (-margin, margin))):
            bar[place(value)] = "|" if value == 0 else ":"
        bar[place(pair.verdict.difference)] = "●"
        lines.append(f"{name.ljust(width)}  {''.join(bar)}  {STATUS_SAID[series.status]}")
    scale = f"{-most:+.3g}".ljust(WIDTH // 2) + "0" + f"{most:+.3g}".rjust(WIDTH // 2)
    return [*lines, f"{''.ljust(width)}  {scale}".rstrip()]


def _differs(against: Against) -> list[str]:
    answer = against.answer
    specs = sorted({name for pair in against.pairs.values() for name in pair.differs})
    lines = [f"- Settings: {listed([code(name) for name in specs])}."] if specs else []
    lines += [
        f"- {inert(change.what)}: {code(change.before or 'none')} → {code(change.after or 'none')}"
        for change in answer.environment_changes[:MOST_CHANGES]
    ]
    if (more := len(answer.environment_changes) - MOST_CHANGES) > 0:
        lines.append(f"- {more} more changes of the environment.")
    return lines or ["- Nothing in settings, packages or machine."]
