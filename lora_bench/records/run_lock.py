"""Run locks: any number of processes share a runs folder, and each run belongs to one process at a time.

    runs/<suite>/<run_id>/claim-<n>.json    owner of the run, and a counter that grows while it works (the heartbeat)
                          lock              locked by the same process, if the file system has locks

The file with the highest number counts. A process takes the run by adding file n + 1 above a file n that is free or whose
owner is dead. It adds it by a hard link, which fails if another process was faster: exactly one process succeeds. The highest
file is never removed, so a slow process cannot mistake a run taken meanwhile for a free one. A released file says so and
stays.

If the file system has locks, the owner also holds one. It ends with the last process that has it; until then no process
takes the run, whatever the file says. Without it, an owner on the same machine since the same boot is looked up by its number
and start. An owner from an earlier boot of this machine, on a local file system, is gone. Of any other owner only the
heartbeat is visible, a counter that its thread advances in the file. An owner whose counter stood still for two minutes, by
the clock of the process that looks, is dead. A disk in this machine proves nothing about other machines, which may reach it
through this one. No time of day and no time of a file decides anything.
"""

import contextlib
import dataclasses
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Literal, Self

from lora_bench.records.layout import RECORD
from lora_bench.util.atomic_files import TEMPORARY, is_local, let_others_read, link_once, make_folder
from lora_bench.util.process_identity import Process, is_alive, is_before_this_start, this_process
from lora_bench.util.regular_files import MIB, read_regular

HEARTBEAT_SECONDS = 10.0
# A process that reads gigabytes, or whose file server is away, may miss some beats.
SILENT_BEATS = 12
# Interval at which a waiting process looks again.
LOOK_SECONDS = 0.5

LOCK = "lock"
_NAME = re.compile(r"claim-(\d+)\.json")
# The counter is at the end of the file, so that a beat writes the same few bytes.
_DIGITS = 12
_TAIL = b"}\n"

_State = Literal["free", "held", "dead", "unknown"]


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """Result of a job whose run is locked by another process."""

    run_id: str
    status: str = "elsewhere"


class RunLock:
    """The lock of this process on a run, until `release` or its end.

    Writes go to the open lock file, *descriptor*, even after another process has taken the run over, never into its file.
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
        """Return True if another process, on another machine, has taken the run over because this one stood still too long."""
        try:
            return _highest(self.folder) != self.number
        except FileNotFoundError:
            return False  # the folder was removed, and nothing taken over

    def release(self) -> None:
        """Release the run."""
        self._ended.set()
        self._thread.join()
        size = os.fstat(self._descriptor).st_size
        self._write(0, b'{"free": true' + b" " * (size - len(b'{"free": true') - len(_TAIL)) + _TAIL)
        os.close(self._descriptor)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beats += 1
            self._write(self._counter_at, b"%*d" % (_DIGITS, beats))

    def _write(self, at: int, content: bytes) -> None:
        """Write into the lock file; the next beat tries again if the disk or server is away."""
        try:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            os.write(self._descriptor, content)
            os.fsync(self._descriptor)  # a file server shows it to others only then
        except OSError:
            return


def try_lock(folder: Path, reaped: int | None = None) -> RunLock | None:
    """Lock a run without waiting; None if another process has it. A lock of *reaped*, known to have ended, does not count."""
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
    """Watches runs of other processes, and remembers by its own clock when their counters moved."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, bytes | None, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Return True if a run can be taken: it is unlocked, or its owner is dead."""
        lock = _locked(folder)
        if lock is None:
            return False
        try:
            number, content = _look(folder)
            state = _state(folder, content)
            if state == "unknown" and self._is_silent(folder, number, content):
                # No other process knows how long this one has watched, so this one writes that the run is free.
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
    """Return the lock of a run, to be closed; None if another process has it. Without file locks it locks nothing."""
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
    return max((int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))), default=0)


def _look(folder: Path) -> tuple[int, bytes | None]:
    """Return the number and content of the lock file that counts; 0 and None without any."""
    while number := _highest(folder):
        try:
            return number, read_regular(_path(folder, number), MIB)
        except FileNotFoundError:
            continue  # a higher one replaced it
    return 0, None


def _state(folder: Path, content: bytes | None, reaped: int | None = None) -> _State:
    """Return the state that a lock file describes, for the holder of the file lock."""
    if content is None:
        return "free"
    try:
        data: dict[str, Any] = json.loads(content)
        if data.get("free") is True:
            return "free"
        owner = Process(**{field.name: data[field.name] for field in dataclasses.fields(Process)})
        alive = is_alive(owner)
    except (ValueError, LookupError, TypeError, AttributeError):
        return "unknown"  # truncated by a power cut, or being written
    if alive is None:
        is_reaped = reaped is not None and (owner.host, owner.pid) == (this_process().host, reaped)
        return "dead" if is_reaped or (is_before_this_start(owner) and is_local(folder)) else "unknown"
    return "held" if alive else "dead"


def _claim_of(owner: Process) -> bytes:
    text = json.dumps(dataclasses.asdict(owner))
    return text[:-1].encode() + b', "beats": ' + b"%*d" % (_DIGITS, 0) + _TAIL


def _put(folder: Path, number: int, content: bytes) -> int | None:
    """Add a lock file above all others. Return its descriptor, or None if another process was faster."""
    descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{this_process().tag}-", dir=folder)
    temporary, path = Path(name), _path(folder, number)
    try:
        # Closed before a name of it is removed, because Windows refuses that for an open file.
        with os.fdopen(descriptor, "wb") as file:
            let_others_read(descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        mine = link_once(temporary, path)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)) if mine else -1
    except FileNotFoundError:
        mine = False  # the temporary file was removed, or a higher one already counts; the caller will try again
    finally:
        temporary.unlink(missing_ok=True)
    if not mine:
        return None
    # Checked after the file is open: as long as no higher one counts, this name belongs to this process.
    if _highest(folder) != number:
        # It read the folder long ago: this number was free because a higher one counts.
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return None
    for below in folder.glob("claim-*.json"):
        match = _NAME.fullmatch(below.name)
        if match and int(match[1]) < number:
            with contextlib.suppress(PermissionError):  # Windows, where its owner has it open
                below.unlink(missing_ok=True)
    return descriptor


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number}.json"


def others_at_work(folder: Path) -> list[int]:
    """Return the numbers of other processes of this machine that hold runs of a suite, in order.

    It misses runs of another suite, of another runs folder or container, and a process between two runs.
    """
    others = set[int]()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            # No process holds a finished run, and a suite may have thousands of them. A record that must be made again is
            # moved away first.
            if not Path(entry.path, RECORD).exists():
                owners = map(_owner, Path(entry.path).glob("claim-*.json"))
                others |= {owner.pid for owner in owners if owner and owner.pid != os.getpid() and is_alive(owner)}
    return sorted(others)


def _owner(path: Path) -> Process | None:
    """Return the owner in a lock file; None if it is released, removed or incomplete."""
    try:
        data = json.loads(read_regular(path, MIB))
        return Process(**{field.name: data[field.name] for field in dataclasses.fields(Process)})
    except (OSError, ValueError, LookupError, TypeError):
        return None
