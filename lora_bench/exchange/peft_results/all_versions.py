"""Import everything that PEFT's method_comparison ever published: all versions in git, dated snapshots, or files of many dates.

The series of a record is the date of its commit or snapshot, else that of the run. Later versions of a file may say more about
the same run, such as its card: these are one record, of the newest content at the first date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.exchange.peft_results import FOLDERS, Imported, content_of, record_in, result_files, written
from lora_bench.records.record import Record
from lora_bench.util.child_process import git_output

_COMMIT = re.compile(r"commit ([0-9a-f]{40,64}) (\d{4}-\d\d-\d\d)")
_DATED = re.compile(r"\d{4}-\d\d.*")


class FileVersion(NamedTuple):
    """A result file as it was published.

    Args:
        date: Date of the commit, or name of the snapshot; empty if the run's own date tells it apart.
        path: Its path, which names the task.
        commit: Commit with this version; empty in a snapshot.
    """

    date: str
    path: PurePath
    commit: str = ""


def import_history(folder: Path, target: Path) -> Imported:
    """Write a record for every run of every version, as *target*/RUN_ID/record.json, replacing those of an earlier import.

    Args:
        folder: `method_comparison` or a folder below it in a git clone; a folder of snapshots of it, whose names begin with a
            date; or a folder of result files of several dates.
        target: Folder of the records.

    Raises:
        LoraBenchError: If the folder does not exist, or has no result file.
    """
    command = f"lora-bench import peft-results {folder.resolve().name} --history"
    found = versions(folder)
    runs: dict[tuple[str | None, ...], Record] = {}
    faults: list[Fault] = []
    for version in found:
        try:
            content = _content(folder, version)
            run = record_in(content, version.path, command=command)
            key = (run.spec.task.name, run.spec.method.label, run.started_at) if run.started_at else (run.run_id,)
            date = runs[key].spec.series if key in runs else version.date or (run.started_at or "")[:10] or None
            runs[key] = record_in(content, version.path, command=command, series=date)
        except BadInput as error:
            faults += error.faults
    records = [written(record, target) for record in runs.values()]
    return Imported(records=records, faults=faults, files=len(found))


def versions(folder: Path) -> list[FileVersion]:
    """Return all versions of result files, those of git and of snapshots from the oldest.

    Raises:
        LoraBenchError: If the folder does not exist, or has none.
    """
    files = [FileVersion("", file) for file in result_files(folder)]
    return list(_in_git(folder)) or list(_in_snapshots(folder)) or files


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


def _in_snapshots(folder: Path) -> Iterator[FileVersion]:
    for snapshot in sorted(path for path in folder.iterdir() if path.is_dir() and _DATED.fullmatch(path.name)):
        try:
            files = result_files(snapshot)
        except LoraBenchError:
            continue
        yield from (FileVersion(snapshot.name, file) for file in files)


def _content(folder: Path, version: FileVersion) -> bytes:
    if not version.commit:
        return content_of(Path(version.path))
    content = git_output(folder, "cat-file", "blob", f"{version.commit}:{version.path}")
    if content is None:
        raise BadInput([Fault(f"cannot be read at commit {version.commit[:12]}", file=str(version.path))])
    return content
