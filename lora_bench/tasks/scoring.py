"""Examples as a model takes them, and what its predictions are worth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_bench.metrics import metric
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.examples import Split, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, list[int]]], float]:
    """The examples of a split as a model takes them, cut to *max_length* tokens and not padded.

    Returns:
        For each example its `input_ids`, `attention_mask` and whatever else the tokenizer gives, each of the example's
        own length; and the share of examples that were cut.
    """
    texts = [list(column) for column in zip(*split.texts, strict=True)]
    if not texts:
        return [], 0.0
    batch = tokenizer(*texts, truncation=True, max_length=max_length, padding=False)
    columns = {name: list(values) for name, values in batch.items()}
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if tokenizer.is_fast:
        cut = sum(bool(encoding.overflowing) for encoding in batch.encodings)
    else:
        whole = tokenizer(*texts, truncation=False, padding=False, verbose=False)["input_ids"]
        cut = sum(len(ids) > max_length for ids in whole)
    return examples, cut / len(examples)


def score(task: Task, references: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """The task's metric on predictions: class indexes, or numbers for regression.

    Returns:
        The value by the metric's name; nothing where the metric is undefined, as a correlation with a constant is.
    """
    options = {"classes": len(task.labels)} if task.metric == "f1" and task.labels else {}
    values = metric(task.metric).compute(references=list(references), predictions=list(predictions), **options)
    return {name: float(value) for name, value in (values or {}).items() if value is not None}


def majority_score(task: Task, data: TaskData, split: str) -> float | None:
    """What always predicting the most frequent training class (or the training mean) scores, if that is defined."""
    train: Sequence[float] = data.splits["train"].labels
    if task.kind == "regression":
        constant = math.fsum(train) / len(train)
    else:
        counts = Counter(train)
        constant = min(counts, key=lambda label: (-counts[label], label))
    references = data.splits[split].labels
    return score(task, references, [constant] * len(references)).get(task.metric)
