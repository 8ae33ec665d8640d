"""The protocol of executors: take units of work, yield the result of each job in any order, stop on request."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, Protocol, TypeVar

from lora_bench.training.job import Note, Word

# Longest silence of a pack, unless one of its members is allowed more.
LONGEST_SILENCE_SECONDS = 1800.0


class AnyJob(Protocol):
    """A job, of a run or of one process of a probe: its unique name, and the number of steps to display, if known before."""

    @property
    def run_id(self) -> str: ...
    @property
    def steps(self) -> int | None: ...


class Done(Protocol):
    """The record of a job: its name, and how it ended."""

    @property
    def run_id(self) -> str: ...
    @property
    def status(self) -> str: ...


JobT = TypeVar("JobT", bound=AnyJob)
DoneT = TypeVar("DoneT", bound=Done)
DoneT_co = TypeVar("DoneT_co", bound=Done, covariant=True)


def patience_with(each: Sequence[float | None]) -> float | None:
    """Return the seconds of silence allowed to runs that share their steps, from those of *each* alone; None for no limit."""
    known = [one for one in each if one is not None]
    if not known or len(known) < len(each):
        return None
    return min(sum(known), max(*known, LONGEST_SILENCE_SECONDS))


@dataclass(frozen=True)
class Alive:
    """Heartbeat of a run in work without steps, such as an evaluation."""

    run_id: str


@dataclass(frozen=True)
class PackFailed(Note):
    """A note that the runs of a pack will be done alone."""


def pack_failed(reason: str) -> str:
    """Return the sentence on a pack whose runs are done alone."""
    return f"a pack failed, so its runs are done one by one: {reason}"


def done_alone(jobs: Sequence[JobT], reason: str) -> list[list[JobT]]:
    """Return units for the jobs of a pack that failed: each is done alone, and its record says why."""
    return [[replace(job, alone_because=reason)] for job in jobs]  # type: ignore[type-var]  # only runs are packed


@dataclass(frozen=True)
class Lost(Generic[JobT]):
    """A job whose worker ended before it returned a record, with the reason, and the number of a process that has ended."""

    job: JobT
    reason: str
    status: Literal["failed", "timeout"] = "failed"
    pid: int | None = None


class Executor(Protocol[JobT, DoneT_co]):
    """Does units of work, each a list of jobs that may take their steps together."""

    @property
    def workers(self) -> int:
        """Number of units at once; 0 if this process does them."""

    @property
    def on_gpu(self) -> bool:
        """True if jobs have a GPU."""

    def submit(self, units: Sequence[Sequence[JobT]]) -> None:
        """Add units of work, for the next call of `results`."""

    def results(self, tell: Callable[[Word], None]) -> Generator[DoneT_co | Lost[JobT], None, None]:
        """Do the units; yield the result of each job, and pass on its progress."""

    def stop(self, name: str) -> None:
        """Ask all jobs to write a checkpoint and end, by the name of a signal."""
