"""Render an answer: Markdown for a step summary, worst first and within GitHub's limit, and lines for a terminal."""

from collections.abc import Sequence
from itertools import chain

from lora_bench.gate.night_answer import SAID, STATUSES, Answer, SeriesAnswer, Status
from lora_bench.report.text import MISSING, code, fenced, inert, plain, plural, score, table

# GitHub refuses a step summary of more than 1 MiB, whole.
MAX_BYTES = 1_000_000

STATUS_SAID: dict[Status, str] = {**{status: status for status in STATUSES}, "undecided": "cannot decide"}
COLUMNS = ("series", "status", "tonight", "expected", "bound", "margin", "nights")


def named(series: SeriesAnswer) -> str:
    """Return the name of a series as one line of plain text."""
    return plain(" · ".join(series.name.words))


def headline(answer: Answer) -> str:
    """Return the answer as one sentence of plain text."""
    nights = plural(answer.nights, "accepted night")
    # A night without any before it has no last one; what is held against other runs has.
    other = answer.last is not None and answer.nights == 0
    against = answer.baseline if other else f"{nights} of {answer.baseline}"
    numbers = ((len(answer.of_status(status)), STATUS_SAID[status]) for status in STATUSES)
    counted = ", ".join(f"{number} {status}" for number, status in numbers if number) or "no series"
    return plain(f"{SAID[answer.verdict]}: {answer.label} of {answer.suite} against {against} ({counted})")


def terminal_lines(answer: Answer) -> list[str]:
    """List for a terminal every series with findings, and the commands that reproduce regressions and failures."""
    lines = []
    for series in answer.series:
        if not series.findings:
            continue
        lines.append(f"{STATUS_SAID[series.status]}: {named(series)} [{series.series}]")
        lines += [f"    {plain(finding.text, 600)}" for finding in series.findings]
        if series.status in ("regression", "failed"):
            lines += [f"    again: {plain(command)}" for command in series.commands]
    lines += [plain(f"changed since {answer.last}: {change}") for change in answer.environment_changes]
    if answer.plan is not None:
        lines.append(answer.plan)
    return [*lines, headline(answer)]


def summary_lines(answer: Answer, limit: int = MAX_BYTES) -> list[str]:
    """Render the answer as Markdown of at most *limit* bytes; series that do not fit are counted, not shown."""
    changes = _changes(answer)
    head = [f"# {inert(answer.baseline)}: {SAID[answer.verdict]}", "", f"{inert(headline(answer))}.", "", *changes]
    header = table(COLUMNS, [], numbers_from=2)
    details = {series.series: _details(series) for series in answer.series if series.findings}
    rows = [table(COLUMNS, [_row(series)], numbers_from=2)[-1:] for series in answer.series]
    rows, room = _fitting(rows, limit - _bytes([*head, *header]) - 1_000)  # room for the line on the rest
    sections, _ = _fitting([details.get(series.series, []) for series in answer.series[: len(rows)]], room)
    told = sum(map(bool, sections))
    rest = []
    if len(rows) < len(answer.series):
        rest.append(f"{len(answer.series) - len(rows):,} of {len(answer.series):,} series are not shown.")
    if told < len(details):
        rest.append(f"What was found is not shown for {len(details) - told:,} of {len(details):,} series.")
    left_out = ["", " ".join(rest)] if rest else []
    return [*head, *header, *chain(*rows), *left_out, *chain(*sections)]


def _fitting(parts: Sequence[list[str]], room: int) -> tuple[list[list[str]], int]:
    """Return the first parts that fit into so many bytes, and the bytes that are left."""
    taken = []
    for part in parts:
        if _bytes(part) > room:
            break
        room -= _bytes(part)
        taken.append(part)
    return taken, room


def _bytes(lines: Sequence[str]) -> int:
    return sum(len(line.encode("utf-8")) + 1 for line in lines)


def _row(series: SeriesAnswer) -> list[str]:
    bound = series.worst
    if series.observed is not None and series.expected is not None and series.observed != series.expected:
        # On the side to which tonight moved.
        bound = series.best if (series.observed > series.expected) == series.higher_is_better else series.worst
    return [
        inert(named(series)),
        STATUS_SAID[series.status],
        score(series.observed),
        score(series.expected),
        score(bound),
        MISSING if series.margin is None else f"{series.margin:.3g}",
        str(len(series.history)),
    ]


def _details(series: SeriesAnswer) -> list[str]:
    lines = ["", f"## {STATUS_SAID[series.status]}: {inert(named(series))}", "", f"Series {code(series.series)}."]
    if series.scores:
        lines[-1] += f" Tonight's seeds: {', '.join(map(score, series.scores))}."
    if series.confirmation:
        lines[-1] += f" New seeds: {', '.join(map(score, series.confirmation))}."
    lines += ["", *(f"- {inert(finding.text, 600)}" for finding in series.findings)]
    if series.commands and series.status in ("regression", "failed", "undecided"):
        lines += ["", "Again:", "", *fenced(series.commands)]
    return lines


def _changes(answer: Answer) -> list[str]:
    header = ("environment", inert(answer.last or ""), inert(answer.label))
    rows = [
        [inert(change.what), code(change.before or "none"), code(change.after or "none")]
        for change in answer.environment_changes[:200]
    ]
    return [*table(header, rows, numbers_from=3), ""] if rows else []
