"""One run, from a job to a record: lock, prepare, train, score, publish.

Every executor calls `run_job`, in any process. A pack takes the steps of its members together, and uses the functions of this
module for everything else. A run that does not end `ok` leaves a record too, with its reason.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.records.budget import tokens_of
from lora_bench.records.outcomes import DISK_FULL, is_disk_full
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere, RunLock, others_at_work
from lora_bench.training.attempt import Facts, ended
from lora_bench.training.checkpoint import load_trained
from lora_bench.training.distributed.fsdp import whole_state
from lora_bench.training.distributed.launch import over_ranks
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job, Notify
from lora_bench.training.kept_weights import keep_weights
from lora_bench.training.prepare import Ready, prepare
from lora_bench.training.retention import retained
from lora_bench.training.scoring import keep_answers, keep_probabilities, scores_of
from lora_bench.training.trainer import products_of
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import heard


def run_job(job: Job, notify: Notify | None = None, *, in_company: bool = False) -> Record | Elsewhere:
    """Train and score one cell of a suite and publish its record, unless another process has the run.

    *notify* is called with each step. *in_company* says that other runs use memory of this process meanwhile. Return the record
    in place in the run's folder afterwards, or that of an attempt (`outcomes.is_attempt`). Raise Apart if memory runs out while
    other runs use some of it.
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
    if ready.done and ready.notify is not None:
        # Resume even without a step left, if only the evaluation was stopped.
        ready.notify(ready.done, ready.lessons.course.steps or ready.done, None)
    if not ready.is_trained():
        with ready.trainer() as trainer:
            trainer.train()


@dataclass(frozen=True)
class Answered:
    """Answers of a trained model to each split of `Ready.answered`, and the seconds that they took."""

    answers: Mapping[str, Replies]
    seconds: float


def score(ready: Ready, answered: Answered | None = None) -> Record:
    """Score a trained run and make its record, from the answers of its last weights if they are known."""
    job, facts, measure, model = ready.job, ready.facts, ready.hooks.measure, ready.model
    spec, lessons = job.spec, ready.lessons
    course = lessons.course
    reach("run.trained")
    step, ended_by = ready.hooks.follow.step, ready.hooks.follow.ended_by
    assert ended_by is not None, "a run that is trained was ended by its budget"
    if ended_by != course.target:
        facts.warnings.append(course.said(step, ended_by, measure.train_seconds or 0.0))
    # Batch after batch: together their examples may exceed memory.
    examples, tokens, flops = [], [], 0
    for batch in map(course.batch, range(step)):
        examples.append(len(batch))
        tokens.append(sum(map(tokens_of, batch)))
        flops += 0 if lessons.flops is None else lessons.flops(batch)
    if ready.best is not None:
        step = ready.best.step
        load_trained(model, ready.best.weights)
    began = time.perf_counter()
    facts.enter("the evaluation")
    if answered is None:
        answered = Answered(_answers(ready), time.perf_counter() - began)
    measure.take("evaluation")
    if measure.exclusive and others_at_work(job.folder.path.parent):
        measure.exclusive = False
    if not measure.exclusive and spec.training.uses("train_seconds"):
        facts.warnings.append("another process ran on this machine and used up some of its train_seconds")
    answers, threshold = lessons.exercise.decided(job.task, lessons.data, answered.answers)
    scores = scores_of(job.task, lessons.data, {name: answers[name] for name in ready.scored})
    facts.enter("scoring what the base model could do")
    kept = retained(job, model, ready.adapted.tokenizer, facts.warnings.append)
    there = job.folder.record()
    if there is not None:  # the process that took the run over published first; its files must not be overwritten
        return there
    facts.enter("writing predictions and weights")
    reach("run.keep")
    replies = answers[spec.score_on]
    memory = measure.memory(model)
    facts.warnings += measure.unmeasured
    predictions = keep_answers(job, lessons.data.splits[spec.score_on], replies)
    return job.record(
        "ok",
        **facts.known(),
        capped_by=ended_by if ended_by != course.target else None,
        plateau=ready.hooks.follow.plateau,
        memory=memory,
        speed=measure.speed_of_batches(
            step_examples=examples,
            step_tokens=tokens,
            train_flops=flops if lessons.flops is not None else None,
            load_seconds=ready.adapted.load_seconds,
            evaluation_seconds=answered.seconds,
        ),
        scores=scores,
        predictions=predictions,
        probabilities=keep_probabilities(job, replies) if spec.score_on == "test" else None,
        retention=kept,
        threshold=threshold,
        weights=keep_weights(job, model, ready.adapted.tokenizer, step, scores, predictions, threshold),
    )


def take_part(ready: Ready) -> None:
    """Take part in scoring a sharded model in the other worker ranks, while the first one scores it."""
    if ready.best is not None:
        load_trained(ready.model, ready.best.weights)
    _answers(ready)
    if ready.job.spec.keep_weights != "none":
        whole_state(ready.model)


def _answers(ready: Ready) -> dict[str, Replies]:
    """Return the model's answers to each split that it answers, unless a stop is requested."""
    lessons = ready.lessons
    with heard(lambda: ready.hooks.keep.stop_evaluation(ready.model)):
        return {name: lessons.exercise.answers(ready.model, lessons.questions[name]) for name in ready.answered}


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
