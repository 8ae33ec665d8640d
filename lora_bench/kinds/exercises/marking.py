"""Several labels a text: an answer is the list of the indexes of those that are likelier than a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.losses import Loss, binary_cross_entropy
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.exercises.thresholds import USUAL, decided, labels_above
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.tasks import Split, Task, TaskData


class Marking(Labelling):
    """Marks each text with some of the labels."""

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return token ids with a 1 for each label."""
        examples, truncated = self.questions(split)
        right: Sequence[Any] = split.labels
        # Tuples, as lists have a value a token.
        each = range(len(self._spec.task.labels))
        labels = [tuple(float(place in own) for place in each) for own in right]
        return [{**example, "labels": label} for example, label in zip(examples, labels, strict=True)], truncated

    def replies(self, logits: Tensor) -> Replies:
        return Replies(labels_above(logits, USUAL), logits)

    @staticmethod
    def loss(label_smoothing: float = 0.0) -> Loss:
        return binary_cross_entropy

    @staticmethod
    def random_labels(input_ids: Tensor, shape: Shape, labels: int, drawn: torch.Generator) -> Tensor:
        return torch.randint(2, shape, generator=drawn).float()

    @staticmethod
    def decided(task: Task, data: TaskData, answers: Mapping[str, Replies]) -> tuple[dict[str, Replies], float | None]:
        return decided(task, data, answers)

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid()


EXERCISE = Marking
