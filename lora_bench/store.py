"""Where records lie, and how they get there whole.

A runs folder has one folder a run, named by the run id. Its `record.json` is written once, for a final status only: to a
temporary file, flushed to the disk, then linked to its name, so that a reader sees the whole record or none and a second
writer never replaces the first. What lies beside it (predictions, weights) is there before the record names it.

    runs/<suite>/<run_id>/record.json         the record
                          predictions.json    one prediction an example, or completions.json with the texts written
                          weights/            the trained weights, where the suite keeps them
                          attempts/<n>.json   attempts that ended without a final record, and retried records
                          checkpoint/         while the run is not done

A baseline folder holds the same records as `records/<run_id>.json`, with predictions in `records/<run_id>.predictions.json`.
Texts that a model wrote stay in the runs folder: they repeat the data set, whose licence may forbid to pass it on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from lora_bench.documents import dotted
from lora_bench.ends import goes_on, is_attempt
from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.failpoints import reach
from lora_bench.record import SCHEMA, Record

RECORD = "record.json"
PREDICTIONS = "predictions.json"
COMPLETIONS = "completions.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie while the run is not done."""
        return self.path / "checkpoint"

    @property
    def weights(self) -> Path:
        """Where the trained weights are kept."""
        return self.path / "weights"

    def of(self, run_id: str) -> RunFolder:
        """The folder of another run of the same suite."""
        return RunFolder(self.path.parent / run_id)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within this block no other process is at this run; waits for one that is.

        The lock goes with the process that holds it, however it ends. Where the system has no such lock (Windows), or the
        file system does not know it, nothing is held.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def record(self) -> Record | None:
        """The record, or None while there is none."""
        path = self.path / RECORD
        return read_record(path) if path.is_file() else None

    def attempts(self) -> int:
        """Number of attempts that left no final record, and of records that a retry put aside."""
        return len(list((self.path / "attempts").glob("*.json")))

    def publish(self, record: Record) -> Record:
        """Write the record, or the attempt where its status is not final; the record that stands there afterwards."""
        if is_attempt(record):
            self._put_aside(to_json(record))
            return record
        if not write_once(self.path / RECORD, to_json(record)):
            return read_record(self.path / RECORD)
        reach("publish.clean")
        if not goes_on(record):
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        for left in self.path.glob(".*.*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        return record

    def renew(self, record: Record) -> None:
        """Write the record anew, where the process that wrote it has come to know more: a score after training."""
        write_atomic(self.path / RECORD, to_json(record))

    def retry(self) -> None:
        """Put the record aside as an attempt, so that the run is done again."""
        path = self.path / RECORD
        if path.is_file():
            self._put_aside(path.read_bytes())
            path.unlink()
            (self.path / "traceback.txt").unlink(missing_ok=True)
            sync_folder(self.path)

    def _put_aside(self, content: bytes) -> None:
        number = self.attempts() + 1
        while not write_once(self.path / "attempts" / f"{number}.json", content):
            number += 1


def read_records(path: Path) -> list[Record]:
    """Every record at *path*, in the order of their run ids: a runs folder, a baseline, or one record.

    Raises:
        LoraBenchError: If there is no such path or no record in it.
        BadInput: With every record that cannot be read.
    """
    if not path.exists():
        raise LoraBenchError(f"{path} is not there; `lora-bench run SUITE` writes records to runs/SUITE")
    files = [path] if path.is_file() else record_files(path)
    if not files:
        raise LoraBenchError(f"{path} has no records: neither RUN_ID/record.json nor records/RUN_ID.json")
    records: list[Record] = []
    faults: list[Fault] = []
    for file in files:
        try:
            records.append(read_record(file))
        except BadInput as error:
            faults += error.faults
    if faults:
        raise BadInput(faults)
    return sorted(records, key=lambda record: record.run_id)


def record_files(folder: Path) -> list[Path]:
    """The record files of a runs folder or a baseline."""
    runs = folder.glob(f"*/{RECORD}")
    baseline = (path for path in folder.glob("records/*.json") if not path.name.endswith(f".{PREDICTIONS}"))
    return sorted([*runs, *baseline])


def accept(runs: Path, baseline: Path) -> list[Record]:
    """Copy the records of a runs folder, with their predictions, into a baseline; what it held before is replaced.

    Raises:
        LoraBenchError: If there are no records, or a record's predictions are missing or not what it says.
    """
    records = read_records(runs)
    predictions = {record.run_id: _predictions(runs / record.run_id, record) for record in records}
    target = baseline / "records"
    shutil.rmtree(target, ignore_errors=True)
    for record in records:
        write_atomic(target / f"{record.run_id}.json", to_json(record))
        content = predictions[record.run_id]
        if content is not None:
            write_atomic(target / f"{record.run_id}.{PREDICTIONS}", content)
    return records


def _predictions(folder: Path, record: Record) -> bytes | None:
    if record.predictions is None or record.predictions.file != PREDICTIONS:
        return None
    path = folder / record.predictions.file
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != record.predictions.sha256:
        raise LoraBenchError(f"{path} is not there or not what its record says; run {record.run_id} again")
    return content


class Answers(NamedTuple):
    """What a run predicted for each scored example, and what is right, in the order of the examples."""

    predictions: list[Any]
    references: list[Any]


def answers_in(path: Path, records: Iterable[Record]) -> Callable[[str], Answers | None]:
    """What reads, by run id, the predictions that lie beside *records* in a runs folder or a baseline.

    What it gives is None where there are none: the run left none, or they are not there, or not what its record says.
    """
    by_id = {record.run_id: record for record in records}

    def read(run_id: str) -> Answers | None:
        record = by_id.get(run_id)
        if record is None or record.predictions is None or record.predictions.file != PREDICTIONS:
            return None
        for file in (path / run_id / PREDICTIONS, path / "records" / f"{run_id}.{PREDICTIONS}"):
            content = file.read_bytes() if file.is_file() else b""
            if hashlib.sha256(content).hexdigest() == record.predictions.sha256:
                found = json.loads(content)
                return Answers(found["predictions"], found["references"])
        return None

    return read


def read_record(path: Path) -> Record:
    """One record.

    Raises:
        BadInput: If it cannot be read, or a newer lora_bench wrote it.
    """
    try:
        data = json.loads(path.read_bytes())
        version = data.get("schema") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            newer = f"was written with record schema {version}, and this lora_bench reads up to {SCHEMA}; upgrade it"
            raise BadInput([Fault(newer, file=str(path))])
        return Record.model_validate_json(json.dumps(data))
    except (OSError, ValueError) as error:
        raise BadInput([Fault(f"is no record: {first_fault(error)}", file=str(path))]) from None


def first_fault(error: Exception) -> str:
    """What is wrong with a file that could not be read, in a line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{dotted(first['loc'])}: {first['msg']} (of {error.error_count()} faults)"


def to_json(record: BaseModel) -> bytes:
    """A record as it is stored: sorted keys, two spaces, no NaN, a newline at the end."""
    content = record.model_dump(mode="json", by_alias=True)
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def write_once(path: Path, content: bytes) -> bool:
    """Write *content* to *path* whole and on the disk, unless *path* is there already; whether it was written."""
    temporary = _written_beside(path, content)
    try:
        reach("write.link")
        os.link(temporary, path)
        reach("write.linked")
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
        sync_folder(path.parent)
    return True


def write_atomic(path: Path, content: bytes) -> None:
    """Write *content* to *path* whole and on the disk, replacing what is there."""
    temporary = _written_beside(path, content)
    try:
        reach("write.replace")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    reach("write.replaced")
    sync_folder(path.parent)


def _written_beside(path: Path, content: bytes) -> Path:
    """A temporary file in the folder of *path* with *content*, flushed to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            reach("write.temporary")
            file.write(content)
            file.flush()
            reach("write.written")
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's files are private; a record is as readable as any other file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Free space on the file system that *path* is or will be on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
