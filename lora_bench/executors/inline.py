"""Runs one after the other in this process: for debuggers, and where processes cannot be forked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lora_bench.executors.base import Event, Lost
from lora_bench.job import Job
from lora_bench.loop import request_stop, stop_requested
from lora_bench.record import Record
from lora_bench.run import run


def execute_inline(units: Sequence[Sequence[Job]], tell: Callable[[Event], None]) -> Iterator[Record | Lost[Job]]:
    """Yield the record of each job in order, until a stop is requested."""
    request_stop(None)
    for unit in units:
        for job in unit:
            if stop_requested():
                return
            run_id = job.run_id
            tell(Event(run_id, 0, job.steps))
            yield run(job, lambda step, steps, loss, run_id=run_id: tell(Event(run_id, step, steps, loss)))
