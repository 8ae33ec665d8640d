"""The work of a run before and after its steps: data, base model, method and callbacks; scores and the record.

Methods differ only in `method.apply`. Every other line is the same for all methods, which makes their records comparable.
`lora_bench.training.run` takes the steps of a single run, and `lora_bench.pack` those of runs that share a base model.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer

from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.generation.encode import with_decoder_inputs
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.methods import known_methods, trains_base
from lora_bench.models.find_family import use_family
from lora_bench.models.loading import writes_on
from lora_bench.records.budget import Batch, rows_of, tokens_of
from lora_bench.records.record import Record
from lora_bench.records.run_lock import others_at_work
from lora_bench.training.adapted_model import AdaptedModel, adapt, device_of_runs
from lora_bench.training.attempt import Facts
from lora_bench.training.best_weights import Best
from lora_bench.training.callbacks import Notify
from lora_bench.training.checkpoint import Checkpoint, latest_checkpoint, load_trained
from lora_bench.training.class_weights import weigh_classes
from lora_bench.training.distributed.fsdp import whole_state
from lora_bench.training.distributed.ranks import BatchShares, WorkerRank, collate_share, weigh_shares
from lora_bench.training.hooks import Hooks, hooks_of, keeps_best
from lora_bench.training.job import Job
from lora_bench.training.kept_weights import keep_weights
from lora_bench.training.lessons import Lessons, read_lessons
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.process_cache import WARM
from lora_bench.training.rate_groups import set_rates
from lora_bench.training.retention import retained
from lora_bench.training.scoring import (
    answered_splits,
    keep_answers,
    keep_probabilities,
    scored_splits,
    scores_of,
)
from lora_bench.training.setup import Setup
from lora_bench.training.step_plan import ENDLESS
from lora_bench.training.trainer_arguments import training_arguments
from lora_bench.training.warm_up import warm_up
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import heard
from lora_bench.util.seeding import seed_for


@dataclass(frozen=True)
class Ready:
    """A run that is ready for its steps, with the checkpoint that it resumes from, if any."""

    setup: Setup
    adapted: AdaptedModel
    lessons: Lessons
    hooks: Hooks
    checkpoint: Checkpoint | None

    @property
    def job(self) -> Job:
        """The job."""
        return self.setup.job

    @property
    def facts(self) -> Facts:
        """Facts known so far."""
        return self.setup.facts

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.adapted.network

    @property
    def done(self) -> int:
        """Steps done before a resumption."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def scored(self) -> list[str]:
        """Splits of its scores."""
        return scored_splits(self.job.spec, self.lessons.data)

    @property
    def answered(self) -> list[str]:
        """Splits that the trained model answers."""
        return answered_splits(self.job.task, self.job.spec, self.lessons.data)

    @property
    def best(self) -> Best | None:
        """Best weights on the selection split, if those are scored."""
        selection = self.hooks.selection
        return selection.best if keeps_best(self.job) and selection is not None else None

    def is_trained(self) -> bool:
        """Return True if it was stopped between its last step and its record; this restores its weights."""
        follow = self.hooks.follow
        if self.checkpoint is None or not (
            follow.ended_by or follow.end_after(self.checkpoint.step, self.hooks.measure.earlier_seconds)
        ):
            return False
        load_trained(self.model, self.checkpoint.weights)
        self.model.to(device_of_runs())
        return True

    @property
    def has_rows_of_nothing(self) -> bool:
        """Return True if a causal model would classify a text without tokens: its tokenizer adds none of its own."""
        if not writes_on(self.job.base_model.model_type) or self.job.task.writes:
            return False
        examples = itertools.chain(self.lessons.course.rest(0), *self.lessons.questions.values())
        return any(not tokens_of(example) for example in examples)

    @contextmanager
    def trainer(self) -> Iterator[Trainer]:
        """Make the Trainer for the remaining steps."""
        recipe, course = self.job.spec.training, self.lessons.course
        steps = course.steps if course.steps is not None else ENDLESS // recipe.batch_size
        examples: Sequence[Any] = course.rest(self.done)
        collate: Callable[[Any], Any] = with_decoder_inputs(self.lessons.exercise.collate, self.model)
        if self.setup.rank is not None:
            examples = BatchShares(
                examples,
                recipe.batch_size // recipe.accumulation,
                recipe.processes,
                predicts_next=self.lessons.exercise.predicts_next,
            )
            collate = collate_share(collate)
        else:
            collate = _of_rows(collate)
        with tempfile.TemporaryDirectory() as nothing_is_written_here, quiet():
            trainer = Trainer(
                model=self.model,
                args=training_arguments(self.job.spec, nothing_is_written_here, steps),
                train_dataset=examples,
                data_collator=collate,
                callbacks=self.hooks.all,
            )
            trainer.remove_callback(PrinterCallback)
            set_rates(trainer, self.setup.method, self.model, self.adapted.head, recipe.head_learning_rate)
            # Otherwise it takes the loss of a model with `**kwargs` as already divided by the accumulation steps.
            trainer.model_accepts_loss_kwargs = False
            if self.lessons.class_weights is not None:
                weigh_classes(trainer, self.lessons.class_weights, recipe.label_smoothing)
            if self.setup.rank is not None:
                weigh_shares(trainer, self.adapted.masks)
            yield trainer


def _of_rows(collate: Callable[[Any], Any]) -> Callable[[Batch], Any]:
    """Return a function that makes a batch of all rows of its examples, such as the windows of a question."""
    return lambda batch: collate(rows_of(batch))


def prepare(
    job: Job, facts: Facts, notify: Notify | None, *, packed: bool = False, rank: WorkerRank | None = None
) -> Ready:
    """Prepare a run for its first step.

    A pack draws the masks of its members and evaluates them on the selection split. *rank* is given if the run has several
    processes.
    """
    spec = job.spec
    torch.set_num_threads(spec.training.threads)
    # The run before may have had it otherwise. cuBLAS asks for its setting when a process first multiplies on a device.
    if spec.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(spec.training.deterministic)
    seed = spec.seed if spec.series is None else seed_for(spec.series, spec.seed)
    if rank is None:
        warm_up()
    # A worker rank shares the machine with others, so its measurements are never exclusive.
    alone = not packed and rank is None and not others_at_work(job.folder.path.parent)
    measure = MeasureCallback(exclusive=job.exclusive and alone)
    method = known_methods()[spec.method.name](**spec.method.options)
    setup = Setup(job, facts, method, seed, notify, packed, rank)
    use_family(job.base_model)
    # Read before measuring: a later run of this process finds them in memory.
    lessons = read_lessons(setup, WARM.tokenizer(job.base_model))
    WARM.keep_base_for(None if trains_base(method) or rank is not None else job)
    measure.begin(device_of_runs(), base_bytes=WARM.base_bytes)
    adapted = adapt(setup)
    checkpoint = _checkpoint(job, facts, rank)
    hooks = hooks_of(setup, adapted, lessons, measure, checkpoint)
    facts.enter("preparing the training")
    reach("run.train")
    return Ready(setup, adapted, lessons, hooks, checkpoint)


def _checkpoint(job: Job, facts: Facts, rank: WorkerRank | None) -> Checkpoint | None:
    """Return the checkpoint that a run resumes from, and record that it resumes."""
    find = partial(latest_checkpoint, job.folder.checkpoints, facts.warnings.append, job.run_id)
    checkpoint = find() if rank is None else rank.after_first(find)
    facts.resumed = checkpoint is not None
    if checkpoint is not None:
        facts.packed_with = tuple(checkpoint.progress["packed_with"])
    return checkpoint


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
