"""Scores against seconds of training: each method when the cheapest one ended, and when it ended itself.

A run's scores are those on the selection split on the way, at the seconds of its clock, or in older records at steps times its
mean seconds a step. Evaluations and checkpoints take no part of these seconds. Between two scores a line is straight.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, Heading, TextTable
from lora_bench.report.figures.curves import Line, is_clocked, timed_line, value_at
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.rows import Row
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.text import MISSING, plural, rate, score


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """A method's scores on the selection split over the seconds of its training.

    Args:
        row: The method's row.
        lines: Seconds and scores of each of its runs.
        alone: True if all of them had the machine for themselves.
        clocked: True if all of them have the seconds of each score.
    """

    row: Row
    lines: tuple[Line, ...]
    alone: bool
    clocked: bool

    @property
    def seconds(self) -> float:
        """Mean seconds of training."""
        return statistics.fmean(line[-1][0] for line in self.lines)

    def at(self, seconds: float) -> float | None:
        """Return the mean score after so many seconds, or at the end of a run that took fewer; None before a run's first."""
        if any(seconds < line[0][0] for line in self.lines):
            return None
        return statistics.fmean(value_at(line, min(seconds, line[-1][0])) for line in self.lines)

    @property
    def at_end(self) -> float:
        """Mean score at the end of training."""
        return statistics.fmean(line[-1][1] for line in self.lines)


def over_time(setting: Setting, table: ModelTable, by_id: Mapping[str, Record]) -> list[OverTime]:
    """Return the methods of a table whose runs have scores over seconds, the cheapest first; empty for less than two."""
    found = []
    for row in table.rows:
        runs = [by_id[run] for run in row.run_ids if run in by_id]
        timed = [(line, run) for run in runs if (line := timed_line(run))]
        if timed and not setting.search and not setting.trials:
            alone = all(run.speed is not None and run.speed.exclusive for _, run in timed)
            clocked = all(is_clocked(run) for _, run in timed)
            found.append(OverTime(row=row, lines=tuple(line for line, _ in timed), alone=alone, clocked=clocked))
    return sorted(found, key=lambda one: one.seconds) if len(found) > 1 else []


def over_time_section(comparison: Comparison, records: Sequence[Record]) -> list[Block]:
    """Return the section, empty for runs without scores on the way."""
    by_id = {record.run_id: record for record in records}
    places = [
        (setting, table, over_time(setting, table, by_id)) for setting in comparison.results for table in setting.tables
    ]
    every = [one for _, _, methods in places for one in methods]
    if not every:
        return []
    shared = "other work ran on the machine meanwhile, or the record does not say, so these seconds are rough."
    alone = "Every run had the machine for itself." if all(one.alone for one in every) else f"{tables.SHARED}: {shared}"
    clock = (
        "Seconds are those of training, without evaluations."
        if all(one.clocked for one in every)
        else "Seconds are steps times the mean seconds of a step of the run, without evaluations."
    )
    header = ["task", "base model", "method", "training, s", "score when the cheapest ended", "score at its own end"]
    return [
        Heading(2, "Score against training time"),
        f"Means over runs, on the selection split: no test, and no reason to call a method better. {clock} {alone}",
        TextTable(header, [line for place in places for line in _lines(comparison, *place)], numbers_from=3),
    ]


def _lines(
    comparison: Comparison, setting: Setting, table: ModelTable, methods: Sequence[OverTime]
) -> Iterator[list[str]]:
    for one in methods:
        found = one.at(methods[0].seconds)
        yield [
            tables.setting_name(setting, comparison),
            tables.model_name(table),
            f"{tables.method_name(one.row)} ({plural(len(one.lines), 'run')})",
            f"{rate(one.seconds)}{'' if one.alone else tables.SHARED}",
            score(found) if found is not None else MISSING,
            score(one.at_end),
        ]
