"""Results of PEFT's own benchmark as records: the files under `method_comparison/*/results` of huggingface/peft.

Each file is one run, and becomes one record whose id is that of the file's content. What the file does not say is null, and
what its numbers mean less than they seem to is a warning in the record. Some of its numbers have no place in a record and
stay behind: the total time, averages and percentiles of memory, and the seconds of each evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lora_bench.documents import dotted
from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.exchange.peft_results.mapping import record_of
from lora_bench.exchange.peft_results.result_file import Result, plain_data
from lora_bench.records.layout import RECORD
from lora_bench.records.record import Record
from lora_bench.records.store import read_record, to_json, write_atomic

FOLDERS = ("results", "cancelled_results")
MAX_BYTES = 50_000_000


@dataclass(frozen=True)
class Imported:
    """What became of a folder of result files: the records, what could not be read, and the number of files."""

    records: Sequence[Record]
    faults: Sequence[Fault]
    files: int


def import_results(folder: Path, target: Path) -> Imported:
    """Write a record for every result file, as *target*/RUN_ID/record.json, replacing what an earlier import wrote.

    Args:
        folder: `method_comparison`, a folder below it or of the same layout, or any folder of result files. Runs that
            were cancelled are read too, as failures; those of `temporary_results` only where *folder* is that one.
        target: The folder of runs.

    Raises:
        LoraBenchError: If there is no such folder, or no file in it.
    """
    files = result_files(folder)
    records: dict[str, Record] = {}
    faults: list[Fault] = []
    for file in files:
        try:
            record = read_result(file, command=f"lora-bench import peft-results {folder.resolve().name}")
            path = target / record.run_id / RECORD
            write_atomic(path, to_json(record))
            records[record.run_id] = read_record(path)
        except BadInput as error:
            faults += error.faults
    return Imported(records=list(records.values()), faults=faults, files=len(files))


def result_files(folder: Path) -> list[Path]:
    """The result files in or below *folder*, sorted.

    Raises:
        LoraBenchError: If there is no such folder, or no file in it.
    """
    if not folder.is_dir():
        raise LoraBenchError(f"{folder} is no folder; give the method_comparison folder of a copy of huggingface/peft")
    below = [file for name in FOLDERS for file in folder.glob(f"**/{name}/*.json")]
    files = below or list(folder.glob("*.json"))
    if not files:
        raise LoraBenchError(f"{folder} has no result files: neither */results/*.json below it nor *.json in it")
    return sorted(files)


def read_result(file: Path, command: str | None = None) -> Record:
    """The record of one result file.

    Raises:
        BadInput: If it is no such file.
    """
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES:,} bytes")
        content = file.read_bytes()
        data, complete = plain_data(content)
        record = record_of(
            Result.model_validate(data), content, task=_task_name(file), complete=complete, command=command
        )
        to_json(record)
        return record
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{dotted(first['loc'])}: {first['msg']}"
    except RecursionError:
        message = "it is nested too deep"
    except (OSError, ValueError) as error:
        message = str(error)
    raise BadInput([Fault(f"is no result file of method_comparison: {message}", file=str(file))])


def _task_name(file: Path) -> str | None:
    """The folder that holds the folder of results, which is how PEFT names a task."""
    parent = file.resolve().parent
    return parent.parent.name if parent.name in (*FOLDERS, "temporary_results") else None
