"""Export records to other formats: tables, runs of an experiment tracker, or result files of PEFT's benchmark.

An export has every number of a record, failed runs included, under the names of `lora_bench.report.frames.record_frame`.
Nothing is computed or rounded.
"""

import pkgutil
from collections.abc import Sequence
from pathlib import Path

from lora_bench.errors import unknown
from lora_bench.records.record import Record
from lora_bench.report.model.report import Report

FILES, TRACKERS, PEFT_RESULTS = ("csv", "parquet", "json"), ("mlflow", "trackio"), "peft-results"


def export(records: Sequence[Record], to: str, *, beside: Path, out: str | None = None) -> str:
    """Write *records* in the format *to*: one of `FILES` or `TRACKERS`, or `PEFT_RESULTS`. Return a sentence about it.

    *out* is a file, by default *beside*; for "trackio" and `PEFT_RESULTS` a folder; for "mlflow" a folder or tracking URI.
    Raise LoraBenchError if the format is unknown, its package is not installed, or a tracker refuses.
    """
    if to in TRACKERS:
        return str(pkgutil.resolve_name(f"lora_bench.exchange.to_{to}:to_{to}")(records, out))
    if to == PEFT_RESULTS:
        from lora_bench.exchange.peft_results.export_results import to_peft_results

        return to_peft_results(records, Path(out) if out is not None else beside / to)
    if to not in FILES:
        raise unknown("format", to, (*FILES, *TRACKERS, PEFT_RESULTS))
    from lora_bench.exchange.table_files import write_tables

    path = Path(out) if out is not None else beside
    if path.is_dir() or (out is not None and out.endswith("/")):
        path /= f"records.{to}"
    return write_tables(records, path, to)


def data_files(report: Report) -> dict[str, bytes]:
    """Return every number behind a report as contents of files by name: each table as CSV, Parquet and JSON.

    The tables are `records` and `curves` (the points of their learning curves), `comparisons` and `over_tasks` (means, ranks
    and verdicts of each method), `classes` (scores of each class, from stored predictions), and `probes` and `latencies`
    (their timed forward passes). An empty table has no file.
    """
    from lora_bench.exchange.table_files import ENCODERS
    from lora_bench.report.frames.record_frame import to_curves, to_frame, to_latency_frame, to_probe_frame
    from lora_bench.report.frames.verdict_frame import to_class_frame, to_comparison_frame, to_over_tasks_frame

    tables = {}
    if report.records:
        tables = {
            "records": to_frame(report.records),
            "curves": to_curves(report.records),
            "comparisons": to_comparison_frame(report.comparison, report.judged, report.costs),
            "over_tasks": to_over_tasks_frame(report.judged),
            "classes": to_class_frame(report.comparison, report.given_answers),
        }
    if report.probes:
        tables |= {"probes": to_probe_frame(report.probes), "latencies": to_latency_frame(report.probes)}
    return {
        f"{name}.{suffix}": encode(table)
        for name, table in tables.items()
        if len(table)
        for suffix, encode in ENCODERS.items()
    }
