"""Prepare a run for its first step: data, base model, method, callbacks and Trainer.

Methods differ only in `method.apply`. Every other line is the same for all methods, which makes their records comparable.
`lora_bench.training.run` takes the steps of a single run, and `lora_bench.pack` those of runs that share a base model.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from lora_bench.errors import UnsupportedPair
from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.generation.encode import packing, with_decoder_inputs
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.methods import Method, known_methods, own_callbacks, trains_base
from lora_bench.models.base_precision import checkpoint_layers, meet
from lora_bench.models.chunked_loss import chunk_loss
from lora_bench.models.find_family import use_family
from lora_bench.models.loading import writes_on
from lora_bench.models.read_position import read_alone
from lora_bench.models.sample_packing import check_packing
from lora_bench.models.shared_copy import copy_sharing, own_trained
from lora_bench.records.budget import Batch, rows_of, tokens_of
from lora_bench.records.record import WentOn
from lora_bench.records.run_lock import others_at_work
from lora_bench.training.attempt import Facts, Setup
from lora_bench.training.best_weights import Best, SelectionScores
from lora_bench.training.callbacks import AtEachStep, FollowBudget, KeepCheckpoints, WatchLoss, seed_dropout
from lora_bench.training.checkpoint import Checkpoint, latest_checkpoint, load_trained
from lora_bench.training.distributed.fsdp import shard
from lora_bench.training.distributed.ranks import BatchShares, WorkerRank, collate_share, weigh_shares
from lora_bench.training.job import Job, Notify
from lora_bench.training.keyed_dropout import StepMasks, with_keyed_masks
from lora_bench.training.lessons import Lessons, read_lessons
from lora_bench.training.measure.counters import count_parameters
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.process_cache import WARM, load_for
from lora_bench.training.scoring import answered_splits, scored_splits, scores_of
from lora_bench.training.step_plan import ENDLESS, Course, UntilNoRise
from lora_bench.training.trainer import learn_by, set_rates, training_arguments, warm_up, weigh_classes
from lora_bench.training.warm_start import start_from, start_from_adapter
from lora_bench.util.failpoints import reach
from lora_bench.util.seeding import adapters_drawn_from, draw_head, seed_for


@dataclass(frozen=True)
class AdaptedModel:
    """A base model made trainable by a method, with its head's modules; *masks* if it draws its own dropout by keys."""

    network: nn.Module
    tokenizer: Any
    masks: StepMasks | None
    load_seconds: float
    head: Sequence[str]


@dataclass(frozen=True)
class Hooks:
    """The callbacks of a run, *all* in the order of the Trainer's calls."""

    all: list[TrainerCallback]
    measure: MeasureCallback
    follow: FollowBudget
    keep: KeepCheckpoints
    selection: SelectionScores | None


@dataclass(frozen=True)
class Ready(Setup):
    """A run that is ready for its steps, with the checkpoint that it resumes from, if any."""

    adapted: AdaptedModel
    lessons: Lessons
    hooks: Hooks
    checkpoint: Checkpoint | None

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
        if not writes_on(self.job.base_model.model_type) or not self.job.task.kind_of.has_head:
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
        if recipe.sample_packing:
            collate = packing(collate)
        if self.rank is not None:
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
            set_rates(trainer, self.method, self.model, self.adapted.head, recipe.head_learning_rate)
            # Otherwise it takes the loss of a model with `**kwargs` as already divided by the accumulation steps.
            trainer.model_accepts_loss_kwargs = False
            if self.lessons.class_weights is not None:
                weigh_classes(trainer, self.lessons.class_weights, recipe.label_smoothing)
            if self.job.task.kind_of.own_loss:
                learn_by(trainer, self.lessons.exercise.loss_of)
            if self.rank is not None:
                weigh_shares(trainer, self.adapted.masks)
            yield trainer


def _of_rows(collate: Callable[[Any], Any]) -> Callable[[Batch], Any]:
    """Return a function that makes a batch of all rows of its examples, such as the windows of a question."""
    return lambda batch: collate(rows_of(batch))


def prepare(
    job: Job, facts: Facts, notify: Notify | None, *, packed: bool = False, rank: WorkerRank | None = None
) -> Ready:
    """Prepare a run for its first step. A pack draws the masks of its members; *rank* is one of a run's several processes."""
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
    adapted, lessons = adapt(setup, lessons)
    checkpoint = _checkpoint(job, facts, rank)
    hooks = hooks_of(setup, adapted, lessons, measure, checkpoint)
    facts.enter("preparing the training")
    reach("run.train")
    return Ready(**vars(setup), adapted=adapted, lessons=lessons, hooks=hooks, checkpoint=checkpoint)


def _checkpoint(job: Job, facts: Facts, rank: WorkerRank | None) -> Checkpoint | None:
    """Return the checkpoint that a run resumes from, its own or that of a shorter trial, and record that it resumes."""
    find = partial(latest_checkpoint, job.folder.checkpoints, facts.warnings.append, job.run_id)
    checkpoint = find() if rank is None else rank.after_first(find)
    shorter = None if job.after is None else job.folder.of(job.after)
    # Without a record another process may be writing it.
    if checkpoint is None and shorter is not None and job.after is not None and shorter.record() is not None:
        checkpoint = latest_checkpoint(shorter.handover, facts.warnings.append, job.after)
        if checkpoint is not None:
            seconds = checkpoint.progress["train_seconds"]
            facts.went_on = WentOn(run_id=job.after, step=checkpoint.step, train_seconds=seconds)
    elif checkpoint is not None and checkpoint.progress.get("went_on") is not None:
        facts.went_on = WentOn.model_validate(checkpoint.progress["went_on"])
    facts.resumed = checkpoint is not None
    if checkpoint is not None:
        facts.packed_with = tuple(checkpoint.progress["packed_with"])
    return checkpoint


def adapt(setup: Setup, lessons: Lessons) -> tuple[AdaptedModel, Lessons]:
    """Load and adapt the base model of a run. Return it and the lessons, which the starting model weighs for some losses."""
    job, facts, method, seed, rank = setup.job, setup.facts, setup.method, setup.seed, setup.rank
    facts.enter("loading the base model")
    reach("run.load")
    began = time.perf_counter()
    spec = job.spec
    # A worker rank does one run, so it keeps no base model.
    model, head = load_for(job) if trains_base(method) or rank is not None else WARM.base(job)
    tokenizer = WARM.tokenizer(job.base_model)
    # A causal model's head looks for the last token that is not padding, so both configs must name the same token.
    model.config.pad_token_id = tokenizer.pad_token_id
    if job.task.kind_of.own_loss and spec.start is None:
        # The same model for every method: PiSSA and qlora begin with other base weights, prefixes at random.
        lessons, began = _weighed_at_start(setup, lessons, copy_sharing(model), began)
    total = sum(weight.numel() for weight in model.parameters())
    draw_head(model, head, seed)
    with adapters_drawn_from(seed):
        model = method.apply(model, head=head)
    if not trains_base(method):
        own_trained(model)
    if spec.training.last_layer == "read_position" and job.task.kind_of.reads_one_token:
        read_alone(model, job.base_model.model_type)
    meet(model, head, spec.training.base_precision)
    if spec.training.gradient_checkpointing:
        checkpoint_layers(model)
    recipe = spec.training
    if recipe.sample_packing:
        check_packing(model.to(device_of_runs()))
    if job.task.writes and not setup.packed and not recipe.label_smoothing:
        rows = recipe.batch_size // (recipe.accumulation * recipe.processes)
        chunk_loss(model, rows * recipe.max_length)
    if job.adapter is not None:
        start_from_adapter(model, job.adapter, head)
    elif spec.start is not None and spec.start.run_id is not None:
        start_from(model, job.folder.of(spec.start.run_id), head)
    facts.parameters = count_parameters(model, head=head, total=total)
    facts.watch(model)
    if job.task.kind_of.own_loss and spec.start is not None:
        lessons, began = _weighed_at_start(setup, lessons, model, began)
    masks = StepMasks(seed) if spec.training.masks == "keyed" and not setup.packed else None
    if masks is not None:
        with_keyed_masks(model, masks)
    if rank is not None and rank.shards:
        _shard(job, method, model)
    return AdaptedModel(model, tokenizer, masks, time.perf_counter() - began, tuple(head)), lessons


def _weighed_at_start(setup: Setup, lessons: Lessons, model: nn.Module, began: float) -> tuple[Lessons, float]:
    """Return the lessons weighed by a model, and when loading would have begun without that."""
    paused = time.perf_counter()
    with setup.facts.within("weighing answers by the starting model"):
        lessons = lessons.weighed_at_start(model.to(device_of_runs()))
    return lessons, began + time.perf_counter() - paused


def device_of_runs() -> torch.device:
    """Return the device that runs of this process train on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _shard(job: Job, method: Method, model: nn.Module) -> None:
    """Shard the model over the processes of a run, unless its method uses whole weights or gradients during training."""
    if own_callbacks(method):
        raise UnsupportedPair(
            f"{method.name} works on the weights at each step, and fsdp shards them; use parallelism: ddp"
        )
    shard(model, job.base_model.model_type, device_of_runs(), bfloat16=job.spec.training.precision == "bfloat16")


def keeps_best(job: Job) -> bool:
    """Return True if the best weights of a run are scored, and not the last ones."""
    return job.spec.keep_weights == "best" or job.spec.rules.checkpoint == "best"


def hooks_of(
    setup: Setup, adapted: AdaptedModel, lessons: Lessons, measure: MeasureCallback, checkpoint: Checkpoint | None
) -> Hooks:
    """Make the callbacks of a run. Raise UnsupportedPair if its method cannot work under its budget."""
    job, facts, rank = setup.job, setup.facts, setup.rank
    course, masks = lessons.course, adapted.masks
    rule = UntilNoRise(job.spec, facts.curve) if job.spec.training.plateau is not None else None
    follow = FollowBudget(course, measure.seconds_so_far, rule)
    watch = WatchLoss(follow, facts.curve, setup.notify, whole_steps=job.whole_steps)
    selection = None
    if job.spec.selection_every is not None and (rank is None or rank.first or rank.shards):
        selection = _selection(setup, lessons, measure)
    keep = KeepCheckpoints(
        job.folder.checkpoints,
        watch,
        measure,
        selection,
        checkpoint,
        rank,
        lambda: facts.packed_with,
        handover=job.folder.handover if job.whole_steps is not None else None,
        went_on=facts.went_on,
    )
    number = rank.number if rank is not None else 0
    dropout = masks.begin if masks is not None else partial(seed_dropout, setup.seed, number)
    callbacks: list[TrainerCallback] = [AtEachStep(facts.begin, dropout), follow, keep, measure, watch]
    callbacks += _own_callbacks(setup.method, course if rule is None else None)
    callbacks += [selection] if selection is not None and not setup.packed else []
    return Hooks(callbacks, measure, follow, keep, selection)


def _selection(setup: Setup, lessons: Lessons, measure: MeasureCallback) -> SelectionScores:
    job, facts, rank = setup.job, setup.facts, setup.rank
    spec = job.spec
    assert spec.selection_every is not None, "asked for before"

    def score(adapted: nn.Module, answers: Replies | None) -> dict[str, float]:
        chosen_on = spec.rules.choose_on
        with facts.within("the evaluation on the selection split"):
            if answers is None:
                answers = lessons.exercise.answers(adapted, lessons.questions[chosen_on])
            at_threshold, _ = lessons.exercise.decided(job.task, lessons.data, {chosen_on: answers})
            return scores_of(job.task, lessons.data, at_threshold)

    return SelectionScores(
        every=spec.selection_every,
        score=score,
        metric=spec.task.metric,
        higher_is_better=spec.task.higher_is_better,
        curve=facts.curve,
        keep_best=keeps_best(job),
        measure=measure,
        rank=rank if rank is not None and rank.shards else None,
    )


def _own_callbacks(method: Method, course: Course | None) -> list[Any]:
    """Return a method's callbacks; refuse one that needs the number of steps under a clock, or a plateau, without a course."""
    found = own_callbacks(method)
    if (course is None or course.steps is None) and any(getattr(one, "needs_steps", False) for one in found):
        under = "until a plateau" if course is None else "under a budget of train_seconds"
        raise UnsupportedPair(f"its schedule needs the number of steps, which is unknown {under}")
    return found
