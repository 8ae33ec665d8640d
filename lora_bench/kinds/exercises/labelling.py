"""Labels of a text: an answer is the index of the likeliest class, a number, or the indexes of several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding

from lora_bench.errors import Diverged
from lora_bench.kinds.exercises.base_exercise import Exercise, Pack, Replies
from lora_bench.kinds.exercises.losses import Loss, binary_cross_entropy, squared_error
from lora_bench.kinds.exercises.predicting import Example, autocast, predict, predict_in_order
from lora_bench.kinds.exercises.thresholds import USUAL, decided, labels_above
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.tasks import Split, encode


class Labelling(Exercise):
    """Gives each text a label. Other exercises with one output of a model derive from it."""

    collator = DataCollatorWithPadding
    weighs_classes = True

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        examples, truncated = self.questions(split)
        return [{**example, "labels": label} for example, label in zip(examples, split.labels, strict=True)], truncated

    def questions(self, split: Split) -> tuple[list[Example], float]:
        return encode(split, self._tokenizer, self._spec.training.max_length)

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        return self.answers_in(predict(model, questions, self.collate, self._spec, self.read), questions)

    def answers_of_each(self, pack: Pack, questions: Sequence[Example]) -> Sequence[Replies | None]:
        with autocast(pack.first, self._spec):
            found = predict_in_order(lambda batch: self.read(pack.logits(batch)), questions, self.collate, pack.rows)
        return [self.answers_in(own, questions) if torch.isfinite(own).all() else None for own in found]

    def read(self, logits: Tensor) -> Tensor:
        """Return what answers are made of, shape (..., examples, values), from the logits of a batch."""
        return logits

    def answers_in(self, logits: Tensor, questions: Sequence[Example]) -> Replies:
        """Return the answers from what was read, of shape (examples, values).

        Raises:
            Diverged: If they are not finite.
        """
        if not torch.isfinite(logits).all():
            raise Diverged("the trained model's outputs are not finite")
        return self.replies(logits)

    def replies(self, logits: Tensor) -> Replies:
        """Return the answers that finite logits give."""
        return Replies(logits.argmax(-1).tolist(), logits)


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


class Marking(Labelling):
    """Marks each text with the labels that are likelier than a threshold."""

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

    decided = staticmethod(decided)

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid()
