"""Identity of a process, unique over time: run locks carry it, and names of temporary files."""

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Two readings of the clock differ a little if it is set meanwhile; a process number is not reused so soon.
_SLACK_TICKS = 200


@dataclass(frozen=True)
class Process:
    """A process.

    Args:
        host: Name of the machine. Machines may share it, so it alone never tells that a process lives or ended.
        boot_id: Id of the machine's current boot, or None if the system does not tell.
        pid_namespace: Namespace of the number, since a container has its own. None if the system does not tell.
        start_ticks: Start in clock ticks since the boot, or None if the system does not tell.
    """

    host: str
    boot_id: str | None
    pid_namespace: str | None
    pid: int
    start_ticks: int | None

    @property
    def place(self) -> tuple[str, str] | None:
        """Scope in which its number is valid, or None if unknown."""
        known = self.boot_id is not None and self.pid_namespace is not None and self.start_ticks is not None
        return (str(self.boot_id), str(self.pid_namespace)) if known else None

    @property
    def tag(self) -> str:
        """Short name from host, boot, namespace, number and start."""
        where = (self.host, self.boot_id, self.pid_namespace)
        words = ("unknown" if word is None else hashlib.sha256(word.encode()).hexdigest()[:8] for word in where)
        return f"{'-'.join(words)}-{self.pid}-{'unknown' if self.start_ticks is None else self.start_ticks}"


def this_process() -> Process:
    """Return the identity of the calling process."""
    pid, host = os.getpid(), platform.node()
    boot_id, pid_namespace = _text(_PROC / "sys/kernel/random/boot_id"), _text(_PROC / "self/ns/pid")
    if sys.platform != "linux":
        # macOS and others: numbers are valid for the whole machine, and its boot time tells boots apart.
        boot_id, pid_namespace = boot_id or f"{host} since {_boot_seconds():.0f}", pid_namespace or host
    return Process(host, boot_id, pid_namespace, pid, start_ticks(pid))


def start_ticks(pid: int) -> int | None:
    """Return the start of a process of this machine, None if it has ended. Raise PermissionError if it may not be seen."""
    stat = _text(_PROC / str(pid) / "stat")
    if stat is None:
        return None if sys.platform == "linux" or _has_proc() else _ticks_without_proc(pid)
    # Fields of proc(5) after the program's name, which may hold any character: the third is the state, the 22nd the start.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _ticks_without_proc(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        # Seconds since the boot, so that setting the clock changes neither.
        return None if ended else round(100 * (process.create_time() - _boot_seconds()))
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from None


def _boot_seconds() -> float:
    import psutil

    return float(psutil.boot_time())


def is_alive(process: Process) -> bool | None:
    """Return True if a process still runs; None if it is on another machine or in another container."""
    if process.place is None or process.start_ticks is None or process.place != this_process().place:
        return None
    return _goes_on(process.pid, process.start_ticks)


def is_before_this_start(process: Process) -> bool:
    """Return True if a process belongs to an earlier boot of a machine with this name; machines may share a name."""
    here = this_process()
    return process.host == here.host and None not in (process.boot_id, here.boot_id) and process.boot_id != here.boot_id


def tag_is_gone(tag: str) -> bool:
    """Return True if the process with a tag is known to have ended: by its number, or by a reboot of its machine."""
    words, here = tag.split("-"), this_process().tag.split("-")[:3]
    if len(words) != 5 or "unknown" in (*words, *here):
        return False
    *where, pid, ticks = words
    if not (pid.isdecimal() and ticks.isdecimal()):
        return False
    if where == here:
        return _goes_on(int(pid), int(ticks)) is False
    return where[0] == here[0] and where[1] != here[1]


def _goes_on(pid: int, began: int) -> bool | None:
    try:
        now = start_ticks(pid)
    except PermissionError:
        return None
    return now is not None and abs(now - began) <= (0 if _has_proc() else _SLACK_TICKS)


def _has_proc() -> bool:
    return _text(_PROC / "self/stat") is not None


def _text(path: Path) -> str | None:
    """Return the text of a file, or the target of a link."""
    try:
        return str(path.readlink()) if path.is_symlink() else path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
