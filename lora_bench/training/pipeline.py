"""A run before and after its steps: data, base model, method and callbacks; scores and the record.

Everything a method may differ in happens in `method.apply`; every other line is the same for all methods, which is what
makes their records comparable. `lora_bench.training.run` takes the steps of a run by itself, and `lora_bench.pack` those of
runs that share a base.
"""

from __future__ import annotations

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

from lora_bench.families import family_of
from lora_bench.methods import known_methods, trains_base
from lora_bench.records.record import Record
from lora_bench.records.run_lock import others_at_work
from lora_bench.training.adapted_model import AdaptedModel, adapt, device_of_runs
from lora_bench.training.attempt import Facts
from lora_bench.training.best_weights import Best
from lora_bench.training.callbacks import Notify
from lora_bench.training.checkpoint import Checkpoint, latest_checkpoint, load_trained
from lora_bench.training.distributed.fsdp import whole_state
from lora_bench.training.distributed.ranks import BatchShares, WorkerRank, collate_share, weigh_shares
from lora_bench.training.hooks import Hooks, hooks_of, keeps_best
from lora_bench.training.job import Job
from lora_bench.training.kept_weights import keep_weights
from lora_bench.training.lessons import BatchFlops, Lessons, read_lessons
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.process_cache import WARM
from lora_bench.training.scoring import keep_answers, quiet, scored_splits, scores_of
from lora_bench.training.setup import Setup
from lora_bench.training.step_plan import ENDLESS
from lora_bench.training.trainer_arguments import training_arguments
from lora_bench.training.warm_up import warm_up
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import heard
from lora_bench.util.seeding import seed_for


@dataclass(frozen=True)
class Ready:
    """A run that has all it needs for its steps.

    Args:
        setup: The run.
        adapted: Its model.
        lessons: Its examples and steps.
        hooks: Its callbacks.
        checkpoint: The one that it goes on from.
    """

    setup: Setup
    adapted: AdaptedModel
    lessons: Lessons
    hooks: Hooks
    checkpoint: Checkpoint | None

    @property
    def job(self) -> Job:
        """What is run, and where."""
        return self.setup.job

    @property
    def facts(self) -> Facts:
        """What is known of it so far."""
        return self.setup.facts

    @property
    def model(self) -> nn.Module:
        """The model that takes the steps."""
        return self.adapted.network

    @property
    def done(self) -> int:
        """Steps that were done before."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def scored(self) -> list[str]:
        """The splits that its scores are of."""
        return scored_splits(self.job.spec, self.lessons.data)

    @property
    def best(self) -> Best | None:
        """The best weights on the selection split, where it is these that are scored."""
        selection = self.hooks.selection
        return selection.best if keeps_best(self.job) and selection is not None else None

    def is_trained(self) -> bool:
        """Whether it was stopped between its last step and its record; its weights are then put back."""
        follow = self.hooks.follow
        if self.checkpoint is None or not (
            follow.ended_by or follow.end_after(self.checkpoint.step, self.hooks.measure.earlier_seconds)
        ):
            return False
        # There is no Trainer now, and its arguments say how this process multiplies.
        training_arguments(self.job.spec, "nowhere")
        load_trained(self.model, self.checkpoint.weights)
        self.model.to(device_of_runs())
        return True

    @property
    def has_rows_of_nothing(self) -> bool:
        """Whether a causal model is to classify a text without tokens: its tokenizer adds none of its own."""
        if not family_of(self.job.base_model.model_type).causal or self.job.task.kind == "generation":
            return False
        return self.lessons.has_rows_of_nothing

    @contextmanager
    def trainer(self) -> Iterator[Trainer]:
        """Make what takes the steps that are left."""
        recipe, course = self.job.spec.training, self.lessons.course
        steps = course.steps if course.steps is not None else ENDLESS // recipe.batch_size
        examples: Sequence[Any] = course.rest(self.done)
        collate: Callable[[Any], Any] = self.lessons.exercise.collate
        if self.setup.rank is not None:
            examples = BatchShares(examples, recipe.batch_size // recipe.accumulation, recipe.processes)
            collate = collate_share(collate)
        with tempfile.TemporaryDirectory() as nothing_is_written_here, quiet():
            trainer = Trainer(
                model=self.model,
                args=training_arguments(self.job.spec, nothing_is_written_here, steps),
                train_dataset=examples,
                data_collator=collate,
                callbacks=self.hooks.all,
            )
            trainer.remove_callback(PrinterCallback)
            # Else it takes the loss of a model with `**kwargs` for one that is already divided by the accumulation steps.
            trainer.model_accepts_loss_kwargs = False
            if self.setup.rank is not None:
                weigh_shares(trainer, self.adapted.masks)
            yield trainer


def prepare(
    job: Job, facts: Facts, notify: Notify | None, *, packed: bool = False, rank: WorkerRank | None = None
) -> Ready:
    """Do everything before the first step.

    Args:
        job: The run.
        facts: Notes what is found.
        notify: Told of each step.
        packed: Whether it takes its steps with others: the pack draws its masks, and asks it on the selection split.
        rank: Which of several processes this is, where the run has several.
    """
    spec = job.spec
    torch.set_num_threads(spec.training.threads)
    seed = spec.seed if spec.series is None else seed_for(spec.series, spec.seed)
    if rank is None:
        warm_up()
    # What a rank measures is one of several processes, of which none has the machine to itself.
    alone = not packed and rank is None and not others_at_work(job.folder.path.parent)
    measure = MeasureCallback(exclusive=job.exclusive and alone)
    method = known_methods()[spec.method.name](**spec.method.options)
    setup = Setup(job, facts, method, seed, notify, packed, rank)
    if trains_base(method):
        WARM.without_base()
    measure.begin(device_of_runs())
    adapted = adapt(setup)
    lessons = read_lessons(setup, adapted.tokenizer)
    checkpoint = _checkpoint(job, facts, rank)
    hooks = hooks_of(setup, adapted, lessons, measure, checkpoint)
    facts.enter("preparing the training")
    reach("run.train")
    return Ready(setup, adapted, lessons, hooks, checkpoint)


def _checkpoint(job: Job, facts: Facts, rank: WorkerRank | None) -> Checkpoint | None:
    """Return the checkpoint that a run goes on from, and note that it does."""
    find = partial(latest_checkpoint, job.folder.checkpoints, facts.warnings.append)
    checkpoint = find() if rank is None else rank.after_first(find)
    facts.resumed = checkpoint is not None
    if checkpoint is not None:
        # None where there was no company, and in what earlier releases wrote.
        facts.packed_with = tuple(checkpoint.progress.get("packed_with", ()))
    return checkpoint


@dataclass(frozen=True)
class Answered:
    """What a trained model answers.

    Args:
        answers: By split, to the questions of each split that is scored.
        seconds: That it took.
    """

    answers: Mapping[str, list[Any]]
    seconds: float


@dataclass(frozen=True)
class _Seen:
    """What a step saw.

    Args:
        examples: Of its batch.
        tokens: Of these, without padding.
        flops: That it took, 0 where they are not counted.
    """

    examples: int
    tokens: int
    flops: int

    @classmethod
    def of(cls, batch: Sequence[Mapping[str, Any]], flops: BatchFlops | None) -> _Seen:
        """What a batch comes to."""
        tokens = sum(len(example["input_ids"]) for example in batch)
        return cls(len(batch), tokens, 0 if flops is None else flops(batch))


def score(ready: Ready, answered: Answered | None = None) -> Record:
    """Everything after the last step.

    Args:
        ready: A run that is trained.
        answered: What its last weights answer, where that is known.
    """
    job, facts, measure, model = ready.job, ready.facts, ready.hooks.measure, ready.model
    spec, lessons = job.spec, ready.lessons
    course = lessons.course
    reach("run.trained")
    step, ended_by = ready.hooks.follow.step, ready.hooks.follow.ended_by
    assert ended_by is not None, "a run that is trained was ended by its budget"
    if ended_by != course.target:
        facts.warnings.append(course.said(step, ended_by, measure.train_seconds or 0.0))
    # One after the other: the examples of all of them may be more than memory holds.
    done = [_Seen.of(course.batch(before), lessons.flops) for before in range(step)]
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
        facts.warnings.append("another process worked beside it on this machine, and used up some of its train_seconds")
    scores = scores_of(job.task, lessons.data, answered.answers)
    there = job.folder.record()
    if there is not None:  # who took the run over was faster, and what its record tells of is not to be written over
        return there
    facts.enter("writing predictions and weights")
    reach("run.keep")

    return job.record(
        "ok",
        **facts.known(),
        capped_by=ended_by if ended_by != course.target else None,
        memory=measure.memory(model),
        speed=measure.speed_of_batches(
            step_examples=[batch.examples for batch in done],
            step_tokens=[batch.tokens for batch in done],
            train_flops=sum(batch.flops for batch in done) if lessons.flops is not None else None,
            load_seconds=ready.adapted.load_seconds,
            evaluation_seconds=answered.seconds,
        ),
        scores=scores,
        predictions=keep_answers(job, lessons.data.splits[spec.score_on], answered.answers[spec.score_on]),
        weights=keep_weights(
            job, model, ready.adapted.tokenizer, step, scores, len(lessons.data.splits[spec.score_on].ids)
        ),
    )


def take_part(ready: Ready) -> None:
    """What the other ranks do while the first scores a model that is in parts: they bring theirs."""
    if ready.best is not None:
        load_trained(ready.model, ready.best.weights)
    _answers(ready)
    if ready.job.spec.keep_weights != "none":
        whole_state(ready.model)


def _answers(ready: Ready) -> dict[str, list[Any]]:
    """What the model answers to each split that is scored, until the run is asked to stop."""
    lessons = ready.lessons
    with heard(lambda: ready.hooks.keep.stop_evaluation(ready.model)):
        return {name: lessons.exercise.answers(ready.model, lessons.questions[name]) for name in ready.scored}
