"""Regression: an answer is a number."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.losses import Loss, squared_error
from lora_bench.kinds.support.task_kind import Shape


class Rating(Labelling):
    """Gives each text a number."""

    weighs_classes = False

    def replies(self, logits: Tensor) -> Replies:
        return Replies([round(value, 6) for value in logits.squeeze(-1).tolist()])

    @staticmethod
    def loss(label_smoothing: float = 0.0) -> Loss:
        return squared_error

    @staticmethod
    def random_labels(input_ids: Tensor, shape: Shape, labels: int, drawn: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=drawn)


EXERCISE = Rating
