"""Export records to other formats: tables for spreadsheets and data frames, or runs of an experiment tracker.

An export has every number of a record, failed runs included, under the names of `lora_bench.report.frames.record_frame`.
Nothing is computed or rounded.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path

from lora_bench.errors import unknown
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.report.model.seed_scores import AnswersOf, no_answers

FILES, TRACKERS = ("csv", "parquet", "json"), ("mlflow", "trackio")


def export(records: Sequence[Record], to: str, *, beside: Path, out: str | None = None) -> str:
    """Write *records* in the format *to*. Return a sentence about what was written and where.

    Args:
        records: Records to write.
        to: "csv", "parquet", "json", "mlflow" or "trackio".
        beside: Folder of the file if *out* is not given.
        out: A file for "csv", "parquet" and "json"; a folder for "trackio"; a folder or tracking URI for "mlflow".

    Raises:
        LoraBenchError: If the format is unknown, its package is not installed, or a tracker refuses.
    """
    if to in TRACKERS:
        return str(pkgutil.resolve_name(f"lora_bench.exchange.to_{to}:to_{to}")(records, out))
    if to not in FILES:
        raise unknown("format", to, (*FILES, *TRACKERS))
    from lora_bench.exchange.table_files import write_tables

    path = Path(out) if out is not None else beside
    if path.is_dir() or (out is not None and out.endswith("/")):
        path /= f"records.{to}"
    return write_tables(records, path, to)


def data_files(
    records: Sequence[Record],
    probes: Sequence[ProbeRecord] = (),
    answers: AnswersOf = no_answers,
    reference: str | None = None,
) -> dict[str, bytes]:
    """Return every number behind a report as contents of files by name: each table as CSV, Parquet and JSON.

    The tables are `records` and `curves` (the points of their learning curves), `comparisons` and `over_tasks` (means, ranks
    and verdicts of each method), `classes` (scores of each class, from stored predictions), and `probes` and `latencies`
    (their timed forward passes). An empty table has no file.

    Args:
        records: Records of the report.
        probes: Probe records of the report.
        answers: Returns the predictions of a run, if they are stored; verdicts use them too.
        reference: Label of the method to compare with, in place of the declared or the default one.
    """
    from lora_bench.exchange.table_files import ENCODERS
    from lora_bench.report.frames.record_frame import to_curves, to_frame, to_latency_frame, to_probe_frame
    from lora_bench.report.frames.verdict_frame import to_class_frame, to_comparison_frame, to_over_tasks_frame
    from lora_bench.report.model.comparison import compare
    from lora_bench.report.model.given_answers import given_answers
    from lora_bench.report.model.judged import judge_comparison
    from lora_bench.report.model.side_costs import beside

    tables = {}
    if records:
        comparison = compare(records)
        judged = judge_comparison(comparison, records, answers, reference=reference)
        tables = {
            "records": to_frame(records),
            "curves": to_curves(records),
            "comparisons": to_comparison_frame(comparison, judged, beside(comparison, probes)),
            "over_tasks": to_over_tasks_frame(judged),
            "classes": to_class_frame(comparison, given_answers(comparison, answers)),
        }
    if probes:
        tables |= {"probes": to_probe_frame(probes), "latencies": to_latency_frame(probes)}
    return {
        f"{name}.{suffix}": encode(table)
        for name, table in tables.items()
        if len(table)
        for suffix, encode in ENCODERS.items()
    }
