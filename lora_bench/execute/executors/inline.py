"""Runs one after the other in this process: for debuggers, and where processes cannot be forked."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Generator, Sequence

from lora_bench.execute.executors.base import Event, Lost
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.callbacks import Notify, stop_requested
from lora_bench.training.distributed.launch import end_ranks
from lora_bench.training.job import Job
from lora_bench.training.run import take


def execute_inline(
    units: Sequence[Sequence[Job]], tell: Callable[[Event], None]
) -> Generator[Record | Elsewhere | Lost[Job], None, None]:
    """Yield the record of each job in order, or that another process is at its run, until a stop is requested."""

    def told(job: Job) -> Notify:
        return lambda step, steps, loss: tell(Event(job.run_id, step, steps, loss))

    try:
        waiting = deque(units)
        while waiting:
            unit = waiting.popleft()
            alone = {job.run_id: job for job in unit}
            if len(unit) > 1 and not stop_requested():
                from lora_bench.pack.train import Apart, take_together

                rest, alone = alone, {}

                def begun(job: Job, rest: dict[str, Job] = rest, alone: dict[str, Job] = alone) -> None:
                    alone[job.run_id] = rest.pop(job.run_id)
                    tell(Event(job.run_id, 0, job.steps))

                # Whoever is at work when a pack fails as a whole is done by itself.
                with contextlib.suppress(Apart):
                    for record in take_together(unit, told, begun):
                        rest.pop(record.run_id, None)
                        alone.pop(record.run_id, None)
                        yield record
                if rest:
                    waiting.appendleft([*rest.values()])
            for job in alone.values():
                if stop_requested():
                    return
                tell(Event(job.run_id, 0, job.steps))
                yield take(job, told(job))
    finally:
        # What a run sets aside from the search for garbage is the caller's too.
        gc.unfreeze()
        end_ranks()
