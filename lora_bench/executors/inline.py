"""Runs one after the other in this process: for debuggers, and where processes cannot be forked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from lora_bench.claims import Elsewhere
from lora_bench.executors.base import Event, Lost
from lora_bench.job import Job
from lora_bench.loop import stop_requested
from lora_bench.record import Record
from lora_bench.run import take


def execute_inline(
    units: Sequence[Sequence[Job]], tell: Callable[[Event], None]
) -> Generator[Record | Elsewhere | Lost[Job], None, None]:
    """Yield the record of each job in order, or that another process is at its run, until a stop is requested."""
    for unit in units:
        for job in unit:
            if stop_requested():
                return
            run_id = job.run_id
            tell(Event(run_id, 0, job.steps))
            yield take(job, lambda step, steps, loss, run_id=run_id: tell(Event(run_id, step, steps, loss)))
