"""Import results of PEFT's own benchmark: the files under `method_comparison/*/results` of huggingface/peft.

Each file is one run, and becomes one record whose id is a hash of the file's content. Facts missing from the file are null. A
number that means less than its name is a warning in the record. Some numbers have no place in a record and are left out: the
total time, averages and percentiles of memory, and the seconds of each evaluation.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from pydantic import ValidationError

from lora_bench.documents import dotted
from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.exchange.peft_results.mapping import record_of
from lora_bench.exchange.peft_results.result_file import Result, plain_data
from lora_bench.records.layout import RECORD
from lora_bench.records.record import Record
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import read_record, write_atomic
from lora_bench.util.child_process import git_output
from lora_bench.util.regular_files import MIB, read_regular

FOLDERS = ("results", "cancelled_results")
MAX_BYTES = 48 * MIB

_COMMIT = re.compile(r"commit ([0-9a-f]{40,64}) (\d{4}-\d\d-\d\d)")


@dataclass(frozen=True)
class Imported:
    """Result of an import: the records, the unreadable files, and the number of files."""

    records: Sequence[Record]
    faults: Sequence[Fault]
    files: int


class FileVersion(NamedTuple):
    """A result file as it was published.

    Args:
        date: Date of the commit; empty without a history.
        path: Its path, which names the task.
        commit: Commit with this version; empty without a history.
    """

    date: str
    path: PurePath
    commit: str = ""


def import_results(folder: Path, target: Path, *, history: bool = False) -> Imported:
    """Write a record for every result file, as *target*/RUN_ID/record.json, replacing those of an earlier import.

    With *history*, read all versions in git; the series of a record is then the date of its commit. Later versions of a file
    may say more about the same run, such as its card: these are one record, of the newest content at the first date.

    *folder* is `method_comparison`, a folder below it or of the same layout, or any folder of result files. Cancelled runs
    are read too, as failures; those of `temporary_results` only if *folder* is that one. Raise LoraBenchError if it does not
    exist, has no result file, or with *history* is in no git repository.
    """
    command = shlex.join(
        ["lora-bench", "import", "peft-results", folder.resolve().name, *(["--history"] if history else [])]
    )
    found = [FileVersion("", file) for file in result_files(folder)]
    found = list(_in_git(folder)) if history else found
    if not found:
        raise LoraBenchError(f"{folder} is in no git repository, so the history of its results is not known")
    runs: dict[tuple[str | None, ...], Record] = {}
    faults: list[Fault] = []
    for version in found:
        try:
            content = _content(folder, version)
            run = record_in(content, version.path, command=command)
            key: tuple[str | None, ...] = (run.run_id,)
            if history:
                key = (run.spec.task.name, run.spec.method.label, run.started_at) if run.started_at else key
                date = runs[key].spec.series if key in runs else version.date
                run = record_in(content, version.path, command=command, series=date)
            runs[key] = run
        except BadInput as error:
            faults += error.faults
    records = []
    for record in runs.values():
        path = target / record.run_id / RECORD
        write_atomic(path, to_json(record))
        records.append(read_record(path))
    return Imported(records=records, faults=faults, files=len(found))


def _in_git(folder: Path) -> Iterator[FileVersion]:
    """Return the versions in git; nothing outside a repository."""
    log = git_output(
        folder, "log", "--reverse", "--no-renames", "--diff-filter=AM", "--name-only", "--format=commit %H %cs", "--", "."
    )  # fmt: skip
    commit = date = ""
    for line in (log or b"").decode("utf-8", "replace").splitlines():
        if head := _COMMIT.fullmatch(line):
            commit, date = head.groups()
        elif line.endswith(".json") and (path := PurePosixPath(line)).parent.name in FOLDERS:
            yield FileVersion(date, path, commit)


def _content(folder: Path, version: FileVersion) -> bytes:
    if version.commit:
        content = git_output(folder, "cat-file", "blob", f"{version.commit}:{version.path}")
        if content is None:
            message = f"cannot be read at commit {version.commit[:12]}"
            raise BadInput([Fault(message, file=str(version.path))])
        return content
    try:
        return read_regular(Path(version.path), MAX_BYTES)
    except OSError as error:
        raise _no_result(version.path, error.strerror or str(error)) from None


def result_files(folder: Path) -> list[Path]:
    """Return the result files in or below *folder*, sorted. Raise LoraBenchError if there are none."""
    if not folder.is_dir():
        raise LoraBenchError(
            f"{folder} is not a folder; give the method_comparison folder of a copy of huggingface/peft"
        )
    below = [file for name in FOLDERS for file in folder.glob(f"**/{name}/*.json")]
    files = below or list(folder.glob("*.json"))
    if not files:
        raise LoraBenchError(f"{folder} has no result files: neither */results/*.json below it nor *.json in it")
    return sorted(files)


def record_in(content: bytes, path: PurePath, *, command: str | None, series: str | None = None) -> Record:
    """Return the record of a result file; folders of *path* name the task. Raise BadInput if it is no result file."""
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
    raise _no_result(path, message)


def _no_result(file: PurePath, message: str) -> BadInput:
    return BadInput([Fault(f"is not a result file of method_comparison: {message}", file=str(file))])


def _task_name(file: PurePath) -> str | None:
    """Return the name of the folder above the results, PEFT's name of the task."""
    parent = (file.resolve() if isinstance(file, Path) else file).parent
    return parent.parent.name if parent.name in (*FOLDERS, "temporary_results") else None
