"""Doing jobs whose runs other harnesses may be at: those come last, and are waited for only when nothing else is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol, TypeVar

from lora_bench.execute.executors.base import Lost, Work
from lora_bench.records.record import Record
from lora_bench.records.run_lock import LOOK_SECONDS, Elsewhere, Watch
from lora_bench.records.store import RunFolder


class Lockable(Work, Protocol):
    """A job with a run's folder."""

    @property
    def folder(self) -> RunFolder:
        """Where its record is to be."""


JobT = TypeVar("JobT", bound=Lockable)


def do_with_others(
    jobs: Sequence[JobT],
    execute: Callable[[Sequence[JobT]], Generator[Record | Elsewhere | Lost[JobT], None, None]],
    stopped: Callable[[], bool],
    say: Callable[[str], None],
    publish_lost: Callable[[Lost[JobT]], Record | None],
    *,
    wait: bool = True,
) -> Generator[Record, None, None]:
    """Yield what becomes of each job, whoever does it, until all are done or a stop is asked for.

    Args:
        jobs: What is to be done.
        execute: Does jobs, and gives an `Elsewhere` at once for one whose run another process is at.
        stopped: Whether a stop is asked for.
        say: Told what is waited for.
        publish_lost: Publishes the record of a job whose worker died, and gives it, or None where it is to have none. Called
            while this process is at the run, so that it does not stand before the record of another who took the run over.
        wait: Whether to wait for the runs that other processes are at; if not, it ends when nothing else is left.
    """
    watch = Watch()
    todo = list(jobs)
    while todo and not stopped():
        by_id = {job.run_id: job for job in todo}
        elsewhere: list[JobT] = []
        with closing(execute(todo)) as results:
            for result in results:
                end = _end_of(result, publish_lost) if isinstance(result, Lost) else result
                if isinstance(end, Elsewhere):
                    elsewhere.append(by_id[end.run_id])
                elif end is not None:
                    yield end
        if elsewhere and wait and not stopped():
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
                if not wait:
                    return
                time.sleep(LOOK_SECONDS)
        todo += elsewhere


def _end_of(lost: Lost[JobT], publish_lost: Callable[[Lost[JobT]], Record | None]) -> Record | Elsewhere | None:
    """What becomes of a job that was lost here: another process may have taken its run over already, or done it."""
    lock = lost.job.folder.try_lock(reaped=lost.pid)
    if lock is None:
        return Elsewhere(lost.job.run_id)
    with lock:
        return lost.job.folder.record() or publish_lost(lost)
