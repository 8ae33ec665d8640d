"""What an executor knows of processes: why one ended, and how none is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lora_bench.records.outcomes import NO_MEMORY, SIGNAL

CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PR_SET_PDEATHSIG = 1


def cause(code: int, *, out_of_memory: bool = False, who: str | None = None) -> str:
    """Why a worker ended, from its exit code, which is the negative number of a signal if one ended it.

    Args:
        code: As `os.waitstatus_to_exitcode` gives it.
        out_of_memory: Whether the kernel ended a process for want of memory meanwhile.
        who: What to call it.
    """
    if code >= 0:
        return f"{who or 'its worker'} ended with exit code {code}"
    name, who = signal.Signals(-code).name, who or "the worker"
    if name != "SIGKILL":
        return f"{SIGNAL} {name}: it ended {who}"
    if out_of_memory:
        return f"{SIGNAL} {name}: the kernel ended {who}, because {NO_MEMORY}"
    return f"{SIGNAL} {name}: it ended {who} (the kernel ends processes so when memory runs out)"


def memory_kills(membership: str | None = None, groups: Path = CONTROL_GROUPS) -> int | None:
    """How many processes of this one's control group the kernel has ended for want of memory; None where it does not tell.

    Args:
        membership: The content of /proc/self/cgroup; this process's by default.
        groups: Where control groups are mounted.
    """
    if membership is None:
        try:
            membership = Path("/proc/self/cgroup").read_text()
        except OSError:
            return None
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            places = [groups / path.lstrip("/") / "memory.events", groups / "memory.events"]
        elif "memory" in controllers.split(","):
            control = groups / "memory"
            places = [control / path.lstrip("/") / "memory.oom_control", control / "memory.oom_control"]
        else:
            continue
        for place in places:
            with contextlib.suppress(OSError, ValueError):
                counts = dict(line.split() for line in place.read_text().splitlines())
                if "oom_kill" in counts:
                    return int(counts["oom_kill"])
    return None


def end_with_parent(*, really: bool = True) -> None:
    """Have the kernel end this process when the one that started it ends; or no longer. Linux alone can do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if really else 0)


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a child ends within so many seconds; its number stays its own until it is waited for."""
    if not hasattr(os, "waitid"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.poll() is not None
    end = time.monotonic() + seconds
    while process.returncode is None:
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True


def kill_session(session: int) -> None:
    """Kill every process of a session, such as what a worker started and did not end."""
    import psutil

    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
