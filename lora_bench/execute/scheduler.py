"""Do jobs beside other processes: runs of another process come last, and are waited for when nothing else is left."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from lora_bench.execute.executors.executor import Executor, Lost
from lora_bench.execute.options import Afterwards
from lora_bench.execute.progress import Display
from lora_bench.records.outcomes import DISK_FULL, OUT_OF_TIME, is_attempt
from lora_bench.records.record import Record
from lora_bench.records.run_lock import LOOK_SECONDS, Elsewhere, Watch
from lora_bench.training.job import Job, Note, Word
from lora_bench.util.failpoints import reach
from lora_bench.util.signals import stopping_on_signals

SuiteExecutor = Executor[Job, Record | Elsewhere]


# How often a clock looks if its time is over.
TICK_SECONDS = 0.5


@dataclass(eq=False)
class Deadline:
    """The time, of the monotonic clock, when runs are stopped; earlier by what is to be done afterwards.

    Nothing is kept for that before a run on the test split has ended: without one there is nothing to choose from.
    """

    end: float
    afterwards: Afterwards | None = None
    _longest: float = field(default=0.0, init=False)
    _answered: bool = field(default=False, init=False)

    def note(self, record: Record) -> None:
        """Learn from the record of a run how long one takes here."""
        if record.speed is not None:
            self._longest = max(self._longest, record.speed.seconds)
        self._answered |= record.scores is not None and record.spec.score_on == "test"

    @property
    def left(self) -> float:
        """Seconds until the end."""
        kept = 0.0
        if self._answered and self.afterwards is not None:
            kept = max(self.afterwards.seconds, self.afterwards.times * self._longest)
        return self.end - kept - time.monotonic()


@dataclass(eq=False)
class Scheduler:
    """Does jobs with an executor until all are done, here or by other processes, or a stop is requested.

    *units* makes units of work from the remaining jobs, and *publish_lost* publishes the record of a job whose worker died.
    Without *wait*, the work ends when only runs of other processes are left; at the *deadline*, if any, it is stopped.
    """

    jobs: Sequence[Job]
    executor: SuiteExecutor
    display: Display
    units: Callable[[Sequence[Job]], Sequence[Sequence[Job]]] = field(kw_only=True)
    publish_lost: Callable[[Lost[Job]], Record] = field(kw_only=True)
    wait: bool = field(default=True, kw_only=True)
    deadline: Deadline | None = field(default=None, kw_only=True)
    _watch: Watch = field(default_factory=Watch, init=False)
    _elsewhere: list[Job] = field(default_factory=list, init=False)
    _signals: list[str] = field(default_factory=list, init=False)
    _own_stop: str | None = field(default=None, init=False)

    @property
    def stopped_by(self) -> str | None:
        """Cause that stopped the work: the name of a signal, `disk_full`, `out_of_time`, or None."""
        return self._signals[0] if self._signals else self._own_stop

    def run(self) -> str | None:
        """Do the jobs. Return the cause that stopped the work, or None."""
        todo = list(self.jobs)
        with stopping_on_signals(self.executor.stop) as self._signals, self._until_the_end():
            while todo and self.stopped_by is None:
                self.executor.submit(self.units(todo))
                with closing(self.executor.results(self._tell)) as results:
                    for result in results:
                        self._note(result)
                todo = self._taken_over()
        return self.stopped_by

    @contextmanager
    def _until_the_end(self) -> Iterator[None]:
        """In this block stop the work when its time is over."""
        ended = threading.Event()

        def watch(deadline: Deadline) -> None:
            while (left := deadline.left) > 0:
                if ended.wait(min(left, TICK_SECONDS)):
                    return
            self._stop(OUT_OF_TIME)

        if self.deadline is not None:
            threading.Thread(target=watch, args=[self.deadline], daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _stop(self, cause: str) -> None:
        """Stop the work for a cause of our own, unless it is stopped already."""
        if self.stopped_by is None:
            self._own_stop = cause
            self.executor.stop("SIGTERM")

    def _tell(self, word: Word) -> None:
        if isinstance(word, Note):
            self.display.say(f"note: {word.text}")
        else:
            self.display.event(word)

    def _note(self, result: Record | Elsewhere | Lost[Job]) -> None:
        end = self._end_of(result) if isinstance(result, Lost) else result
        if isinstance(end, Elsewhere):
            self._elsewhere += [job for job in self.jobs if job.run_id == end.run_id]
        elif end is not None:
            self._finish(end)

    def _end_of(self, lost: Lost[Job]) -> Record | Elsewhere | None:
        """Return the result of a job that was lost here: another process may have taken its run over, or finished it.

        Return None if it gets no record: a worker that a stop caught before its first step had nothing to save.
        """
        lock = lost.job.folder.try_lock(reaped=lost.pid)
        if lock is None:
            return Elsewhere(lost.job.run_id)
        # Published under the lock, so that it cannot replace the record of a process that took the run over.
        with lock:
            record = lost.job.folder.record()
            if record is None and (lost.status == "timeout" or self.stopped_by is None):
                record = self.publish_lost(lost)
            return record

    def _finish(self, record: Record) -> None:
        """Show a record; if the disk is full, stop the other runs, which would fail too."""
        reach("suite.finished")
        if record.status == "interrupted" and self.stopped_by == OUT_OF_TIME:
            # A worker knows the signal that stopped it, and not why it was sent.
            record = record.model_copy(update={"reason": "its time was up; the same command resumes it"})
        self.display.finished(record)
        if self.deadline is not None:
            self.deadline.note(record)
        if record.status == "failed" and is_attempt(record):
            self._stop(DISK_FULL)

    def _taken_over(self) -> list[Job]:
        """Wait for the runs of other processes; return those that are free again and have no record."""
        if self._elsewhere and self.wait and self.stopped_by is None:
            self.display.say(f"waiting for {len(self._elsewhere)} runs of other processes")
        free: list[Job] = []
        while self._elsewhere and self.stopped_by is None:
            for job in list(self._elsewhere):
                record = job.folder.record()
                if record is None and not self._watch.is_free(job.folder.path):
                    continue
                self._elsewhere.remove(job)
                if record is not None:
                    self._finish(record)
                else:
                    free.append(job)
            if free or not self._elsewhere or not self.wait:
                break
            time.sleep(LOOK_SECONDS)
        # Runs still taken are watched again after the free ones are done.
        left, self._elsewhere = (self._elsewhere if free else []), []
        return [*free, *left]
