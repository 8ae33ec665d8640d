"""An executor takes units of work, gives what becomes of each job in whatever order they end, and can be told to stop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar


class AnyJob(Protocol):
    """A job: of a run, or of one process of a probe."""

    @property
    def run_id(self) -> str:
        """What tells it from all others."""

    @property
    def steps(self) -> int | None:
        """Steps it is shown with, where they are known before it begins."""


class Done(Protocol):
    """The record of a job."""

    @property
    def run_id(self) -> str:
        """Of the job."""

    @property
    def status(self) -> str:
        """How it ended."""


JobT = TypeVar("JobT", bound=AnyJob)
DoneT = TypeVar("DoneT", bound=Done)
DoneT_co = TypeVar("DoneT_co", bound=Done, covariant=True)


# So long is a pack silent at most, if none of its members is given longer.
LONGEST_SILENCE_SECONDS = 1800.0


def patience_with(each: Sequence[float | None]) -> float | None:
    """Seconds of silence that are allowed to runs which take their steps in one another's time; None for any.

    Args:
        each: What is allowed to each of them by itself.
    """
    known = [one for one in each if one is not None]
    if not known or len(known) < len(each):
        return None
    return min(sum(known), max(*known, LONGEST_SILENCE_SECONDS))


@dataclass(frozen=True)
class Event:
    """What happened in a run: it began (step 0), or a step was done."""

    run_id: str
    step: int
    steps: int | None
    loss: float | None = None


@dataclass(frozen=True)
class Alive:
    """A run got on with something that has no steps, such as an evaluation."""

    run_id: str


@dataclass(frozen=True)
class Lost(Generic[JobT]):
    """A job whose worker ended before it gave a record.

    Args:
        job: The job.
        reason: Of what its worker ended.
        status: That the job has for that.
        pid: The number of the worker, where its process is gone.
    """

    job: JobT
    reason: str
    status: Literal["failed", "timeout"] = "failed"
    pid: int | None = None


class Executor(Protocol[JobT, DoneT_co]):
    """Does units of work, each a list of jobs that may take their steps together."""

    @property
    def workers(self) -> int:
        """Units at once; 0 where this process does them."""

    @property
    def on_gpu(self) -> bool:
        """Whether jobs have a GPU."""

    def submit(self, units: Sequence[Sequence[JobT]]) -> None:
        """Take units of work, for the next call of `results`."""

    def results(self, tell: Callable[[Event], None]) -> Generator[DoneT_co | Lost[JobT], None, None]:
        """Do the units; yield what becomes of each job, and pass on what happens meanwhile."""

    def stop(self, name: str) -> None:
        """Ask all jobs to leave a checkpoint and end, by the name of a signal."""
