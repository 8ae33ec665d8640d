"""Store records, and publish each one atomically.

A runs folder has one folder a run, named by the run id. Its `record.json` is written once, for a final status only: to a
temporary file, flushed to the disk, then linked to its name. So a reader sees the whole record or none, and a second writer
never replaces the first. A record carries a hash of itself; predictions and weights are written before the record names them.
Damaged files are moved to `quarantine/` and never deleted.

    runs/<suite>/<run_id>/record.json         the record
                          predictions.json    one prediction an example, or completions.json with the generated texts
                          probabilities.json  of classification: the probability of each class for each example
                          weights/            the trained weights, if the suite keeps them
                          attempts/<n>.json   attempts that ended without a final record, and retried records
                          checkpoint/         until the run is done
                          claim-<n>.json      the run lock: which process has the run; see `lora_bench.records.run_lock`
                          quarantine/<n>/     damaged files, with the reason

A baseline folder holds the same records as `records/<run_id>.json`, with predictions in `records/<run_id>.predictions.json`
and probabilities in `records/<run_id>.probabilities.json`.
Generated texts stay in the runs folder: they repeat the data set, whose licence may forbid redistribution.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from lora_bench.documents import dotted
from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.records.checkpoint_files import remove_checkpoints
from lora_bench.records.layout import COMPLETIONS, PREDICTIONS, PROBABILITIES, RECORD
from lora_bench.records.outcomes import goes_on, is_attempt
from lora_bench.records.record import SCHEMA, Predictions, Probabilities, Record
from lora_bench.records.run_lock import LOOK_SECONDS, RunLock, Watch, try_lock
from lora_bench.util.atomic_files import QUARANTINE, quarantine, remove_orphans, sync_folder
from lora_bench.util.atomic_files import free_bytes as free_bytes
from lora_bench.util.atomic_files import write_atomic as write_atomic
from lora_bench.util.atomic_files import write_once as write_once
from lora_bench.util.failpoints import reach
from lora_bench.util.regular_files import MIB, read_regular
from lora_bench.util.sealed_json import DamagedContent, as_json, is_seal, seal, unseal

# Our largest record has some 100 kB, and its predictions some MB.
MAX_RECORD_BYTES, MAX_BESIDE_BYTES = 64 * MIB, 1024 * MIB


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, until the run is done."""
        return self.path / "checkpoint"

    @property
    def weights(self) -> Path:
        """Folder of the trained weights."""
        return self.path / "weights"

    def of(self, run_id: str) -> RunFolder:
        """Return the folder of another run of the same suite."""
        return RunFolder(self.path.parent / run_id)

    def try_lock(self, reaped: int | None = None) -> RunLock | None:
        """Lock this run for this process without waiting. Return None if another process has it.

        Half-written files of a killed process are removed.

        Args:
            reaped: Number of a process of this machine that is known to have ended.
        """
        lock = try_lock(self.path, reaped)
        if lock is not None:
            remove_orphans(self.path)
        return lock

    @contextlib.contextmanager
    def held(self) -> Iterator[RunLock]:
        """Hold the run lock in this block; waits until another owner is done or dead."""
        watch = Watch()
        while (lock := self.try_lock()) is None:
            while not watch.is_free(self.path):
                time.sleep(LOOK_SECONDS)
        with lock:
            yield lock

    def record(self) -> Record | None:
        """Return the record, or None if it is missing or damaged and the run must be done.

        Raises:
            BadInput: If it is unreadable or from a newer lora_bench.
            LoraBenchError: If a link is in its place, through which files elsewhere would be written or removed.
        """
        path = self.path / RECORD
        if self.path.is_symlink():
            raise LoraBenchError(f"{self.path} is a link; remove it, because the folder of a run must not be elsewhere")
        if path.is_symlink() and not path.exists():
            raise LoraBenchError(f"{path} is a dangling link; remove it, and the same command trains the run")
        try:
            return self._own_record() if path.is_file() else None
        except (DamagedRecord, MissingRecord):
            return None

    def _own_record(self) -> Record:
        """Read the record, which must be of this run: its id names the folder, and is the hash of its spec.

        Raises:
            BadInput: As `read_record` does.
            DamagedRecord: Also if it is another run's, however whole.
        """
        path = self.path / RECORD
        record = read_record(path)
        if record.run_id != self.path.name:
            raise DamagedRecord([Fault(f"is the record of another run, {record.run_id}", file=str(path))])
        if record.spec.run_id != record.run_id:
            message = f"has the spec of another run, {record.spec.run_id}"
            raise DamagedRecord([Fault(message, file=str(path))])
        return record

    def damage(self, known: Record | None = None) -> str | None:
        """Describe the damage of the record, or of the predictions it names, in a line; None without damage.

        Args:
            known: The record, if it was just read and is whole.
        """
        try:
            if known is None and not (self.path / RECORD).is_file():
                return None
            named = (known or self._own_record()).predictions
        except DamagedRecord as error:
            return str(error)
        except MissingRecord:
            return None
        # A record may come from outside, and name any file.
        if named is None or named.file not in (PREDICTIONS, COMPLETIONS):
            return None
        content = _content(self.path / named.file)
        changed = content is not None and hashlib.sha256(content).hexdigest() != named.sha256
        return f"{self.path / named.file} does not match its record" if changed else None

    def lost_predictions(self, record: Record) -> Path | None:
        """Return the file that a record names for its predictions or completions if it is gone."""
        named = record.predictions
        if named is None or named.file not in (PREDICTIONS, COMPLETIONS):
            return None
        path = self.path / named.file
        return None if path.exists() or path.is_symlink() else path

    def put_damage_aside(self, known: Record | None = None) -> str | None:
        """Move a damaged record, or damaged predictions, to the quarantine, so that the run is repeated.

        Args:
            known: The record, if it was just read and is whole.

        Returns:
            The damage and its new place, or None without damage, or if another process has the run.
        """
        lock = self.try_lock() if self.damage(known) is not None else None
        if lock is None:
            return None
        with lock:
            damage = self.damage()
            if damage is None:
                return None
            record = self.record()
            damaged = RECORD if record is None or record.predictions is None else record.predictions.file
            if damaged != RECORD:
                # The record goes first: without its damaged predictions it would be taken for whole.
                self.retry()
            place = quarantine(self.path / damaged, damage, self.path / QUARANTINE)
            return f"{damage}; it was moved to {place}, and the run is repeated" if place is not None else None

    def attempts(self) -> int:
        """Return the number of attempts without a final record, and of records that a retry moved away."""
        return len(list((self.path / "attempts").glob("*.json")))

    def publish(self, record: Record) -> Record:
        """Write the record, or an attempt if its status is not final. Return the record in place afterwards."""
        if is_attempt(record):
            self.put_aside(record)
            return record
        path = self.path / RECORD
        while not write_once(path, sealed(record)):
            try:
                return self._own_record()
            except DamagedRecord as error:
                quarantine(path, str(error), self.path / QUARANTINE)
            except MissingRecord:
                if path.is_symlink():
                    quarantine(path, f"{path} is a dangling link", self.path / QUARANTINE)
                continue  # another process moved it away
        reach("publish.clean")
        if not goes_on(record):
            remove_checkpoints(self.checkpoints)
        return record

    def renew(self, record: Record) -> None:
        """Rewrite a record with facts that its own process learnt later, such as a score after training."""
        write_atomic(self.path / RECORD, sealed(record))

    def put_aside(self, record: Record) -> None:
        """Keep a record as an attempt, beside the published one."""
        self._put_aside(sealed(record))

    def retry(self, seen: Record | None = None) -> None:
        """Move the record to the attempts, so that the run is repeated.

        Args:
            seen: The record to move; nothing happens if it has been replaced, or another process has the run. None moves any
                record, and needs the run lock.
        """
        if seen is not None:
            lock = self.try_lock()
            if lock is not None:
                with lock:
                    if self.record() == seen:
                        self.retry()
            return
        path = self.path / RECORD
        content = _content(path)
        if content is not None:
            self._put_aside(content)
            path.unlink(missing_ok=True)
            (self.path / "traceback.txt").unlink(missing_ok=True)
            sync_folder(self.path)

    def _put_aside(self, content: bytes) -> None:
        number = self.attempts() + 1
        while not write_once(self.path / "attempts" / f"{number}.json", content):
            number += 1


class DamagedRecord(BadInput):
    """A file that was a record and is no longer readable."""


class MissingRecord(BadInput):
    """The file of a record does not exist, or no longer."""


def _content(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist or no longer."""
    try:
        return read_regular(path, MAX_BESIDE_BYTES) if path.is_file() else None
    except FileNotFoundError:
        return None


def read_records(path: Path) -> list[Record]:
    """Read every record at *path*, in the order of their run ids: a runs folder, a baseline, or one record.

    Raises:
        LoraBenchError: If the path does not exist or has no record.
        BadInput: With every unreadable record.
    """
    if not path.exists():
        raise LoraBenchError(f"{path} does not exist; `lora-bench run SUITE` writes records to runs/SUITE")
    files = [path] if path.is_file() else record_files(path)
    if not files:
        raise LoraBenchError(f"{path} has no records: neither RUN_ID/record.json nor records/RUN_ID.json")
    records: list[Record] = []
    faults: list[Fault] = []
    for file in files:
        try:
            records.append(read_record(file))
        except MissingRecord:
            continue  # another process moved it away
        except BadInput as error:
            faults += error.faults
    if faults:
        raise BadInput(faults)
    return sorted(records, key=lambda record: record.run_id)


def record_files(folder: Path) -> list[Path]:
    """Return the record files of a runs folder or a baseline."""
    runs = folder.glob(f"*/{RECORD}")
    beside = (f".{PREDICTIONS}", f".{PROBABILITIES}")
    baseline = (path for path in folder.glob("records/*.json") if not path.name.endswith(beside))
    return sorted([*runs, *baseline])


def accept(runs: Path, baseline: Path) -> list[Record]:
    """Copy the records of a runs folder, with predictions and probabilities, into a baseline, replacing those in it.

    Interrupted at any moment, the baseline has whole records, old and new; the same command completes it.

    Raises:
        LoraBenchError: If there are no records, or predictions are missing or do not match their record.
    """
    records = read_records(runs)
    files = {record.run_id: _beside(runs / record.run_id, record) for record in records}
    target = baseline / "records"
    written: set[str] = set()
    for record in records:
        beside = {f"{record.run_id}.{name}": content for name, content in files[record.run_id].items()}
        for name, file in {**beside, f"{record.run_id}.json": to_json(record)}.items():
            write_atomic(target / name, file)
            written.add(name)
    for path in sorted(target.iterdir()):
        if path.name not in written and path.is_file():
            path.unlink()
    sync_folder(target)
    return records


def _beside(folder: Path, record: Record) -> dict[str, bytes]:
    """Return the contents of the files that a baseline keeps of a run beside its record, by name."""
    named = [(one.file, one.sha256) for one in (record.predictions, record.probabilities) if one is not None]
    found = {}
    for file, sha256 in named:
        if file not in (PREDICTIONS, PROBABILITIES):
            continue
        found[file] = _content(folder / file) or b""
        if hashlib.sha256(found[file]).hexdigest() != sha256:
            raise LoraBenchError(f"{folder / file} is missing or does not match its record; run {record.run_id} again")
    return found


class Answers(NamedTuple):
    """Predictions of a run for each scored example, and the references, in the order of the examples.

    Args:
        probabilities: For each example the probability of each class, rounded; None if they were not kept.
        item_scores: Score of each example by metric, for metrics of texts that are not kept; None for other metrics.
    """

    predictions: list[Any]
    references: list[Any]
    probabilities: list[list[float]] | None = None
    item_scores: dict[str, list[float]] | None = None


def answers_in(path: Path, records: Iterable[Record]) -> Callable[[str], Answers | None]:
    """Return a function that reads, by run id, the predictions beside *records* in a runs folder or a baseline.

    It returns None if the run left no predictions, they are missing, or they do not match the record.
    """
    by_id = {record.run_id: record for record in records}

    def read(run_id: str) -> Answers | None:
        record = by_id.get(run_id)
        if record is None or record.predictions is None or record.predictions.file != PREDICTIONS:
            return None
        found = whole(run_id, record.predictions)
        kept = whole(run_id, record.probabilities) if record.probabilities is not None else None
        if found is None:
            return None
        shares = kept["probabilities"] if kept is not None else None
        return Answers(found["predictions"], found["references"], shares, found.get("item_scores"))

    def whole(run_id: str, named: Predictions | Probabilities) -> dict[str, Any] | None:
        """Return the content of a file that matches its record."""
        if named.file not in (PREDICTIONS, PROBABILITIES):
            return None
        for file in (path / run_id / named.file, path / "records" / f"{run_id}.{named.file}"):
            content = _content(file) or b""
            if hashlib.sha256(content).hexdigest() == named.sha256:
                found: dict[str, Any] = json.loads(content)
                return found
        return None

    return read


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        BadInput: If it is unreadable or from a newer lora_bench; `DamagedRecord` if it is damaged, `MissingRecord` if it does
            not exist.
    """
    return read_sealed(path, Record, SCHEMA, "record")


ModelT = TypeVar("ModelT", bound=BaseModel)


def read_sealed(path: Path, model: type[ModelT], newest: int, kind: str) -> ModelT:
    """Read a record of any kind, with or without a seal.

    Args:
        path: Its file.
        model: Its class.
        newest: Newest known schema.
        kind: Its name in messages.

    Raises:
        BadInput: If it is unreadable or from a newer lora_bench; `DamagedRecord` if it is damaged, `MissingRecord` if it does
            not exist.
    """

    def fault(message: str) -> list[Fault]:
        return [Fault(message, file=str(path))]

    try:
        data, has_seal = unseal(read_regular(path, MAX_RECORD_BYTES))
    except OSError as error:
        kind_of_fault = MissingRecord if isinstance(error, FileNotFoundError) else BadInput
        raise kind_of_fault(fault(f"is no {kind}: {error.strerror}")) from None
    except DamagedContent as error:
        raise DamagedRecord(fault(f"is no {kind}: {error}")) from None
    version = data.get("schema")
    if isinstance(version, int) and version > newest:
        schema = f"{kind.removesuffix(' record')} schema {version}"
        newer = f"was written with {schema}, and this lora_bench reads up to {newest}; upgrade it"
        raise BadInput(fault(newer))
    try:
        # JSON mode accepts a list for a tuple and keeps every other type strict.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        unread = [dotted(one["loc"]) for one in error.errors() if one["type"] == "extra_forbidden"]
        all_unread = len(unread) == error.error_count()
        if not has_seal and (not all_unread or any(is_seal(data, name) for name in unread)):
            raise DamagedRecord(fault(f"is no {kind}: {first_fault(error)}")) from None
        # Its own version of lora_bench sealed it, or exported it without a seal, so its unknown fields are intended.
        said = f"it has {', '.join(unread[:3])}" if all_unread else first_fault(error)
        newer = f"is no {kind} that this lora_bench knows: {said}, which a newer one may have written; upgrade it"
        raise BadInput(fault(newer)) from None
    except ValueError as error:
        raise DamagedRecord(fault(f"is no {kind}: {error}")) from None


def first_fault(error: Exception) -> str:
    """Describe the fault of an unreadable file in a line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{dotted(first['loc'])}: {first['msg']} (of {error.error_count()} faults)"


def to_json(record: BaseModel) -> bytes:
    """Return a record as exported: sorted keys, two spaces, no NaN, a newline at the end."""
    return as_json(record.model_dump(mode="json", by_alias=True))


def sealed(record: BaseModel) -> bytes:
    """Return a record as stored in a runs folder: with a hash of itself."""
    return seal(record.model_dump(mode="json", by_alias=True))
