"""Ways to leave no process behind, and what the kernel says of those that it ended."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PR_SET_PDEATHSIG = 1


def memory_kills(membership: str | None = None, groups: Path = CONTROL_GROUPS) -> int | None:
    """Return how many processes of this control group the kernel has ended for lack of memory, or None if it does not tell.

    *membership* is the content of /proc/self/cgroup, by default of this process; *groups* is the mount point of control groups.
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
    """Make the kernel end this process when its parent ends, or undo it with *really* False. Only Linux can do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if really else 0)


def forks_can_use_cuda() -> bool:
    """Return False if CUDA has been started in this process; torch then refuses it in every fork, so a fork tells."""
    import torch

    pid = os.fork()
    if not pid:
        os._exit(torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())
    return os.waitpid(pid, 0)[1] == 0


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return True if a child ends within some seconds; its number is not reused until it is waited for."""
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
    """Kill every process of a session, including children that a worker left behind."""
    import psutil

    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
