"""Scores against seconds of training: each method when the cheapest one ended, and when it ended itself.

A run's scores are those on the selection split on the way, at steps times its mean seconds a step. Evaluations and checkpoints
take no part of these seconds. Between two scores a line is straight.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, Heading, TextTable
from lora_bench.report.figures.curves import Line, timed_line, value_at
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
    """

    row: Row
    lines: tuple[Line, ...]
    alone: bool

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
            found.append(OverTime(row=row, lines=tuple(line for line, _ in timed), alone=alone))
    return sorted(found, key=lambda one: one.seconds) if len(found) > 1 else []


def over_time_section(comparison: Comparison, records: Sequence[Record]) -> list[Block]:
    """Return the section, empty for runs without scores on the way."""
    lines = [line for place in _places(comparison, records) for line in place]
    if not lines:
        return []
    shared = sum(tables.SHARED in line[3] for line in lines)
    alone = (
        f"{tables.SHARED}: other work ran on the machine meanwhile, or the record does not say, so these seconds are rough."
        if shared
        else "Every run had the machine for itself."
    )
    header = ["task", "base model", "method", "training, s", "score when the cheapest ended", "score at its own end"]
    return [
        Heading(2, "Score against training time"),
        "Means over runs, on the selection split: no test, and no reason to call a method better. Seconds are steps times the "
        f"mean seconds of a step of the run, without evaluations. {alone}",
        TextTable(header, lines, numbers_from=3),
    ]


def _places(comparison: Comparison, records: Sequence[Record]) -> Iterator[list[list[str]]]:
    """Yield the lines of each table."""
    by_id = {record.run_id: record for record in records}
    for setting in comparison.results:
        for table in setting.tables:
            methods = over_time(setting, table, by_id)
            yield [
                [
                    tables.setting_name(setting, comparison),
                    tables.model_name(table),
                    f"{tables.method_name(one.row)} ({plural(len(one.lines), 'run')})",
                    f"{rate(one.seconds)}{'' if one.alone else tables.SHARED}",
                    score(found) if (found := one.at(methods[0].seconds)) is not None else MISSING,
                    score(one.at_end),
                ]
                for one in methods
            ]
