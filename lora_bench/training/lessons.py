"""The data of a run: its encoded examples, and the order and number of its steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.base_exercise import Exercise
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.methods import Method
from lora_bench.models.label_order import label_order_warnings
from lora_bench.models.loading import reads_apart
from lora_bench.records.budget import Batch
from lora_bench.records.record import DataSummary
from lora_bench.records.spec import PlannedSpec
from lora_bench.tasks import TaskData, majority_score, unavailable_metrics
from lora_bench.tasks.word_model import word_model_score
from lora_bench.training.attempt import Facts, Setup
from lora_bench.training.job import Job
from lora_bench.training.measure.step_costs import batch_flops, step_flops
from lora_bench.training.process_cache import WARM
from lora_bench.training.scoring import answered_splits
from lora_bench.training.step_plan import Course, plan_course
from lora_bench.util.failpoints import reach
from lora_bench.util.seeding import distinct_rows

BatchFlops = Callable[[Batch], int]


@dataclass(frozen=True)
class Lessons:
    """The examples of a run: its data, the examples to answer by split, and the course of its training batches.

    *flops* counts the FLOPs of a batch, if the budget needs them; *class_weights* has the weight of each class, if rows do not
    count alike.
    """

    data: TaskData
    exercise: Exercise
    questions: dict[str, Sequence[Example]]
    course: Course
    flops: BatchFlops | None
    class_weights: Tensor | None

    def weighed_at_start(self, model: nn.Module) -> "Lessons":
        """Return the lessons with rows that the starting model has weighed, each once; see `Exercise.weighed_at_start`."""
        weigh = partial(self.exercise.weighed_at_start, model)
        questions = {name: weigh(rows) for name, rows in self.questions.items()}
        return replace(self, questions=questions, course=self.course.changed(weigh))


def read_lessons(setup: Setup, tokenizer: Any) -> Lessons:
    """Read the examples of a run, and plan its steps. Raise LoraBenchError if the data has changed since the plan."""
    job, facts, seed = setup.job, setup.facts, setup.seed
    facts.enter("reading the data")
    reach("run.data")
    data = WARM.data(job)
    if data.sha256 != job.spec.task.data_sha256:
        raise LoraBenchError(
            "the data changed after the suite was planned; run the same command again to use the new data"
        )
    made = exercise(job.task, tokenizer, job.spec, seed)
    train, questions = examples_of(job, data, made, facts)
    recipe = job.spec.training
    flops = _flops(job, setup.method, train) if recipe.uses("train_flops") else None
    weights = None
    if recipe.class_weights is not None:
        weights = balanced_weights([example["labels"] for example in train], len(data.labels))
    return Lessons(data, made, questions, plan_course(recipe, seed, train, flops), flops, weights)


def _flops(job: Job, method: Method, train: Sequence[Any]) -> BatchFlops:
    recipe, labels, kind = job.spec.training, max(1, len(job.spec.task.labels)), job.task.kind_of.model_kind
    of_each = job.task.kind_of.rows_of_example(labels)

    def count(rows: int, length: int, text: int | None = None) -> int:
        return step_flops(
            job.base_model, method, kind=kind, labels=labels, rows=rows // of_each, length=length, text=text
        )

    apart = job.task.writes and reads_apart(job.base_model.model_type)
    return batch_flops(count, train, recipe.batch_size, recipe.accumulation, apart=apart)


def examples_of(
    job: Job, data: TaskData, at_hand: Exercise, facts: Facts
) -> tuple[Sequence[Any], dict[str, Sequence[Example]]]:
    """Return the training examples, a question's windows as one, and those to answer by split; record facts about them."""
    spec = job.spec
    asked = dict.fromkeys(answered_splits(job.task, spec, data))
    if spec.selection_every is not None:
        asked[spec.rules.choose_on] = None
    truncated: dict[str, float] = {}
    train: Sequence[Any]
    train, truncated["train"] = WARM.shared(job, "train", "train", lambda: at_hand.lessons(data.splits["train"]))
    train = at_hand.units(train)
    rows = _distinct(spec, data, len(train))
    if rows is not None:
        train = [train[row] for row in rows]
    questions: dict[str, Sequence[Example]] = {}
    for name in asked:
        asked_of = partial(at_hand.questions, data.splits[name])
        questions[name], truncated[name] = WARM.shared(job, name, f"{name} to be answered", asked_of)
    facts.warnings += [*data.warnings, *unavailable_metrics(job.task)]
    for name, share in sorted(truncated.items()):
        if share > 0:
            shown = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
            facts.warnings.append(
                f"{shown} of the {name} inputs are longer than {spec.training.max_length} tokens and were truncated"
            )
    facts.warnings += label_order_warnings(job.base_model, data.labels)
    facts.data = DataSummary(
        examples={name: len(split.labels) for name, split in data.splits.items()},
        truncated_share=truncated,
        majority_score=majority_score(job.task, data, spec.score_on),
        word_model_score=_word_model_score(job, data, rows) if spec.score_on == "test" else None,
    )
    return train, questions


def _distinct(spec: PlannedSpec, data: TaskData, number: int) -> list[int] | None:
    """Return the indexes of a run's training examples, of so many; None for all."""
    recipe = spec.training
    if recipe.distinct_examples is None:
        return None
    seed = spec.seed if recipe.distinct_seed is None else recipe.distinct_seed
    labels = data.splits["train"].labels if recipe.distinct_draw == "even" else None
    return distinct_rows(seed, number, recipe.distinct_examples, labels)


def _word_model_score(job: Job, data: TaskData, rows: Sequence[int] | None) -> float | None:
    what = f"words of {'all rows' if rows is None else rows}, {job.task.metric}"
    return WARM.encoded(job, what, lambda: word_model_score(job.task, data, "test", rows))


def balanced_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Return rows / (classes with a row * rows of the class) for each class, shape (classes,); 0 for one without a row."""
    counts = torch.bincount(torch.tensor(labels), minlength=classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0.0).float()
