"""Doing jobs whose runs other harnesses may be at: those come last, and are waited for only when nothing else is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol, TypeVar

from lora_bench.claims import LOOK_SECONDS, Elsewhere, Watch
from lora_bench.executors.base import Lost, Work
from lora_bench.record import Record
from lora_bench.store import RunFolder


class Claimable(Work, Protocol):
    """A job with a run's folder."""

    @property
    def folder(self) -> RunFolder:
        """Where its record is to be."""


JobT = TypeVar("JobT", bound=Claimable)


def do_with_others(
    jobs: Sequence[JobT],
    execute: Callable[[Sequence[JobT]], Generator[Record | Elsewhere | Lost[JobT], None, None]],
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> Generator[Record | Lost[JobT], None, None]:
    """Yield what becomes of each job, whoever does it, until all are done or a stop is asked for.

    Args:
        jobs: What is to be done.
        execute: Does jobs, and gives an `Elsewhere` at once for one whose run another process is at.
        stopped: Whether a stop is asked for.
        say: Told what is waited for.
    """
    watch = Watch()
    todo = list(jobs)
    while todo and not stopped():
        by_id = {job.run_id: job for job in todo}
        elsewhere: list[JobT] = []
        with closing(execute(todo)) as results:
            for result in results:
                if isinstance(result, Elsewhere):
                    elsewhere.append(by_id[result.run_id])
                elif isinstance(result, Lost) and _is_elsewhere(result.job):
                    # Its worker died, and another harness has taken the run over already.
                    elsewhere.append(by_id[result.job.run_id])
                else:
                    yield result
        if elsewhere and not stopped():
            say(f"waiting for {len(elsewhere)} runs that another process is at")
        todo = []
        while elsewhere and not todo and not stopped():
            for job in list(elsewhere):
                record = job.folder.record()
                if record is not None:
                    elsewhere.remove(job)
                    yield record
                elif watch.is_free(job.folder.path):
                    elsewhere.remove(job)
                    todo.append(job)
            if elsewhere and not todo:
                time.sleep(LOOK_SECONDS)
        todo += elsewhere


def _is_elsewhere(job: Claimable) -> bool:
    """Whether another process is at the run of a job that was lost here, or has done it."""
    claim = job.folder.try_claim()
    if claim is None:
        return True
    with claim:
        return job.folder.record() is not None
