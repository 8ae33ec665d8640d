"""A process, told from all others that there are and were: what a claim carries, and what a temporary file is named by."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process.

    Args:
        host: The machine's name, for a reader: it decides nothing, since machines may share one.
        boot_id: The machine since it was started, or None where the system does not say.
        pid_namespace: Where the number counts: a container has its own. None where the system does not say.
        pid: Its number, which the system gives again when it is free.
        start_ticks: When it began, in clock ticks since the machine was started, or None where the system does not say.
    """

    host: str
    boot_id: str | None
    pid_namespace: str | None
    pid: int
    start_ticks: int | None

    @property
    def place(self) -> tuple[str, str] | None:
        """Where its number means something, or None where that is not known."""
        known = self.boot_id is not None and self.pid_namespace is not None and self.start_ticks is not None
        return (str(self.boot_id), str(self.pid_namespace)) if known else None

    @property
    def tag(self) -> str:
        """A short name without the host's."""
        where = hashlib.sha256(repr(self.place).encode()).hexdigest()[:8] if self.place is not None else "unknown"
        return f"{where}-{self.pid}-{self.start_ticks or 0}"


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(
        host=platform.node(),
        boot_id=_text(Path("/proc/sys/kernel/random/boot_id")),
        pid_namespace=_link(Path("/proc/self/ns/pid")),
        pid=pid,
        start_ticks=start_ticks(pid),
    )


def start_ticks(pid: int) -> int | None:
    """When a process of this machine began, or None where there is no such process or it has ended."""
    stat = _text(Path(f"/proc/{pid}/stat"))
    if stat is None:
        return None
    # After the program's name, which may hold anything: the third field of proc(5) is the state, the 22nd the start.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(process: Process) -> bool | None:
    """Whether a process goes on, or None where this process cannot tell: it is on another machine, or in another container."""
    here = this_process()
    if process.place is None or process.place != here.place:
        return None
    return start_ticks(process.pid) == process.start_ticks


def tag_is_alive(tag: str) -> bool | None:
    """As `is_alive`, of the process with a tag; None too for what is no tag."""
    where, _, rest = tag.partition("-")
    pid, _, ticks = rest.partition("-")
    if (
        where == "unknown"
        or this_process().tag.partition("-")[0] != where
        or not (pid.isdecimal() and ticks.isdecimal())
    ):
        return None
    return start_ticks(int(pid)) == int(ticks)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None
