"""Ends of runs other than `ok`, and how the same command treats them the next time: docs/faults.md#how-a-run-ends.

A run that was ended from outside decides nothing, and neither does the first crash or loss of its process. It is repeated
before its learning rate is compared with others, or another run starts from it.
"""

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lora_bench.errors import LoraBenchError, WorkBroken, WorkersLost, causes
from lora_bench.records.record import Record

DISK_FULL = "disk_full"
OUT_OF_TIME = "out_of_time"
SIGNAL = "signal"
NO_MEMORY = "the memory of its control group ran out"

# Nothing in a run sends these signals: they come from a person, a scheduler or the kernel.
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
# Beginnings of the reason of a run whose process ended before it returned a record.
_LOST_PROCESS = (SIGNAL, "its worker ended")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Messages of libraries that write without Python's files, such as safetensors.
_SAID_FULL = (*(f"os error {number}" for number in _FULL), "StorageFull", "No space left on device")
# Messages that PyTorch raises as a plain RuntimeError.
_SAID_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_disk_full(error: BaseException) -> bool:
    """Return True if an error, or a cause of it, is a full disk or an exhausted quota."""
    return any(
        one.errno in _FULL if isinstance(one, OSError) else any(words in str(one) for words in _SAID_FULL)
        for one in causes(error)
    )


@contextmanager
def at_work(began: Callable[[], bool] = lambda: True, did: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Re-raise an `OSError` in this block as `WorkBroken`: it is no fault of the input, and finished work is kept.

    A full disk and a closed output pipe keep their errors, and so do all before the work *began*. Once it *did* any, a
    `LoraBenchError` breaks it off too.
    """
    try:
        yield
    except WorkersLost:
        raise
    except LoraBenchError as error:
        if not did() or isinstance(error, WorkBroken):
            raise
        raise WorkBroken(str(error)) from error
    except OSError as error:
        if not began() or isinstance(error, BrokenPipeError) or is_disk_full(error):
            raise
        raise WorkBroken(str(error)) from error


def cause(code: int, *, out_of_memory: bool = False, who: str | None = None) -> str:
    """Return why a worker ended, by its exit code, negative for a signal, and if the kernel lacked memory meanwhile."""
    if code >= 0:
        return f"{who or 'its worker'} ended with exit code {code}"
    name, who = signal.Signals(-code).name, who or "the worker"
    if name != "SIGKILL":
        return f"{SIGNAL} {name}: it ended {who}"
    if out_of_memory:
        return f"{SIGNAL} {name}: the kernel ended {who}, because {NO_MEMORY}"
    return f"{SIGNAL} {name}: it ended {who} (the kernel ends processes so when memory runs out)"


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that the memory of the device or the machine is exhausted."""
    # Compared by name, so that torch is not imported.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_NO_MEMORY)


def is_attempt(record: Record) -> bool:
    """Return True if the run was stopped and the same command resumes it."""
    return record.status == "interrupted" or (record.status == "failed" and record.reason == DISK_FULL)


def goes_on(record: Record) -> bool:
    """Return True if a repeat of the run resumes from its checkpoint: it was interrupted, and did not fail by itself."""
    return is_attempt(record) or record.status == "timeout" or is_done_again(record)


def is_done_again(record: Record) -> bool:
    """Return True if the same command repeats the run although it has a record: it was ended from outside."""
    return record.status == "failed" and _signal(record) in _FROM_OUTSIDE


def is_untried(record: Record) -> bool:
    """Return True if a run has no score through no fault of its own, so that nothing may be chosen by its record.

    A process that crashed, was lost, or was killed for lack of memory may have suffered from other processes. A second such
    attempt counts as the run's own failure, so that a suite ends although a run can never be done.
    """
    reason = record.reason or ""
    if is_done_again(record) and NO_MEMORY not in reason:
        return True
    return record.status == "failed" and reason.startswith(_LOST_PROCESS) and record.attempts < 2


def _signal(record: Record) -> str:
    """Return the signal that ended a run's process, such as `SIGKILL`, or an empty string."""
    word, _, rest = (record.reason or "").partition(" ")
    return rest.partition(":")[0] if word == SIGNAL else ""
