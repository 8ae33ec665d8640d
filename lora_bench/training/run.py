"""One run, from a run spec to a record.

`pipeline.prepare` makes all that the steps need, `transformers.Trainer` takes them, hooked by callbacks and never subclassed,
and `pipeline.score` makes the record. A run that ends in another way than `ok` leaves a record too, with its status and reason.
"""

from __future__ import annotations

from collections.abc import Callable

from lora_bench.records.outcomes import DISK_FULL, is_disk_full
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere, RunLock
from lora_bench.training.attempt import Facts, ended
from lora_bench.training.callbacks import Notify
from lora_bench.training.distributed.launch import over_ranks
from lora_bench.training.distributed.ranks import Rank
from lora_bench.training.job import Job
from lora_bench.training.pipeline import Ready, prepare, score, take_part
from lora_bench.util.failpoints import reach


def run(job: Job, notify: Notify | None = None) -> Record:
    """Train and score one cell of a suite, and publish its record; waits for another process that is at it.

    Args:
        job: What to run and where.
        notify: Told of each step: its number and the latest loss.

    Returns:
        The record that stands in the run's folder afterwards; one that is only an attempt (`ends.is_attempt`) may not.
    """
    while True:
        with job.folder.held() as lock:
            record = _held(job, notify, lock)
        if not isinstance(record, Elsewhere):
            return record


def take(job: Job, notify: Notify | None = None) -> Record | Elsewhere:
    """As `run`, unless another process is at it: that is said at once."""
    record = job.folder.record()
    if record is not None:
        return record
    try:
        lock = job.folder.try_lock()
    except OSError as error:
        if not is_disk_full(error):
            raise
        return job.record("failed", DISK_FULL)
    if lock is None:
        return job.folder.record() or Elsewhere(job.run_id)
    with lock:
        return _held(job, notify, lock)


def _held(job: Job, notify: Notify | None, lock: RunLock) -> Record | Elsewhere:
    """The record of a run that this process is at."""
    facts = Facts()
    reach("run.held")
    return concluded(job, lock, facts, lambda: trained_and_scored(job, facts, notify))


def concluded(job: Job, lock: RunLock, facts: Facts, attempt: Callable[[], Record]) -> Record | Elsewhere:
    """What an attempt comes to, published, unless another process took the run over meanwhile and this one has no score.

    Args:
        job: A run that this process is at.
        lock: By which it is.
        facts: What is known of the attempt.
        attempt: Makes the record, or raises what the attempt ended by.
    """
    try:
        # Another process may have done it before.
        record = job.folder.record()
        if record is not None:
            return record
        try:
            record = attempt()
        except Exception as error:
            record = ended(job, facts, error)
        facts.enter("publishing the record")
        reach("run.publish")
        # A failure of one that stood still for too long would stand before the score of who took the run over.
        return Elsewhere(job.run_id) if record.status != "ok" and lock.lost else job.folder.publish(record)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # Not even the attempt could be written.
        return job.record("failed", DISK_FULL, **facts.known())


def as_rank(job: Job, rank: Rank, facts: Facts, notify: Notify | None) -> Record | None:
    """What one of several processes does of a run: the record, from the one that writes.

    Args:
        job: A run that the process which started this one is at.
        rank: Which of them this is.
        facts: Notes what is found.
        notify: Told of each step, by the first.
    """
    ready = prepare(job, facts, notify if rank.first else None, rank=rank)
    _train(ready)
    if rank.first:
        return score(ready)
    if rank.shards:
        take_part(ready)
    return None


def trained_and_scored(job: Job, facts: Facts, notify: Notify | None) -> Record:
    """The record of a run, every step of which is taken here and by it alone."""
    if job.spec.training.processes > 1:
        return over_ranks(job, notify)
    ready = prepare(job, facts, notify)
    if ready.done and notify is not None:
        # It goes on here, even where no step is left and only the evaluation was stopped.
        notify(ready.done, ready.course.steps or ready.done, None)
    _train(ready)
    return score(ready)


def _train(ready: Ready) -> None:
    if not ready.is_trained():
        with ready.trainer() as trainer:
            trainer.train()
