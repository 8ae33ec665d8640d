"""Accept a night into a baseline, and show the accepted nights."""

import re
from collections.abc import Sequence

from lora_bench.errors import LoraBenchError, did_you_mean, unknown
from lora_bench.gate.exact import COUNTS
from lora_bench.gate.night_answer import Answer, Finding, SeriesAnswer, environment_changes
from lora_bench.gate.past import declared, mean_of, shown_move
from lora_bench.gate.series import ID_LENGTH, Night, NightCell, changed_conditions, with_name
from lora_bench.report.text import count, plain, plural

ALL = "all"
MOST_REASON_CHARACTERS = 500
_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")


def accepted_night(
    tonight: Night,
    nights: Sequence[Night],
    answer: Answer,
    reason: str,
    change: Sequence[str] = (),
    *,
    why: str | None = None,
    margin: float | None = None,
) -> Night:
    """Return the night in the form that a baseline stores.

    *change* has ids of the series whose change is acknowledged, or "all"; *why* acknowledges everything that changed. *margin*
    is that of scores from this night on, by default the one that the suite declares. Raise LoraBenchError if there is no
    reason, the night is accepted already, a series is not there, or a change is not acknowledged.
    """
    for text in (reason, why):
        if text is not None and not 0 < len(text.strip()) <= MOST_REASON_CHARACTERS:
            raise LoraBenchError(f"a night is accepted with a reason of at most {MOST_REASON_CHARACTERS} characters")
    if any(night.label == tonight.label for night in nights):
        raise LoraBenchError(f"{tonight.label} is accepted already")
    known = [judged.series for judged in answer.series]
    for series in change:
        if series != ALL and series not in known:
            hint = did_you_mean(series, known) or "; to say why, use more than one word"
            raise LoraBenchError(f"{tonight.label} has no series {series!r}{hint}")
    changed = [judged for judged in answer.series if open_findings(judged)]
    if why is not None:
        change = [judged.series for judged in changed]
    acknowledged = known if ALL in change else [series for series in known if series in change]
    if refused := [_said(judged) for judged in changed if judged.series not in acknowledged]:
        lines = "\n".join(f"  {line}" for line in refused)
        raise LoraBenchError(
            f"{plural(len(refused), 'change')} of {tonight.label} would become what later nights are held against:\n"
            f'{lines}\nacknowledge them with --change "why", or one by one with --change SERIES,...'
        )
    # Other rules leave the scores comparable: the history goes on.
    kept = {judged.series for judged in changed if all(finding.kind == "rules" for finding in open_findings(judged))}
    return tonight.model_copy(
        update={
            "number": max((night.number or 0 for night in nights), default=0) + 1,
            "reason": reason.strip(),
            "change": why.strip() if why is not None else None,
            "changed": tuple(_said(judged) for judged in changed),
            "acknowledged": tuple(series for series in acknowledged if series not in kept),
            "flaky": tuple(
                judged.series
                for judged in answer.series
                if any(finding.status == "flaky" for finding in judged.findings)
            ),
            "cells": tuple(declared(cell, margin) for cell in tonight.cells),
        }
    )


def series_or_why(text: str) -> tuple[tuple[str, ...], str | None]:
    """Parse `--change`: return ids of series or "all" and None, or no ids and a text that says why everything is accepted."""
    parts = tuple(part for part in re.split(r"[,\s]+", text) if part)
    if len(text.split()) == 1 or _ID.fullmatch(parts[0]):
        return parts, None
    return (), text


def open_findings(of: SeriesAnswer) -> list[Finding]:
    """Return the findings that a person must acknowledge before the night is accepted."""
    statuses = ("regression", "failed", "improved", "undecided")
    return [each for each in of.findings if each.suspect or (each.status in statuses and each.kind != "history")]


def _said(series: SeriesAnswer) -> str:
    texts = dict.fromkeys(plain(finding.text) for finding in open_findings(series))
    return f"{series.series} {plain(' · '.join(series.name.words))}: {'; '.join(texts)}"


def show_lines(nights: Sequence[Night]) -> list[str]:
    """List the accepted nights for a terminal."""
    lines = []
    before: Night | None = None
    for night in nights:
        runs = sum(len(cell.runs) for cell in night.cells)
        notes = []
        if night.change:
            notes.append(f"change: {night.change}")
        notes += [f"changed: {line}" for line in night.changed]
        if night.acknowledged:
            notes.append(f"acknowledged: {', '.join(night.acknowledged)}")
        if night.flaky:
            notes.append(f"flaky: {', '.join(night.flaky)}")
        if before is not None:
            notes += map(str, environment_changes(before, night))
        lines.append(
            plain(f"{night.number}. {night.label}: {len(night.cells)} series, {plural(runs, 'run')}; {night.reason}")
        )
        lines += [f"    {plain(note)}" for note in notes]
        before = night
    series = {series for night in nights for series in night.by_series()}
    return [*lines, f"{plural(len(nights), 'accepted night')}, {len(series)} series"]


def two_nights(nights: Sequence[Night], labels: Sequence[str]) -> tuple[Night, Night]:
    """Return the two nights to compare, which must be accepted: those named, or the named one and the last, or the last two."""
    by_label = {night.label: night for night in nights}
    for label in labels:
        if label not in by_label:
            raise unknown("night", label, by_label)
    chosen = [by_label[label] for label in labels]
    if len(labels) < 2:
        chosen = [*chosen, *nights[-(2 - len(labels)) :]]
    if len(chosen) != 2:
        raise LoraBenchError(f"two nights are held against each other, and there are {len(chosen)}")
    return chosen[0], chosen[1]


def diff_lines(before: Night, after: Night) -> list[str]:
    """List the differences between two nights for a terminal."""
    lines = [plain(f"{before.label} → {after.label}")]
    lines += [plain(str(change)) for change in environment_changes(before, after)]
    names = dict.fromkeys([*(cell.name for cell in before.cells), *(cell.name for cell in after.cells)])
    for name in names:
        pairs = with_name(before, name), with_name(after, name)
        words = plain(" · ".join(name.words))
        if not pairs[0] or not pairs[1]:
            lines.append(f"{words}: only in {plain(before.label if pairs[0] else after.label)}")
            continue
        old, new = pairs[0][0], pairs[1][0]
        opened = changed_conditions(before.setting_of(old), after.setting_of(new))
        lines += [f"{words}: {plain(text)}" for text in _differences(old, new, opened)]
    return lines


def _differences(old: NightCell, new: NightCell, opened: Sequence[str]) -> list[str]:
    lines = []
    was, now = mean_of(old), mean_of(new)
    if opened:
        lines.append(f"another series: {'; '.join(opened)}")
    elif was is not None and now is not None:
        shown_was, shown_now, change = shown_move(old, was, now)
        lines.append(f"{shown_was} → {shown_now} ({change})")
    counts = [*((field, words) for _, field, words in COUNTS), ("peak_allocated_bytes", "peak allocated, bytes")]
    for field, words in counts:
        first, second = getattr(old.counts, field), getattr(new.counts, field)
        if first != second:
            lines.append(f"{words}: {count(first)} → {count(second)}")
    return lines
