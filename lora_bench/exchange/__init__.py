"""Export records to other formats: tables for spreadsheets and data frames, or runs of an experiment tracker.

An export has every number of a record, failed runs included, under the names of `lora_bench.report.frames.record_frame`.
Nothing is computed or rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lora_bench.errors import unknown
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.report.model.seed_scores import AnswersOf, no_answers

Export = Callable[[Sequence[Record], Path, str | None], str]


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
    known = formats()
    if to not in known:
        raise unknown("format", to, known)
    return known[to](records, beside, out)


def formats() -> Mapping[str, Export]:
    """Return the export formats by name."""
    return {"csv": _csv, "parquet": _parquet, "json": _json, "mlflow": _mlflow, "trackio": _trackio}


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
    from lora_bench.exchange.table_files import to_csv, to_json, to_parquet
    from lora_bench.report.frames.probe_frame import to_latency_frame, to_probe_frame
    from lora_bench.report.frames.record_frame import to_curves, to_frame
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
    encoders = {"csv": to_csv, "parquet": to_parquet, "json": to_json}
    return {
        f"{name}.{suffix}": encode(table)
        for name, table in tables.items()
        if len(table)
        for suffix, encode in encoders.items()
    }


def _csv(records: Sequence[Record], beside: Path, out: str | None) -> str:
    from lora_bench.exchange.table_files import to_csv, write_tables

    return write_tables(records, _file(beside, out, "records.csv"), to_csv)


def _parquet(records: Sequence[Record], beside: Path, out: str | None) -> str:
    from lora_bench.exchange.table_files import to_parquet, write_tables

    return write_tables(records, _file(beside, out, "records.parquet"), to_parquet)


def _json(records: Sequence[Record], beside: Path, out: str | None) -> str:
    from lora_bench.exchange.table_files import to_json, write_tables

    return write_tables(records, _file(beside, out, "records.json"), to_json)


def _file(beside: Path, out: str | None, name: str) -> Path:
    path = Path(out) if out is not None else beside
    return path / name if path.is_dir() or (out is not None and out.endswith("/")) else path


def _mlflow(records: Sequence[Record], beside: Path, out: str | None) -> str:
    from lora_bench.exchange.to_mlflow import to_mlflow

    return to_mlflow(records, out)


def _trackio(records: Sequence[Record], beside: Path, out: str | None) -> str:
    from lora_bench.exchange.to_trackio import to_trackio

    return to_trackio(records, out)
