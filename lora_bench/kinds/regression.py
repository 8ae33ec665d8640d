"""Regression: a text, or a pair of texts, has a number."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lora_bench.errors import Fault
from lora_bench.kinds.support.row_values import Declared, Split, Table, Texts, numbers_of
from lora_bench.kinds.support.table_view import GuessedTask, Stage, View, is_quantity
from lora_bench.kinds.support.task_kind import TaskKind

# The squared error of a larger one is infinite in float32, summed over a batch.
LARGEST_LABEL = 1e18


class Regression(TaskKind):
    """An answer is a number."""

    exercise = "labelling.Rating"
    metric_kinds = ("regression",)
    usual_metric = "pearson"
    guessed_metrics = ("mae",)  # in the unit of the numbers
    reads_one_token = True
    word_model = "ridge"
    answer_words = "a number, in the unit of the labels of training"
    python_answer = "model(**inputs).logits.item()"
    smooths = False
    real_labels = ("labels",)
    problem_type = "regression"

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        if stage != "labels" or not ((numbers := is_quantity(view.given)) or view.asked.kind):
            return None
        return view.labelled(f"{view.label} has {numbers}")

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return the number of each row; note every row whose number is none, or too large to learn."""
        column = task.label.column
        numbers = numbers_of(table, column, super().labels(task, table, texts, faults), faults)
        large = [row for row, number in enumerate(numbers) if abs(number or 0) > LARGEST_LABEL]
        if large:
            such = f"{LARGEST_LABEL:g}, such as {numbers[large[0]]:g}: scale them"
            faults.append(table.rows_fault(f"has labels in column {column!r} beyond {such}", large))
        return numbers

    def faults_of_split(self, labels: Sequence[Any], split: str) -> Iterator[str]:
        """Return a fault for labels that are all the same: nothing correlates with them, so no run has a score."""
        if len(labels) > 1 and len(set(labels)) == 1:
            yield f"gives all {len(labels):,} examples of {split} the label {labels[0]:g}"

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        numbers: Sequence[Any] = train.labels
        return [math.fsum(numbers) / len(numbers)] * len(split.ids)


KIND = Regression()
