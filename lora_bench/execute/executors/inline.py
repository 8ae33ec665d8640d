"""Runs one after the other in this process: for debuggers, and for systems without fork."""

import gc
from collections import deque
from collections.abc import Callable, Generator, Sequence

from lora_bench.execute.executors.executor import Lost, done_alone, pack_failed
from lora_bench.records.environment import cuda_devices
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.attempt import Apart
from lora_bench.training.callbacks import request_stop, stop_requested
from lora_bench.training.job import Event, Job, Note, Word, telling_of
from lora_bench.training.run import run_job

Result = Record | Elsewhere | Lost[Job]


class ThisProcess:
    """The executor that uses this process."""

    workers = 0

    def __init__(self) -> None:
        request_stop(None)
        self.on_gpu = bool(cuda_devices())
        self._waiting: deque[list[Job]] = deque()

    def submit(self, units: Sequence[Sequence[Job]]) -> None:
        self._waiting = deque([*unit] for unit in units)

    def results(self, tell: Callable[[Word], None]) -> Generator[Result, None, None]:
        """Yield the result of each job, in order, until a stop is requested."""
        # Each run collects garbage twice, which takes a quarter of a second where all that the caller has is searched.
        gc.freeze()
        try:
            while self._waiting and not stop_requested():
                unit = self._waiting.popleft()
                if len(unit) > 1:
                    yield from self._together(unit, tell)
                    continue
                for job in unit:
                    tell(Event(job.run_id, 0, job.steps))
                    yield run_job(job, telling_of(job.run_id, tell))
        finally:
            gc.unfreeze()

    def stop(self, name: str) -> None:
        request_stop(name)

    def _together(self, unit: list[Job], tell: Callable[[Word], None]) -> Generator[Result, None, None]:
        """Yield the result of each job of a pack; unfinished jobs wait again."""
        from lora_bench.pack.train import take_together

        jobs = {job.run_id: job for job in unit}
        waiting = dict(jobs)
        at_work: dict[str, Job] = {}
        alone: list[list[Job]] = []

        def told(word: Word) -> None:
            if isinstance(word, Event) and word.step == 0:
                waiting.pop(word.run_id, None)  # a smaller pack begins it again
                at_work[word.run_id] = jobs[word.run_id]
            tell(word)

        try:
            for record in take_together(unit, told):
                waiting.pop(record.run_id, None)
                at_work.pop(record.run_id, None)
                yield record
        except Apart as failed:
            text = pack_failed(str(failed))
            tell(Note(unit[0].run_id, text))
            alone = done_alone([*at_work.values()], text)
        if waiting:
            self._waiting.appendleft([*waiting.values()])
        self._waiting.extendleft(reversed(alone or [[job] for job in at_work.values()]))
