"""How runs end in other ways than `ok`, and what the same command does about it the next time.

| end | record | the same command |
| --- | --- | --- |
| asked to stop | an attempt | goes on from its checkpoint |
| disk full | an attempt; the suite stops | goes on from its checkpoint, once there is room |
| ended by somebody else's signal | `failed`, its reason begins with `signal` | goes on from its checkpoint, once |
| no progress | `timeout` | leaves it; `--retry` goes on from its checkpoint |
| crashed (`signal SIGSEGV`), out of memory, an exception | `out_of_memory` or `failed` | leaves it; `--retry` |
| diverged, unsupported | kept for good | leaves it |

Nothing is chosen by a run that was ended by somebody else, or whose process crashed or was lost for the first time: it is done
again before its learning rate is compared with others, or another run starts from it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lora_bench.errors import LoraBenchError, WorkBroken, WorkersLost
from lora_bench.records.record import Record

DISK_FULL = "disk_full"
SIGNAL = "signal"
NO_MEMORY = "the memory of its control group ran out"

# Nothing in a run sends these: a person, a scheduler or the kernel does.
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
# How the reason begins of a run whose process ended before it gave a record.
_LOST_PROCESS = (SIGNAL, "its worker ended", "its Ray actor was lost")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What libraries say that write without Python's files, such as safetensors.
_SAID_FULL = (*(f"os error {number}" for number in _FULL), "StorageFull", "No space left on device")
# What PyTorch raises as a plain RuntimeError.
_SAID_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what led to it, is that there is no room on the disk, or none that one may use."""
    return any(
        one.errno in _FULL if isinstance(one, OSError) else any(words in str(one) for words in _SAID_FULL)
        for one in _chain(error)
    )


@contextmanager
def at_work(began: Callable[[], bool] = lambda: True, did: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Re-raise an `OSError` in this block as `WorkBroken`: it is not of what the user gave, and work that was done is kept.

    A full disk, and a reader who has seen enough of what is printed, stay what they are.

    Args:
        began: Whether the work has begun when the error comes.
        did: Whether any work was done when the error comes; an error of what the user gave breaks the work off then.

    Raises:
        WorkBroken: In the place of another `OSError`, and of a `LoraBenchError` in the middle of the work.
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, of the device or the machine."""
    # By name, so that this needs no torch.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _said_no_memory(error)


def _said_no_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_NO_MEMORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def is_attempt(record: Record) -> bool:
    """Whether the run is not done: it was stopped, and the same command goes on with it."""
    return record.status == "interrupted" or (record.status == "failed" and record.reason == DISK_FULL)


def goes_on(record: Record) -> bool:
    """Whether the run, done again, goes on from its checkpoint: it was cut off, and did not go wrong by itself."""
    return is_attempt(record) or record.status == "timeout" or is_done_again(record)


def is_done_again(record: Record) -> bool:
    """Whether the same command does the run again although it has a record: somebody else ended it."""
    return record.status == "failed" and _signal(record) in _FROM_OUTSIDE


def is_untried(record: Record) -> bool:
    """Whether a run gave no score through no fault of its own, so that nothing may be chosen by its record.

    A process that crashed, was lost, or was ended for want of memory may have suffered from others. In its second attempt it
    has failed by itself, so that a suite gets on without a run that can never be done.
    """
    reason = record.reason or ""
    if is_done_again(record) and NO_MEMORY not in reason:
        return True
    return record.status == "failed" and reason.startswith(_LOST_PROCESS) and record.attempts < 2


def _signal(record: Record) -> str:
    """The signal that ended a run's process, such as `SIGKILL`, or nothing."""
    word, _, rest = (record.reason or "").partition(" ")
    return rest.partition(":")[0] if word == SIGNAL else ""
