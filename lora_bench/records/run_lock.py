"""Who is at a run: any number of harnesses share a runs folder, and each run is one process's at a time.

    runs/<suite>/<run_id>/claim-<n>.json    who is at the run, and a number that grows while it is
                          lock              locked by the same process, where the file system has locks

The claim with the highest number counts. RunLock n + 1 is put beside a claim n that is free, or whose owner is dead, by a link
that fails where somebody was faster: of any number of processes exactly one gets it. The highest claim is never removed, so
a slow process cannot take for free what was taken meanwhile; a claim that is given back says so and stays.

A lock is held as well, where there are locks: it goes with the last process that has it, and while it is held nobody takes
the run, whatever the claim says. Then an owner on the same machine since the same start is asked for by its number and start.
One of this machine's name and of another start, on a file system of its own, is gone: the machine was started anew. Of any
other only the heartbeat can be seen, a counter that a thread of it advances in the file: an owner whose counter stood still
for two minutes, by the clock of whoever looks, is dead. That the disk is in this machine says nothing of other machines, which
may reach it through this one. No time of day and no time of a file decides anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from lora_bench.records.layout import RECORD
from lora_bench.util.atomic_files import TEMPORARY, is_local, let_others_read, link_once, make_folder
from lora_bench.util.process_identity import Process, is_alive, is_before_this_start, this_process
from lora_bench.util.regular_files import MIB, read_regular

HEARTBEAT_SECONDS = 10.0
# A process that reads gigabytes, or whose file server is away, may miss some.
SILENT_BEATS = 12
# How often somebody who waits for a run looks.
LOOK_SECONDS = 0.5

LOCK = "lock"
_NAME = re.compile(r"claim-(\d+)\.json")
# The counter has its place at the end of the file, so that a beat writes the same few bytes.
_DIGITS = 12
_TAIL = b"}\n"

_State = Literal["free", "held", "dead", "unknown"]


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """What comes of a job whose run another process is at."""

    run_id: str
    status: str = "elsewhere"


class RunLock:
    """This process is at a run, until `release` or its end.

    Args:
        folder: The run's.
        number: Of the claim.
        descriptor: Its file. What is written goes there, even when somebody has taken the run over: never into theirs.
        lock: The locked file.
    """

    def __init__(self, folder: Path, number: int, descriptor: int, lock: IO[bytes]) -> None:
        self.folder = folder
        self.number = number
        self._descriptor = descriptor
        self._lock = lock
        self._counter_at = os.fstat(descriptor).st_size - len(_TAIL) - _DIGITS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {folder.name}", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another process has taken the run over: this one stood still for too long, on another machine than it."""
        try:
            return _highest(self.folder) != self.number
        except FileNotFoundError:
            return False  # somebody removed the folder, and took nothing over

    def release(self) -> None:
        """Give the run back."""
        self._ended.set()
        self._thread.join()
        size = os.fstat(self._descriptor).st_size
        self._write(0, b'{"free": true' + b" " * (size - len(b'{"free": true') - len(_TAIL)) + _TAIL)
        os.close(self._descriptor)
        self._lock.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beats += 1
            self._write(self._counter_at, b"%*d" % (_DIGITS, beats))

    def _write(self, at: int, content: bytes) -> None:
        """Write into the claim; a disk or server that is away for a moment is tried again at the next beat."""
        try:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            os.write(self._descriptor, content)
            os.fsync(self._descriptor)  # a file server shows it to others only then
        except OSError:
            return


def try_lock(folder: Path, reaped: int | None = None) -> RunLock | None:
    """Take a run, or None where another process is at it; does not wait.

    Args:
        folder: The run's, made where it is not there.
        reaped: The number of a process of this machine that is known to have ended, so that its claim counts no more where
            the system does not tell.
    """
    make_folder(folder)
    lock = _locked(folder)
    if lock is None:
        return None
    descriptor = None
    try:
        number, content = _look(folder)
        if _state(folder, content, reaped) in ("free", "dead"):
            number += 1
            descriptor = _put(folder, number, _claim_of(this_process()))
    finally:
        if descriptor is None:
            lock.close()
    return None if descriptor is None else RunLock(folder, number, descriptor, lock)


class Watch:
    """Looks at runs that other processes are at, and remembers when it saw their counters move, by its own clock."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, bytes | None, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Whether a run can be taken: nobody is at it, or whoever was is dead."""
        lock = _locked(folder)
        if lock is None:
            return False
        try:
            number, content = _look(folder)
            state = _state(folder, content)
            if state == "unknown" and self._is_silent(folder, number, content):
                # Nobody else can know how long this one has looked, so it says of the claim that it is free.
                descriptor = _put(folder, number + 1, b'{"free": true}\n')
                if descriptor is not None:
                    os.close(descriptor)
                return descriptor is not None
            return state in ("free", "dead")
        finally:
            lock.close()

    def _is_silent(self, folder: Path, number: int, content: bytes | None) -> bool:
        now = time.monotonic()
        before = self._seen.get(folder)
        if before is None or before[:2] != (number, content):
            self._seen[folder] = (number, content, now)
            return False
        return now - before[2] >= HEARTBEAT_SECONDS * SILENT_BEATS


def _locked(folder: Path) -> IO[bytes] | None:
    """The lock of a run, to be closed; None where another process has it. Where there are no locks, nothing is locked."""
    file = (folder / LOCK).open("ab")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except (ImportError, OSError):
        pass  # Windows, or a file system without locks
    return file


def _highest(folder: Path) -> int:
    """The number of the claim that counts, or 0."""
    return max((int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))), default=0)


def _look(folder: Path) -> tuple[int, bytes | None]:
    """The number and content of the claim that counts; 0 and None where there is none."""
    while number := _highest(folder):
        try:
            return number, read_regular(_path(folder, number), MIB)
        except FileNotFoundError:
            continue  # a higher one has come, and this one went
    return 0, None


def _state(folder: Path, content: bytes | None, reaped: int | None = None) -> _State:
    """What a claim says, to somebody who has the lock."""
    if content is None:
        return "free"
    try:
        data: dict[str, Any] = json.loads(content)
        if data.get("free") is True:
            return "free"
        owner = Process(**{field.name: data[field.name] for field in dataclasses.fields(Process)})
        alive = is_alive(owner)
    except (ValueError, LookupError, TypeError, AttributeError):
        return "unknown"  # half of it reached the disk before a power cut, or it is being written
    if alive is None:
        is_reaped = reaped is not None and (owner.host, owner.pid) == (this_process().host, reaped)
        return "dead" if is_reaped or (is_before_this_start(owner) and is_local(folder)) else "unknown"
    return "held" if alive else "dead"


def _claim_of(owner: Process) -> bytes:
    text = json.dumps(dataclasses.asdict(owner))
    return text[:-1].encode() + b', "beats": ' + b"%*d" % (_DIGITS, 0) + _TAIL


def _put(folder: Path, number: int, content: bytes) -> int | None:
    """Put a claim above all others, unless somebody was faster; its open file, or None."""
    descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{this_process().tag}-", dir=folder)
    temporary, path = Path(name), _path(folder, number)
    try:
        # Closed before a name of it is removed, which Windows refuses of an open file.
        with os.fdopen(descriptor, "wb") as file:
            let_others_read(descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        mine = link_once(temporary, path)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)) if mine else -1
    except FileNotFoundError:
        mine = False  # the temporary file was taken away, or this claim already counts no more; whoever asks will ask again
    finally:
        temporary.unlink(missing_ok=True)
    if not mine:
        return None
    # Looked at when the file is open: while no higher one counts, that name is this process's.
    if _highest(folder) != number:
        # It looked at the folder long ago: this number was free because a higher one counts.
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return None
    for below in folder.glob("claim-*.json"):
        found = _NAME.fullmatch(below.name)
        if found and int(found[1]) < number:
            with contextlib.suppress(PermissionError):  # Windows, where its owner has it open
                below.unlink(missing_ok=True)
    return descriptor


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number}.json"


def others_at_work(folder: Path) -> list[int]:
    """Return the numbers of the other processes of this machine that hold runs of a suite, in order.

    Not seen are runs of another suite, of another runs folder or container, and a process between two runs.

    Args:
        folder: Of a suite's runs, `RUNS/SUITE` or `RUNS/SUITE/SERIES`.
    """
    found = set[int]()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            # A finished run is held by no process, and a suite may have thousands of them. A record that is to be made
            # again is moved away first.
            if not Path(entry.path, RECORD).exists():
                found |= _others_in(Path(entry.path))
    return sorted(found)


def _others_in(folder: Path) -> set[int]:
    """The numbers of the other processes that are at one run."""
    owners = [owner for path in folder.glob("claim-*.json") if (owner := _owner(path)) is not None]
    return {owner.pid for owner in owners if owner.pid != os.getpid() and is_alive(owner)}


def _owner(path: Path) -> Process | None:
    """Whose a claim is; None for one that was given back, or is gone or half written."""
    try:
        data = json.loads(read_regular(path, MIB))
        return Process(**{field.name: data[field.name] for field in dataclasses.fields(Process)})
    except (OSError, ValueError, LookupError, TypeError):
        return None
