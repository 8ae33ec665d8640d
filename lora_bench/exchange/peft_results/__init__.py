"""Import results of PEFT's own benchmark: the files under `method_comparison/*/results` of huggingface/peft.

Each file is one run, and becomes one record whose id is a hash of the file's content. Facts missing from the file are null. A
number that means less than its name is a warning in the record. Some numbers have no place in a record and are left out: the
total time, averages and percentiles of memory, and the seconds of each evaluation.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pydantic import ValidationError

from lora_bench.documents import dotted
from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.exchange.peft_results.mapping import record_of
from lora_bench.exchange.peft_results.result_file import Result, plain_data
from lora_bench.records.layout import RECORD
from lora_bench.records.record import Record
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import read_record, write_atomic
from lora_bench.util.regular_files import MIB, read_regular

FOLDERS = ("results", "cancelled_results")
MAX_BYTES = 48 * MIB


@dataclass(frozen=True)
class Imported:
    """Result of an import: the records, the unreadable files, and the number of files."""

    records: Sequence[Record]
    faults: Sequence[Fault]
    files: int


def import_results(folder: Path, target: Path) -> Imported:
    """Write a record for every result file, as *target*/RUN_ID/record.json, replacing those of an earlier import.

    Args:
        folder: `method_comparison`, a folder below it or of the same layout, or any folder of result files. Cancelled runs
            are read too, as failures; those of `temporary_results` only if *folder* is that one.
        target: Folder of the records.

    Raises:
        LoraBenchError: If the folder does not exist, or has no result file.
    """
    files = result_files(folder)
    records: dict[str, Record] = {}
    faults: list[Fault] = []
    for file in files:
        try:
            record = read_result(
                file, command=shlex.join(["lora-bench", "import", "peft-results", folder.resolve().name])
            )
            records[record.run_id] = written(record, target)
        except BadInput as error:
            faults += error.faults
    return Imported(records=list(records.values()), faults=faults, files=len(files))


def written(record: Record, target: Path) -> Record:
    """Write a record as *target*/RUN_ID/record.json, and return it as it is read again."""
    path = target / record.run_id / RECORD
    write_atomic(path, to_json(record))
    return read_record(path)


def result_files(folder: Path) -> list[Path]:
    """Return the result files in or below *folder*, sorted.

    Raises:
        LoraBenchError: If the folder does not exist, or has no result file.
    """
    if not folder.is_dir():
        raise LoraBenchError(
            f"{folder} is not a folder; give the method_comparison folder of a copy of huggingface/peft"
        )
    below = [file for name in FOLDERS for file in folder.glob(f"**/{name}/*.json")]
    files = below or list(folder.glob("*.json"))
    if not files:
        raise LoraBenchError(f"{folder} has no result files: neither */results/*.json below it nor *.json in it")
    return sorted(files)


def read_result(file: Path, command: str | None = None) -> Record:
    """Read the record of one result file.

    Raises:
        BadInput: If it is not a result file.
    """
    return record_in(content_of(file), file.resolve(), command=command, shown=file)


def content_of(file: Path) -> bytes:
    """Return the bytes of a result file.

    Raises:
        BadInput: If it cannot be read, or is too long.
    """
    try:
        return read_regular(file, MAX_BYTES)
    except OSError as error:
        raise _no_result(file, error.strerror or str(error)) from None


def record_in(
    content: bytes, path: PurePath, *, command: str | None, series: str | None = None, shown: PurePath | None = None
) -> Record:
    """Return the record of a result file's content.

    Args:
        content: The bytes.
        path: Path of the file, whose folders name the task.
        command: Command that makes the record again.
        series: Label that tells results of one experiment at different dates apart.
        shown: Path for messages, if another.

    Raises:
        BadInput: If it is not a result file.
    """
    try:
        data, complete = plain_data(content)
        record = record_of(
            Result.model_validate(data),
            content,
            task=_task_name(path),
            complete=complete,
            command=command,
            series=series,
        )
        to_json(record)
        return record
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{dotted(first['loc'])}: {first['msg']}"
    except RecursionError:
        message = "it is nested too deep"
    except ValueError as error:
        message = str(error)
    raise _no_result(shown or path, message)


def _no_result(file: PurePath, message: str) -> BadInput:
    return BadInput([Fault(f"is not a result file of method_comparison: {message}", file=str(file))])


def _task_name(file: PurePath) -> str | None:
    """Return the name of the folder above the results, PEFT's name of the task."""
    parent = file.parent
    return parent.parent.name if parent.name in (*FOLDERS, "temporary_results") else None
