"""One run, from a job to a record: lock, prepare, train, score, publish.

Every executor calls `run_job`, in any process. A pack takes the steps of its members together, and uses the functions of this
module for everything else. A run that does not end `ok` leaves a record too, with its reason.
"""

from __future__ import annotations

from contextlib import ExitStack

from lora_bench.records.outcomes import DISK_FULL, is_disk_full
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere, RunLock
from lora_bench.training.attempt import Facts, ended
from lora_bench.training.callbacks import Notify
from lora_bench.training.distributed.launch import over_ranks
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job
from lora_bench.training.pipeline import Ready, prepare, score, take_part
from lora_bench.training.trainer_arguments import products_of
from lora_bench.util.failpoints import reach


def run_job(job: Job, notify: Notify | None = None, *, in_company: bool = False) -> Record | Elsewhere:
    """Train and score one cell of a suite and publish its record, unless another process has the run.

    *notify* is called with each step. *in_company* says that other runs use memory of this process meanwhile.

    Returns:
        The record in place in the run's folder afterwards, or that of an attempt (`outcomes.is_attempt`).

    Raises:
        Apart: If memory runs out while other runs use some of it.
    """
    lock = lock_run(job)
    if not isinstance(lock, RunLock):
        return lock
    facts = Facts(in_company=in_company, warnings=[] if job.alone_because is None else [job.alone_because])
    with lock:
        try:
            if job.spec.training.processes > 1:
                record = over_ranks(job, notify)
            else:
                with products_of(job.spec.training):
                    ready = prepare(job, facts, notify)
                    train(ready)
                    record = score(ready)
        except Exception as error:
            record = ended(job, facts, error)
        return publish(job, lock, facts, record)


def lock_run(job: Job) -> RunLock | Record | Elsewhere:
    """Lock a run for this process. Return its record if it is done, or `Elsewhere` if another process has it."""
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
    with ExitStack() as held:
        held.enter_context(lock)
        reach("run.held")
        # Another process may have finished it before this one had the lock.
        record = job.folder.record()
        if record is not None:
            return record
        held.pop_all()
    return lock


def train(ready: Ready) -> None:
    """Take the remaining steps."""
    if ready.done and ready.setup.notify is not None:
        # Resume even without a step left, if only the evaluation was stopped.
        ready.setup.notify(ready.done, ready.lessons.course.steps or ready.done, None)
    if not ready.is_trained():
        with ready.trainer() as trainer:
            trainer.train()


def publish(job: Job, lock: RunLock, facts: Facts, record: Record) -> Record | Elsewhere:
    """Publish a record, unless another process has taken the run over meanwhile and this one has no score."""
    facts.enter("publishing the record")
    try:
        reach("run.publish")
        # The failure of a process that stood still too long must not block the score of the one that took over.
        return Elsewhere(job.run_id) if record.status != "ok" and lock.lost else job.folder.publish(record)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # Writing even the attempt failed.
        return job.record("failed", DISK_FULL, **facts.known())


def as_rank(job: Job, rank: WorkerRank, facts: Facts, notify: Notify | None) -> Record | None:
    """Do the part of one worker rank of a run. Return the record in the process that writes, else None."""
    with products_of(job.spec.training):
        ready = prepare(job, facts, notify if rank.first else None, rank=rank)
        train(ready)
        if rank.first:
            return score(ready)
        if rank.shards:
            take_part(ready)
        return None
