"""Result of a suite: its records, and the answer that they give; verdicts are computed when they are first asked for."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.records.record import Record
from lora_bench.records.spec import RunSpec

if TYPE_CHECKING:
    import pandas

    from lora_bench.report import Report

NO_RECORDS = "No run of this suite has ended yet."


@dataclass(frozen=True, kw_only=True, repr=False)
class Outcome:
    """Result of a suite; a notebook shows its answer.

    Args:
        records: Every record of the suite, old and new, in the suite's order.
        done: Number of missing runs that this command took up, including runs that cannot be done or were stopped.
        interrupted: Cause that stopped the work, the name of a signal, `disk_full`, `out_of_time`, or None.
        undone: Specs of runs taken up without a record: the work was stopped, or a worker alone was told to stop.
        elsewhere: Number of runs left to other processes, if the command does not wait for them.
        later: Number of runs that are unknown until others are done.
    """

    suite: str
    folder: Path
    records: tuple[Record, ...]
    done: int
    interrupted: str | None
    undone: tuple[RunSpec, ...] = ()
    elsewhere: int = 0
    later: int = 0

    @cached_property
    def report(self) -> "Report":
        """The report as data, with the suite's probes and stored predictions."""
        from lora_bench.records.probe_store import read_probes
        from lora_bench.records.store import answers_in
        from lora_bench.records.suite_about import about_in
        from lora_bench.records.weight_analysis import read_analysis
        from lora_bench.report import Report

        return Report(
            self.records,
            probes=read_probes(self.folder),
            answers=answers_in(self.folder, self.records),
            undone=self.undone,
            about=about_in(self.folder, self.records),
            analysis=read_analysis(self.folder),
        )

    @property
    def answer(self) -> str:
        """The headline of the report as text."""
        from lora_bench.report.sections.first_screen import answer_text

        return answer_text(self.report) if self.records else NO_RECORDS

    @property
    def winner(self) -> str | None:
        """Label of the method that the headline takes; None where it takes none, as where runs learned nothing."""
        return self.report.decision.winner if self.records else None

    @property
    def frame(self) -> "pandas.DataFrame":
        """The records, one row a run, failures included."""
        from lora_bench.report import to_frame

        return to_frame(self.records)

    @property
    def verdicts(self) -> "pandas.DataFrame":
        """Scores and verdicts, one row a method on a task and base model; see docs/statistics.md."""
        from lora_bench.report.frames.verdict_frame import to_comparison_frame

        return to_comparison_frame(self.report.comparison, self.report.judged, self.report.costs)

    def write_report(self, folder: str | Path | None = None, name: str = "report") -> list[Path]:
        """Write the report as Markdown and as a page, by default into the folder of the runs. Return the files.

        *name* is that of the files. Raise LoraBenchError if there are no records.
        """
        from lora_bench.report import write_report

        report = self.report if name == self.report.name else replace(self.report, name=name)
        return write_report(report, self.folder if folder is None else Path(folder))

    def __repr__(self) -> str:
        counts = Counter(record.status for record in self.records)
        statuses = ", ".join(f"{number} {status}" for status, number in counts.items()) or "none"
        stopped = f", stopped by {self.interrupted}" if self.interrupted is not None else ""
        return f"<Outcome of {self.suite} in {self.folder}: {len(self.records)} records ({statuses}){stopped}>"

    def _repr_html_(self) -> str:
        from lora_bench.report.sections.first_screen import answer_card

        return answer_card(self.report) if self.records else f"<p>{escape(NO_RECORDS)}</p>"
