"""Labels of words: an answer is the label of each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lora_bench.errors import Diverged, LoraBenchError
from lora_bench.kinds.exercises.base_exercise import UNCUT, Replies
from lora_bench.kinds.exercises.generation.encode import NO_LOSS, CompletionCollator
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.support.tagging import encode_words, labels_of_tokens, labels_of_words
from lora_bench.tasks import Split


class Tagging(Labelling):
    """Gives each word the label of its first token."""

    predicts_next = False
    weighs_classes = False

    collator = CompletionCollator

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return token ids with a label for the first token of each word.

        Raises:
            LoraBenchError: If no word of an example has a token, so that its loss would be undefined.
        """
        examples, truncated = self.questions(split)
        index = {name: number for number, name in enumerate(self._spec.task.labels)}
        found = []
        right: Sequence[Any] = split.labels
        for name, example, tags in zip(split.ids, examples, right, strict=True):
            labels = labels_of_tokens(example["begins"], [index[tag] for tag in tags], NO_LOSS)
            if set(labels) == {NO_LOSS}:
                raise LoraBenchError(f"the tokenizer makes no token of any word of training example {name}")
            found.append({key: example[key] for key in example if key not in ("begins", "words")} | {"labels": labels})
        return found, truncated

    def questions(self, split: Split) -> tuple[list[Example], float]:
        return encode_words(split, self._tokenizer, self._spec.training.max_length)

    def read(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the likeliest label of each token, NaN where logits are not finite, filled up to `max_length` tokens."""
        likeliest = logits.argmax(-1).float().masked_fill(~logits.isfinite().all(-1), torch.nan)
        return nn.functional.pad(likeliest, (0, self._spec.training.max_length - likeliest.shape[-1]))

    def answers_in(self, logits: torch.Tensor, questions: Sequence[Example]) -> Replies:
        answers, names = [], self._spec.task.labels
        for row, question in zip(logits, questions, strict=True):
            of_tokens = row[: len(question["input_ids"])]
            if of_tokens.isnan().any():
                raise Diverged("the trained model's outputs are not finite")
            said = [names[int(number)] for number in of_tokens.tolist()]
            answers.append(labels_of_words(question["begins"], question["words"], said, names))
        return Replies(answers)

    def whole(self, split: Split, *, train: bool) -> list[Example]:
        return encode_words(split, self._tokenizer, UNCUT)[0]


EXERCISE = Tagging
