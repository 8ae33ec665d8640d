"""What a run is made of before and after its steps: data, base model, method and callbacks; scores and the record.

Everything a method may differ in happens in `method.apply`; every other line is the same for all methods, which is what
makes their records comparable. The steps between are `lora_bench.training.run`'s, for a run by itself, or
`lora_bench.pack`'s, for runs that share a base.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.methods import Method, known_methods, own_callbacks, trains_base
from lora_bench.metrics import metric
from lora_bench.models.shared_copy import own_trained
from lora_bench.records.record import Record
from lora_bench.records.run_lock import others_at_work
from lora_bench.tasks import TaskData
from lora_bench.training.attempt import Facts, NoteSteps
from lora_bench.training.best_weights import Best, SelectionScores
from lora_bench.training.callbacks import FollowBudget, KeepCheckpoints, KeyedDropout, Notify, SeededDropout, WatchLoss
from lora_bench.training.checkpoint import Checkpoint, latest_checkpoint, load_trained
from lora_bench.training.distributed.fsdp import shard, whole_state
from lora_bench.training.distributed.ranks import Rank, Shares, collate_share, weigh_shares
from lora_bench.training.examples import examples_of
from lora_bench.training.job import Job
from lora_bench.training.keyed_dropout import StepMasks, with_keyed_masks
from lora_bench.training.measure.counters import count_parameters
from lora_bench.training.measure.flops import batch_flops, step_flops
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.process_cache import WARM, load_for
from lora_bench.training.scoring import (
    Example,
    Exercise,
    exercise,
    keep_answers,
    keep_weights,
    quiet,
    scored_splits,
    scores_of,
)
from lora_bench.training.step_plan import ENDLESS, Course, plan_course
from lora_bench.training.trainer_arguments import training_arguments
from lora_bench.training.warm_start import start_from
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import heard
from lora_bench.util.seeding import adapters_drawn_from, draw_head, seed_for


@dataclass
class Ready:
    """A run that has all it needs for its steps.

    Args:
        selection: The scores on the selection split, where it is scored while it trains.
        checkpoint: What it goes on from.
        rank: Which of several processes this is, where the run has several.
        masks: What keys its dropout, where masks are keyed.
    """

    job: Job
    facts: Facts
    model: nn.Module
    tokenizer: Any
    data: TaskData
    at_hand: Exercise
    questions: dict[str, list[Example]]
    course: Course
    flops: Callable[[Sequence[Mapping[str, Any]]], int] | None
    seed: int
    measure: MeasureCallback
    follow: FollowBudget
    keep: KeepCheckpoints
    selection: SelectionScores | None
    callbacks: list[Any]
    checkpoint: Checkpoint | None
    load_seconds: float
    rank: Rank | None
    masks: StepMasks | None

    @property
    def done(self) -> int:
        """Steps that were done before."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def scored(self) -> list[str]:
        """The splits that its scores are of."""
        return scored_splits(self.job.spec, self.data)

    @property
    def best(self) -> Best | None:
        """The best weights on the selection split, where it is these that are scored."""
        return self.selection.best if _keeps_best(self.job) and self.selection is not None else None

    def is_trained(self) -> bool:
        """Whether it was stopped between its last step and its record; its weights are then put back."""
        if self.checkpoint is None or not (
            self.follow.ended_by or self.follow.end_after(self.checkpoint.step, self.measure.earlier_seconds)
        ):
            return False
        # Nobody makes a Trainer now, and its arguments say how this process multiplies.
        training_arguments(self.job.spec, "nowhere")
        load_trained(self.model, self.checkpoint.weights)
        self.model.to(device_of_runs())
        return True

    @property
    def has_rows_of_nothing(self) -> bool:
        """Whether a causal model is to classify a text without tokens: its tokenizer adds none of its own."""
        if self.job.base_model.model_type != "gpt2" or self.job.task.kind == "generation":
            return False
        asked = chain(self.course.rest(0), *self.questions.values())
        return any(not example["input_ids"] for example in asked)

    @contextmanager
    def trainer(self) -> Iterator[Trainer]:
        """What takes the steps that are left."""
        recipe = self.job.spec.training
        steps = self.course.steps if self.course.steps is not None else ENDLESS // recipe.batch_size
        examples: Sequence[Any] = self.course.rest(self.done)
        collate: Callable[[Any], Any] = self.at_hand.collate
        if self.rank is not None:
            examples = Shares(examples, recipe.batch_size // recipe.accumulation, recipe.processes)
            collate = collate_share(collate)
        with tempfile.TemporaryDirectory() as nothing_is_written_here, quiet():
            trainer = Trainer(
                model=self.model,
                args=training_arguments(self.job.spec, nothing_is_written_here, steps),
                train_dataset=examples,
                data_collator=collate,
                callbacks=self.callbacks,
            )
            trainer.remove_callback(PrinterCallback)
            # Else it takes the loss of a model with `**kwargs` for one that is already divided by the accumulation steps.
            trainer.model_accepts_loss_kwargs = False
            if self.rank is not None:
                weigh_shares(trainer, self.masks)
            yield trainer


def device_of_runs() -> torch.device:
    """What runs of this process train on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(job: Job, facts: Facts, notify: Notify | None, *, packed: bool = False, rank: Rank | None = None) -> Ready:
    """Everything before the first step.

    Args:
        job: The run.
        facts: Notes what is found.
        notify: Told of each step.
        packed: Whether it takes its steps with others: the pack draws its masks, and asks it on the selection split.
        rank: Which of several processes this is, where the run has several.
    """
    spec = job.spec
    torch.set_num_threads(spec.training.threads)
    device = device_of_runs()
    seed = spec.seed if spec.series is None else seed_for(spec.series, spec.seed)
    if rank is None:
        _warm_up()
    # What a rank measures is one of several processes, of which none has the machine to itself.
    alone = not packed and rank is None and not others_at_work(job.folder.path.parent)
    measure = MeasureCallback(exclusive=job.exclusive and alone)
    method = known_methods()[spec.method.name](**spec.method.options)
    if trains_base(method):
        WARM.without_base()
    measure.begin(device)

    facts.enter("loading the base model")
    reach("run.load")
    began = time.perf_counter()
    recipe = spec.training
    # A rank does one run.
    model, head = load_for(job) if trains_base(method) or rank is not None else WARM.base(job)
    tokenizer = WARM.tokenizer(job.base_model)
    # A causal model's head looks for the last token that is no padding, so both must mean the same token.
    model.config.pad_token_id = tokenizer.pad_token_id
    total = sum(weight.numel() for weight in model.parameters())
    draw_head(model, head, seed)
    with adapters_drawn_from(seed):
        model = method.apply(model, head=head)
    if not trains_base(method):
        own_trained(model)
    if spec.start is not None:
        start_from(model, job.folder.of(spec.start.run_id), head)
    facts.parameters = count_parameters(model, head=head, total=total)
    facts.watch(model)
    masks = StepMasks(seed) if recipe.masks == "keyed" and not packed else None
    if masks is not None:
        with_keyed_masks(model, masks)
    if rank is not None and rank.shards:
        _shard(job, method, model, device)
    load_seconds = time.perf_counter() - began

    facts.enter("reading the data")
    reach("run.data")
    data = WARM.data(job)
    if data.sha256 != spec.task.data_sha256:
        raise LoraBenchError("the data changed after the suite was planned; the same command runs it on the new data")
    at_hand = exercise(job.task, tokenizer, spec, seed)
    train, questions = examples_of(job, data, at_hand, facts)
    flops = _flops(job, method, train) if recipe.uses("train_flops") else None
    course = plan_course(recipe, seed, train, flops)

    find = partial(latest_checkpoint, job.folder.checkpoints, facts.warnings.append)
    checkpoint = find() if rank is None else rank.after_first(find)
    facts.resumed = checkpoint is not None
    if checkpoint is not None:
        # None where there was no company, and in what earlier releases wrote.
        facts.packed_with = tuple(checkpoint.progress.get("packed_with", ()))
    follow = FollowBudget(course, measure.seconds_so_far)
    watch = WatchLoss(follow, facts.curve, notify)
    selection = None
    if spec.selection_every is not None and (rank is None or rank.evaluates):

        def score_on_selection(adapted: nn.Module, answers: list[Any] | None) -> dict[str, float]:
            chosen_on = spec.rules.choose_on
            with facts.within("the evaluation on the selection split"):
                if answers is None:
                    answers = at_hand.answers(adapted, questions[chosen_on])
                return scores_of(job.task, data, {chosen_on: answers})

        selection = SelectionScores(
            every=spec.selection_every,
            score=score_on_selection,
            metric=spec.task.metric,
            higher_is_better=spec.task.higher_is_better,
            curve=facts.curve,
            keep_best=_keeps_best(job),
            measure=measure,
            rank=rank if rank is not None and rank.shards else None,
        )
    keep = KeepCheckpoints(
        job.folder.checkpoints, watch, measure, selection, checkpoint, rank, lambda: facts.packed_with
    )
    dropout = KeyedDropout(masks) if masks is not None else SeededDropout(seed, rank.number if rank is not None else 0)
    callbacks: list[TrainerCallback] = [NoteSteps(facts), dropout, follow, keep, measure, watch]
    callbacks += _own_callbacks(method, course)
    callbacks += [selection] if selection is not None and not packed else []
    facts.enter("preparing the training")
    reach("run.train")
    return Ready(
        job=job, facts=facts, model=model, tokenizer=tokenizer, data=data, at_hand=at_hand, questions=questions,
        course=course, flops=flops, seed=seed, measure=measure, follow=follow, keep=keep, selection=selection,
        callbacks=callbacks, checkpoint=checkpoint, load_seconds=load_seconds, rank=rank, masks=masks,
    )  # fmt: skip


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
    def of(
        cls, batch: Sequence[Mapping[str, Any]], flops: Callable[[Sequence[Mapping[str, Any]]], int] | None
    ) -> _Seen:
        """What a batch comes to."""
        tokens = sum(len(example["input_ids"]) for example in batch)
        return cls(len(batch), tokens, 0 if flops is None else flops(batch))


def score(ready: Ready, answered: Answered | None = None) -> Record:
    """Everything after the last step.

    Args:
        ready: A run that is trained.
        answered: What its last weights answer, where that is known.
    """
    job, facts, measure, model = ready.job, ready.facts, ready.measure, ready.model
    spec = job.spec
    reach("run.trained")
    step, ended_by = ready.follow.step, ready.follow.ended_by
    assert ended_by is not None, "a run that is trained was ended by its budget"
    if ended_by != ready.course.target:
        facts.warnings.append(ready.course.said(step, ended_by, measure.train_seconds or 0.0))
    # One after the other: the examples of all of them may be more than memory holds.
    done = [_Seen.of(ready.course.batch(before), ready.flops) for before in range(step)]
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
    scores = scores_of(job.task, ready.data, answered.answers)
    there = job.folder.record()
    if there is not None:  # who took the run over was faster, and what its record tells of is not to be written over
        return there
    facts.enter("writing predictions and weights")
    reach("run.keep")

    return job.record(
        "ok",
        **facts.known(),
        capped_by=ended_by if ended_by != ready.course.target else None,
        memory=measure.memory(model),
        speed=measure.speed_of_batches(
            step_examples=[batch.examples for batch in done],
            step_tokens=[batch.tokens for batch in done],
            train_flops=sum(batch.flops for batch in done) if ready.flops is not None else None,
            load_seconds=ready.load_seconds,
            evaluation_seconds=answered.seconds,
        ),
        scores=scores,
        predictions=keep_answers(job, ready.data.splits[spec.score_on], answered.answers[spec.score_on]),
        weights=keep_weights(job, model, ready.tokenizer, step),
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
    with heard(lambda: ready.keep.stop_evaluation(ready.model)):
        return {name: ready.at_hand.answers(ready.model, ready.questions[name]) for name in ready.scored}


def _keeps_best(job: Job) -> bool:
    return job.spec.keep_weights == "best" or job.spec.rules.checkpoint == "best"


def _shard(job: Job, method: Method, model: nn.Module, device: torch.device) -> None:
    """Leave this process its part of the model.

    Raises:
        UnsupportedPair: If the method looks at whole weights or gradients on its way.
    """
    if own_callbacks(method):
        raise UnsupportedPair(
            f"{method.name} does something of its own at each step, and under fsdp no weight is whole then"
        )
    shard(model, job.base_model.model_type, device, bfloat16=job.spec.training.precision == "bfloat16")


def _flops(job: Job, method: Method, train: Sequence[Example]) -> Callable[[Sequence[Mapping[str, Any]]], int]:
    """What a batch of training examples takes."""
    recipe, labels = job.spec.training, max(1, len(job.spec.task.labels))

    def count(rows: int, length: int) -> int:
        return step_flops(job.base_model, method, kind=job.task.kind, labels=labels, rows=rows, length=length)

    return batch_flops(count, train, recipe.batch_size, recipe.accumulation)


def _own_callbacks(method: Method, course: Course) -> list[Any]:
    """What a method does at the steps of a run.

    Raises:
        UnsupportedPair: If it has to know their number, and a clock ends the run.
    """
    found = own_callbacks(method)
    if course.steps is None and any(getattr(one, "needs_steps", False) for one in found):
        raise UnsupportedPair("its schedule is over the number of steps, which a budget of train_seconds does not tell")
    return found


@cache
def _warm_up() -> None:
    """A step and a prediction of a tiny model: what the first run of a process would pay for, and a later one would not.

    What the libraries made stays as long as the process does. Looking through their half a million objects for garbage takes a
    quarter of a second, and a run does that twice, so they are set aside.
    """
    import datasets  # noqa: F401  # the imports that a run makes on its way
    from transformers import RobertaConfig, RobertaForSequenceClassification

    metric("accuracy").compute(predictions=[0], references=[0])
    config = RobertaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, pad_token_id=1
    )
    examples = [{"input_ids": [2, 3, 4], "attention_mask": [1, 1, 1], "labels": 0}] * 2
    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = TrainingArguments(
            folder, max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        model = known_methods()["lora"]().apply(RobertaForSequenceClassification(config), head=["classifier"])
        trainer = Trainer(model, args=arguments, train_dataset=examples)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.predict(examples)
    del model, trainer
    gc.collect()
    gc.freeze()
