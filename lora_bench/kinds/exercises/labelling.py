"""Classification: an answer is the index of the likeliest class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DataCollatorWithPadding

from lora_bench.errors import Diverged
from lora_bench.kinds.exercises.base_exercise import Exercise, Pack, Replies
from lora_bench.kinds.exercises.predicting import Example, autocast, predict, predict_in_order
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

    def read(self, logits: torch.Tensor) -> torch.Tensor:
        """Return what answers are made of, shape (..., examples, values), from the logits of a batch."""
        return logits

    def answers_in(self, logits: torch.Tensor, questions: Sequence[Example]) -> Replies:
        """Return the answers from what was read, of shape (examples, values).

        Raises:
            Diverged: If they are not finite.
        """
        if not torch.isfinite(logits).all():
            raise Diverged("the trained model's outputs are not finite")
        return self.replies(logits)

    def replies(self, logits: torch.Tensor) -> Replies:
        """Return the answers that finite logits give."""
        return Replies(logits.argmax(-1).tolist(), logits)


EXERCISE = Labelling
