"""The data of a run: its encoded examples, and the order and number of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.base_exercise import Exercise
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.methods import Method
from lora_bench.models.loading import reads_apart
from lora_bench.records.budget import Batch
from lora_bench.tasks import TaskData
from lora_bench.training.class_weights import balanced_weights
from lora_bench.training.encoded_examples import examples_of
from lora_bench.training.job import Job
from lora_bench.training.measure.flops import batch_flops, batch_flops_apart, step_flops
from lora_bench.training.process_cache import WARM
from lora_bench.training.setup import Setup
from lora_bench.training.step_plan import Course, plan_course
from lora_bench.util.failpoints import reach

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


def read_lessons(setup: Setup, tokenizer: Any) -> Lessons:
    """Read the examples of a run and plan its steps; record the numbers of examples.

    Raises:
        LoraBenchError: If the data has changed since the plan.
    """
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

    if job.task.writes and reads_apart(job.base_model.model_type):
        return batch_flops_apart(count, train, recipe.batch_size, recipe.accumulation)
    return batch_flops(count, train, recipe.batch_size, recipe.accumulation)
