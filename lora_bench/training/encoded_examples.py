"""The encoded examples of a run, with the facts for its record: their number, and the share that was truncated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from lora_bench.kinds.exercises.base_exercise import Exercise
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.models.label_order import label_order_warnings
from lora_bench.records.record import DataSummary
from lora_bench.records.spec import PlannedSpec
from lora_bench.tasks import TaskData, majority_score, unavailable_metrics
from lora_bench.tasks.word_model import word_model_score
from lora_bench.training.attempt import Facts
from lora_bench.training.job import Job
from lora_bench.training.process_cache import WARM
from lora_bench.training.scoring import answered_splits
from lora_bench.util.seeding import distinct_rows


def examples_of(
    job: Job, data: TaskData, at_hand: Exercise, facts: Facts
) -> tuple[Sequence[Any], dict[str, Sequence[Example]]]:
    """Return the training examples and, by split, the examples to answer; record the facts about them.

    A question about a text is one training example: the list of its windows.
    """
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
            facts.warnings.append(
                f"{_share(share)} of the {name} inputs are longer than {spec.training.max_length} tokens and were truncated"
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


def _share(share: float) -> str:
    """Return a share above 0 in per cent, never rounded to zero."""
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
