"""One run, from a run spec to a record.

Everything a method may differ in happens in `method.apply`; every other line is the same for all methods, which is what
makes their records comparable. `transformers.Trainer` trains, hooked by callbacks and never subclassed. A run that ends in
another way than `ok` leaves a record too, with its status and reason.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from lora_bench.attempt import Facts, NoteSteps, ended
from lora_bench.checkpoint import latest_checkpoint, load_trained
from lora_bench.claims import Claim, Elsewhere
from lora_bench.company import others_at_work
from lora_bench.course import ENDLESS, Course, plan_course
from lora_bench.ends import DISK_FULL, is_disk_full
from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.failpoints import reach
from lora_bench.flops import batch_flops, step_flops
from lora_bench.job import Job
from lora_bench.loop import (
    FollowBudget,
    KeepCheckpoints,
    KeyedDropout,
    Notify,
    WatchLoss,
)
from lora_bench.measure import count_parameters
from lora_bench.meter import MeasureCallback
from lora_bench.methods import Method, known_methods, own_callbacks
from lora_bench.metrics import metric
from lora_bench.models import BaseModel, load_model, load_tokenizer
from lora_bench.pulse import heard
from lora_bench.randomness import adapters_drawn_from, draw_head, seed_for
from lora_bench.recipe import training_arguments
from lora_bench.record import DataSummary, Record
from lora_bench.scoring import (
    Example,
    Exercise,
    exercise,
    keep_answers,
    keep_weights,
    quiet,
    scored_splits,
    scores_of,
)
from lora_bench.selection import SelectionScores
from lora_bench.spec import PlannedSpec
from lora_bench.start import start_from
from lora_bench.tasks import TaskData, load_data, majority_score, unavailable_metrics


def run(job: Job, notify: Notify | None = None) -> Record:
    """Train and score one cell of a suite, and publish its record; waits for another process that is at it.

    Args:
        job: What to run and where.
        notify: Told of each step: its number and the latest loss.

    Returns:
        The record that stands in the run's folder afterwards; one that is only an attempt (`ends.is_attempt`) may not.
    """
    while True:
        with job.folder.held() as claim:
            record = _held(job, notify, claim)
        if not isinstance(record, Elsewhere):
            return record


def take(job: Job, notify: Notify | None = None) -> Record | Elsewhere:
    """As `run`, unless another process is at it: that is said at once."""
    record = job.folder.record()
    if record is not None:
        return record
    try:
        claim = job.folder.try_claim()
    except OSError as error:
        if not is_disk_full(error):
            raise
        return job.record("failed", DISK_FULL)
    if claim is None:
        return job.folder.record() or Elsewhere(job.run_id)
    with claim:
        return _held(job, notify, claim)


def _held(job: Job, notify: Notify | None, claim: Claim) -> Record | Elsewhere:
    """The record of a run that this process is at, unless another took it over meanwhile and this one has no score."""
    facts = Facts()
    try:
        reach("run.held")
        # Another process may have done it before.
        record = job.folder.record()
        if record is not None:
            return record
        record = _attempt(job, facts, notify)
        # A failure of one that stood still for too long would stand before the score of who took the run over.
        return Elsewhere(job.run_id) if record.status != "ok" and claim.lost else job.folder.publish(record)
    except OSError as error:
        if not is_disk_full(error):
            raise
        # Not even the attempt could be written.
        return job.record("failed", DISK_FULL, **facts.known())


def _attempt(job: Job, facts: Facts, notify: Notify | None) -> Record:
    """The record of one attempt, however it ends."""
    try:
        record = _train_and_score(job, facts, notify)
    except Exception as error:
        record = ended(job, facts, error)
    facts.enter("publishing the record")
    reach("run.publish")
    return record


def _train_and_score(job: Job, facts: Facts, notify: Notify | None) -> Record:
    """The pipeline: data, base model, method, training, scores, record."""
    spec = job.spec
    torch.set_num_threads(spec.training.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = spec.seed if spec.series is None else seed_for(spec.series, spec.seed)
    _warm_up()
    measure = MeasureCallback(exclusive=job.exclusive and not others_at_work(job.folder.path.parent))
    measure.begin(device)

    facts.enter("loading the base model")
    reach("run.load")
    began = time.perf_counter()
    recipe = spec.training
    model, head = load_model(
        job.base_model,
        kind=job.task.kind,
        labels=len(spec.task.labels),
        base_dropout=recipe.base_dropout,
        head_dropout=recipe.head_dropout,
    )
    tokenizer = load_tokenizer(job.base_model)
    # A causal model's head looks for the last token that is no padding, so both must mean the same token.
    model.config.pad_token_id = tokenizer.pad_token_id
    total = sum(weight.numel() for weight in model.parameters())
    draw_head(model, head, seed)
    method = known_methods()[spec.method.name](**spec.method.options)
    with adapters_drawn_from(seed):
        model = method.apply(model, head=head)
    if spec.start is not None:
        start_from(model, job.folder.of(spec.start.run_id), head)
    facts.parameters = count_parameters(model, head=head, total=total)
    facts.watch(model)
    load_seconds = time.perf_counter() - began

    facts.enter("reading the data")
    reach("run.data")
    data = load_data(job.task, job.task_base, whole_train=not spec.rules.selection_from_train)
    if data.sha256 != spec.task.data_sha256:
        raise LoraBenchError("the data changed after the suite was planned; the same command runs it on the new data")
    at_hand = exercise(job.task, tokenizer, spec, seed)
    train, questions = _examples(job, data, at_hand, facts)
    flops = _flops(job, method, train) if recipe.uses("train_flops") else None
    course = plan_course(recipe, seed, train, flops)

    checkpoint = latest_checkpoint(job.folder.checkpoints, facts.warnings.append)
    facts.resumed = checkpoint is not None
    keep_best = spec.keep_weights == "best" or spec.rules.checkpoint == "best"
    follow = FollowBudget(course, measure.seconds_so_far)
    watch = WatchLoss(follow, facts.curve, notify)
    selection_scores = None
    if spec.selection_every is not None:

        def score_on_selection(adapted: nn.Module) -> dict[str, float]:
            chosen_on = spec.rules.choose_on
            with facts.within("the evaluation on the selection split"):
                return scores_of(job.task, data, {chosen_on: at_hand.answers(adapted, questions[chosen_on])})

        selection_scores = SelectionScores(
            every=spec.selection_every,
            score=score_on_selection,
            metric=spec.task.metric,
            higher_is_better=spec.task.higher_is_better,
            curve=facts.curve,
            keep_best=keep_best,
            measure=measure,
        )
    keep = KeepCheckpoints(job.folder.checkpoints, watch, measure, selection_scores, checkpoint)
    callbacks = [NoteSteps(facts), KeyedDropout(seed), follow, keep, measure, watch, *_own_callbacks(method, course)]
    callbacks += [selection_scores] if selection_scores is not None else []
    facts.enter("preparing the training")
    reach("run.train")
    if checkpoint is not None and (follow.ended_by or follow.end_after(checkpoint.step, measure.earlier_seconds)):
        # The run was stopped between its last step and its record.
        load_trained(model, checkpoint.weights)
        model.to(device)
    else:
        _train(model, follow, at_hand.collate, spec, callbacks, 0 if checkpoint is None else checkpoint.step)

    reach("run.trained")
    step, ended_by = follow.step, follow.ended_by
    assert ended_by is not None, "a run that is trained was ended by its budget"
    if ended_by != course.target:
        facts.warnings.append(course.said(step, ended_by, measure.train_seconds or 0.0))
    done = course.batches(step)
    if keep_best and selection_scores is not None and selection_scores.best is not None:
        step = selection_scores.best.step
        load_trained(model, selection_scores.best.weights)
    began = time.perf_counter()
    facts.enter("the evaluation")
    with heard(lambda: keep.stop_evaluation(model)):
        answers = {name: at_hand.answers(model, questions[name]) for name in scored_splits(spec, data)}
    evaluation_seconds = time.perf_counter() - began
    measure.take("evaluation")
    if measure.exclusive and others_at_work(job.folder.path.parent):
        measure.exclusive = False
    if not measure.exclusive and recipe.uses("train_seconds"):
        facts.warnings.append("another process worked beside it on this machine, and used up some of its train_seconds")
    scores = scores_of(job.task, data, answers)
    facts.enter("writing predictions and weights")
    reach("run.keep")

    return job.record(
        "ok",
        **facts.known(),
        capped_by=ended_by if ended_by != course.target else None,
        memory=measure.memory(model),
        speed=measure.speed_of_batches(
            step_examples=[len(batch) for batch in done],
            step_tokens=[sum(len(example["input_ids"]) for example in batch) for batch in done],
            train_flops=sum(map(flops, done)) if flops is not None else None,
            load_seconds=load_seconds,
            evaluation_seconds=evaluation_seconds,
        ),
        scores=scores,
        predictions=keep_answers(job, data.splits[spec.score_on], answers[spec.score_on]),
        weights=keep_weights(job, model, tokenizer, step),
    )


def _flops(job: Job, method: Method, train: list[Example]) -> Callable[[Sequence[Mapping[str, Any]]], int]:
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


def _examples(
    job: Job, data: TaskData, at_hand: Exercise, facts: Facts
) -> tuple[list[Example], dict[str, list[Example]]]:
    """The examples to learn from, and by split those to be answered; notes the facts about them."""
    spec = job.spec
    asked = dict.fromkeys(scored_splits(spec, data))
    if spec.selection_every is not None:
        asked[spec.rules.choose_on] = None
    truncated: dict[str, float] = {}
    train, truncated["train"] = at_hand.lessons(data.splits["train"])
    questions: dict[str, list[Example]] = {}
    for name in asked:
        questions[name], truncated[name] = at_hand.questions(data.splits[name])
    facts.warnings += [*data.warnings, *unavailable_metrics(job.task)]
    for name, share in sorted(truncated.items()):
        if share > 0:
            facts.warnings.append(
                f"{_share(share)} of the {name} inputs are longer than {spec.training.max_length} tokens and were cut"
            )
    facts.warnings += _label_order_warning(job.base_model, data.labels)
    facts.data = DataSummary(
        examples={name: len(split.labels) for name, split in data.splits.items()},
        truncated_share=truncated,
        majority_score=majority_score(job.task, data, spec.score_on),
    )
    return train, questions


def _share(share: float) -> str:
    """A share above 0 in per cent, which never reads as none."""
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _label_order_warning(base_model: BaseModel, labels: Sequence[str]) -> list[str]:
    """A warning where the checkpoint knows the same labels in another order."""
    config = json.loads((base_model.folder / "config.json").read_text(encoding="utf-8"))
    known = [
        str(name).lower() for _, name in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))
    ]
    ours = [label.lower() for label in labels]
    if known != ours and sorted(known) == sorted(ours):
        return [
            f"the checkpoint of {base_model.name} orders the labels {known}, the task {ours}; "
            "the head is new, so its order is the task's"
        ]
    return []


def _train(
    model: nn.Module,
    follow: FollowBudget,
    collate: Callable[[list[Example]], Mapping[str, torch.Tensor]],
    spec: PlannedSpec,
    callbacks: list[Any],
    done: int,
) -> None:
    """The steps of a run that come after *done* of them."""
    course = follow.course
    steps = course.steps if course.steps is not None else ENDLESS // spec.training.batch_size
    with tempfile.TemporaryDirectory() as nothing_is_written_here, quiet():
        trainer = Trainer(
            model=model,
            args=training_arguments(spec, nothing_is_written_here, steps),
            train_dataset=course.rest(done),
            data_collator=collate,
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        # Else it takes the loss of a model with `**kwargs` for one that is already divided by the accumulation steps.
        trainer.model_accepts_loss_kwargs = False
        trainer.train()


@functools.cache
def _warm_up() -> None:
    """A step and a prediction of a tiny model: what the first run of a process would pay for, and a later one would not."""
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
