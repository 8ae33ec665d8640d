"""Store records, and publish each one atomically.

A runs folder has one folder a run, named by the run id. Its `record.json` is written once, for a final status only: to a
temporary file, flushed to the disk, then linked to its name. So a reader sees the whole record or none, and a second writer
never replaces the first. A record carries a hash of itself; predictions and weights are written before the record names them.
Damaged files are moved to `quarantine/` and never deleted.

    runs/<suite>/<run_id>/record.json         the record
                          predictions.json    one prediction an example, or completions.json with the generated texts
                          probabilities.json  of classification: the probability of each class for each example
                          weights/            the trained weights, if the suite keeps them
                          note.txt            of a model of nearly all rows: what stands in place of its score
                          attempts/<n>.json   attempts that ended without a final record, and retried records
                          checkpoint/         until the run is done
                          handover/           of a short trial: the state that a longer one goes on from, until it is done
                          claim-<n>.json      the run lock: which process has the run; see `lora_bench.records.run_lock`
                          quarantine/<n>/     damaged files, with the reason

A baseline holds the records of all runs in one file, and their answers in a second: see `lora_bench.records.baseline_folder`.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.records.answers_file import read_answers
from lora_bench.records.checkpoint_files import remove_checkpoints
from lora_bench.records.layout import ANSWERS_FILE, COMPLETIONS, PREDICTIONS, PROBABILITIES, RECORD, RUNS_FILE
from lora_bench.records.outcomes import goes_on, is_attempt
from lora_bench.records.record import MOST_SCORE, SCHEMA, Predictions, Probabilities, Record
from lora_bench.records.run_lock import LOOK_SECONDS, RunLock, Watch, try_lock
from lora_bench.records.sealed_records import DamagedRecord, MissingRecord, read_each, read_many, read_sealed, sealed
from lora_bench.util.atomic_files import QUARANTINE, quarantine, remove_orphans, sync_folder
from lora_bench.util.atomic_files import free_bytes as free_bytes
from lora_bench.util.atomic_files import write_atomic as write_atomic
from lora_bench.util.atomic_files import write_once as write_once
from lora_bench.util.failpoints import reach
from lora_bench.util.item_groups import groups_of_text
from lora_bench.util.regular_files import MIB, read_regular

# Our largest predictions have some MB.
MAX_BESIDE_BYTES = 1024 * MIB
AnswersFile = Predictions | Probabilities


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, until the run is done."""
        return self.path / "checkpoint"

    @property
    def handover(self) -> Path:
        """Folder of the state of a short trial before its rate falls, from which a longer trial goes on."""
        return self.path / "handover"

    @property
    def weights(self) -> Path:
        """Folder of the trained weights."""
        return self.path / "weights"

    @property
    def note(self) -> Path:
        """File with a sentence on the weights of a run whose score says nothing: it stands in place of the score."""
        return self.path / "note.txt"

    def of(self, run_id: str) -> "RunFolder":
        """Return the folder of another run of the same suite."""
        return RunFolder(self.path.parent / run_id)

    def try_lock(self, reaped: int | None = None) -> RunLock | None:
        """Lock this run for this process without waiting. Return None if another process has it.

        Half-written files of a killed process are removed; *reaped* is the number of one known to have ended.
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

        Raise BadInput if it is unreadable or from a newer lora_bench; LoraBenchError if a link is in its place, through which
        files elsewhere would be written or removed.
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
        """Read the record, which must be of this run. Raise BadInput as `read_record` does, DamagedRecord for another run's."""
        path = self.path / RECORD
        record = read_record(path)
        if record.run_id != self.path.name:
            raise DamagedRecord([Fault(f"is the record of another run, {record.run_id}", file=str(path))])
        if record.spec.run_id != record.run_id:
            message = f"has the spec of another run, {record.spec.run_id}"
            raise DamagedRecord([Fault(message, file=str(path))])
        return record

    def damage(self, known: Record | None = None) -> str | None:
        """Describe the damage of the record, or of its predictions; None without any. *known* is the whole record, if read."""
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

        Return the damage and its new place; None without damage, or if another process has the run. See `damage` for *known*.
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
        """Move the record to the attempts, if it is *seen* and no process has the run; None moves any, under the run lock."""
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


def _content(path: Path) -> bytes | None:
    try:
        return read_regular(path, MAX_BESIDE_BYTES) if path.is_file() else None
    except FileNotFoundError:
        return None


def read_records(path: Path) -> list[Record]:
    """Read every record at *path*, by run id. Raise LoraBenchError if there is none, BadInput with each unreadable one."""
    if not path.exists():
        raise LoraBenchError(f"{path} does not exist; `lora-bench run SUITE` writes records to runs/SUITE")
    if path.name == RUNS_FILE and path.is_file():
        path = path.parent
    if is_baseline(path):
        return read_many(path / RUNS_FILE, Record, SCHEMA, "record")
    files = [path] if path.is_file() else record_files(path)
    if not files:
        raise LoraBenchError(f"{path} has no records: neither RUN_ID/{RECORD} nor {RUNS_FILE}")
    return sorted(read_each(files, read_record), key=lambda record: record.run_id)


def stopped_runs(folder: Path, records: Iterable[Record]) -> list[Record]:
    """Return the last attempt of each run that was stopped and has no record, unless *records* has its method's on that seed.

    Such a record takes its place where a suite was edited after the stop.
    """

    def place(record: Record) -> tuple[str, str, str | None, int | None]:
        spec = record.spec
        return spec.task.name, spec.model.name, spec.method.label, spec.seed

    done = {place(record) for record in records}
    stopped = []
    attempts = sorted(folder.glob("*/attempts/*.json"), key=lambda path: (len(path.name), path.name))
    for run, last in {path.parent.parent: path for path in attempts}.items():
        if not (run / RECORD).exists():
            with contextlib.suppress(BadInput):  # a damaged attempt is no part of a result
                attempt = read_record(last)
                if is_attempt(attempt) and place(attempt) not in done:
                    stopped.append(attempt)
    return stopped


def record_files(folder: Path) -> list[Path]:
    """Return the record files of a runs folder."""
    return sorted(folder.glob(f"*/{RECORD}"))


def is_baseline(folder: Path) -> bool:
    """Return True if one file has the records of all runs. Raise LoraBenchError if runs lie beside that file."""
    if not (folder / RUNS_FILE).is_file():
        return False
    if record_files(folder):
        raise LoraBenchError(f"{folder} has both {RUNS_FILE} and RUN_ID/{RECORD}; move one of them elsewhere")
    return True


def has_records(folder: Path) -> bool:
    """Return True if *folder* has records of runs, in folders of their own or in one file."""
    return is_baseline(folder) or bool(record_files(folder))


class Answers(NamedTuple):
    """Predictions of a run for each scored example, and the references, in the order of the examples.

    Args:
        probabilities: For each example the probability of each class, rounded; None if they were not kept.
        item_scores: Score of each example by metric, for metrics of texts that are not kept; None for other metrics.
        groups: Number of each example's group; None where every example stands alone.
    """

    predictions: list[Any]
    references: list[Any]
    probabilities: list[list[float]] | None = None
    item_scores: dict[str, list[float]] | None = None
    groups: list[int] | None = None


def files_in(folder: Path) -> Callable[[str, AnswersFile], bytes | None]:
    """Return a function that reads, by run id, a file of answers that a record names in a runs folder or a baseline.

    It returns None for completions, which no baseline has, and for a file of a runs folder that is missing or does not match
    its record. In a baseline such a file is an error.
    """
    if not is_baseline(folder):

        def of_run(run_id: str, named: AnswersFile) -> bytes | None:
            content = _content(folder / run_id / named.file) if named.file in (PREDICTIONS, PROBABILITIES) else None
            return content if hashlib.sha256(content or b"").hexdigest() == named.sha256 else None

        return of_run
    kept = functools.cache(lambda: read_answers(folder / ANSWERS_FILE))

    def of_baseline(run_id: str, named: AnswersFile) -> bytes | None:
        if named.file not in (PREDICTIONS, PROBABILITIES):
            return None
        if named.sha256 not in kept():
            missing = f"has no {named.file} of run {run_id} that matches its record; it changed after it was written"
            raise BadInput([Fault(missing, file=str(folder / ANSWERS_FILE))])
        return kept()[named.sha256].content

    return of_baseline


def answers_in(path: Path, records: Iterable[Record]) -> Callable[[str], Answers | None]:
    """Return a reader, by run id, of the predictions beside *records*; None for those that are missing or do not match."""
    by_id = {record.run_id: record for record in records}
    file_of = files_in(path)

    def read(run_id: str) -> Answers | None:
        record = by_id.get(run_id)
        if record is None or record.predictions is None or record.predictions.file != PREDICTIONS:
            return None
        found = whole(run_id, record.predictions)
        kept = whole(run_id, record.probabilities) if record.probabilities is not None else None
        if found is None:
            return None
        shares = kept["probabilities"] if kept is not None else None
        return Answers(found["predictions"], found["references"], shares, found.get("item_scores"), found.get("groups"))

    def whole(run_id: str, named: AnswersFile) -> dict[str, Any] | None:
        """Return the content of a file that matches its record."""
        content = file_of(run_id, named)
        if content is None:
            return None
        try:
            found: dict[str, Any] = json.loads(content)
            parts = ("predictions", "references") if named.file == PREDICTIONS else ("probabilities",)
            if not all(isinstance(found[part], list) for part in parts):
                return None
            if not (_alike if named.file == PREDICTIONS else _are_shares)([found[part] for part in parts]):
                raise ValueError("they are of different types")
            groups = named.groups if isinstance(named, Predictions) else None
            return found if groups is None else {**found, "groups": groups_of_text(groups, len(found["references"]))}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadInput([Fault(f"{named.file} of run {run_id} has no answers: {error}", file=str(path))]) from None

    return read


def _alike(columns: Sequence[list[Any]]) -> bool:
    """Return True if the values of each column are of one type, and all columns have numbers or none has."""
    forms = [_forms(column) for column in columns]
    return (
        all(len(form) <= 1 and None not in form for form in forms)
        and len({"number" in form for form in forms if form}) <= 1
    )


def _are_shares(tables: Sequence[list[Any]]) -> bool:
    """Return True if each table has rows of one length, of numbers from 0 to 1."""
    import numpy as np

    arrays = [np.array(table) for table in tables if table]
    return all(one.ndim == 2 and one.dtype.kind in "fiu" and bool(((one >= 0) & (one <= 1)).all()) for one in arrays)


def _forms(column: Sequence[Any]) -> set[str | None]:
    if set(map(type, column)) <= {int, float}:  # most columns, at a hundredth of the time
        return {"number" if max(map(abs, column)) <= MOST_SCORE else None} if column else set()
    return {_form(value) for value in column}


def _form(value: Any) -> str | None:
    """Return what an answer is: a number, a text, or a list or mapping of such; None for anything else."""
    if isinstance(value, int | float):
        return "number" if abs(value) <= MOST_SCORE else None
    if isinstance(value, list | dict):
        inside = value if isinstance(value, list) else value.values()
        return type(value).__name__ if all(one is None or _form(one) is not None for one in inside) else None
    return "text" if isinstance(value, str) else None


def read_record(path: Path) -> Record:
    """Read one record. Raise BadInput as `read_sealed` does."""
    return read_sealed(path, Record, SCHEMA, "record")
