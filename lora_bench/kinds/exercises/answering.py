"""Answers that stand in a text: an answer is where it begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.errors import Diverged
from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.generation.encode import CompletionCollator
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.support.answer_spans import NOWHERE, QuestionWindows, encode_windows, tokens_of
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.tasks import Split


class WindowCollator(CompletionCollator):
    """Makes a batch of windows, with the first and the last token of their answers."""

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return tensors of shape (windows, longest), and (windows,) for the positions."""
        batch = super().__call__(examples)
        positions = [name for name in ("start_positions", "end_positions") if name in examples[0]]
        return batch | {name: torch.tensor([example[name] for example in examples]) for name in positions}


class Answering(Labelling):
    """Finds answers in a text: the likeliest first and last token of all windows of a question, and their characters.

    With unanswerable questions there is none if the sum of both logits is greatest at the first token of a window, which in
    SQuAD's code is called a null score with a threshold of 0; of several windows the least counts.
    """

    collator = WindowCollator
    weighs_classes = False

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return every window of every example, with the tokens of its first answer."""
        windows, truncated = self.questions(split)
        right: Sequence[Any] = split.labels
        found = []
        for window in windows:
            spans = right[window.pop("example")]
            begins, ends = window.pop("begins"), window.pop("ends")
            first, last = tokens_of(spans[0] if spans else None, begins, ends)
            found.append({**window, "start_positions": first, "end_positions": last})
        return found, truncated

    def questions(self, split: Split) -> tuple[list[Example], float]:
        return encode_windows(split, self._tokenizer, self._spec.training.max_length)

    def units(self, lessons: Sequence[Example]) -> Sequence[Any]:
        return QuestionWindows(lessons)

    @staticmethod
    def random_labels(input_ids: Tensor, shape: Shape, labels: int, drawn: torch.Generator) -> Tensor:
        return torch.randint(input_ids.shape[-1], shape, generator=drawn)

    def read(self, logits: Tensor) -> Tensor:
        """Return the logits of first and last tokens side by side, filled up to `max_length` tokens."""
        more = self._spec.training.max_length - logits.shape[-2]
        return nn.functional.pad(logits, (0, 0, 0, more)).flatten(-2)

    def answers_in(self, logits: Tensor, questions: Sequence[Example]) -> Replies:
        """Return first character of each question's answer and the one behind its last; nothing for no answer."""
        best: dict[int, tuple[float, list[int]]] = {}
        null: dict[int, float] = {}
        for row, window in zip(logits, questions, strict=True):
            of_tokens = row.reshape(-1, 2)[: len(window["input_ids"])]
            if not of_tokens.isfinite().all():
                raise Diverged("the trained model's outputs are not finite")
            number = window["example"]
            null[number] = min(null.get(number, torch.inf), float(of_tokens[0].sum()))
            found = likeliest_span(of_tokens, window)
            if found[0] > best.get(number, (-torch.inf, []))[0] or number not in best:
                best[number] = found
        without = {number for number in best if self._task.unanswerable and null[number] > best[number][0]}
        return Replies([[] if number in without else best[number][1] for number in sorted(best)])


# Tokens of the longest answer, as in SQuAD's code.
LONGEST_ANSWER = 30


def likeliest_span(logits: Tensor, window: Example) -> tuple[float, list[int]]:
    """Return the sum of the logits of a window's likeliest answer, and its characters; nothing without a text.

    *logits* are those of first and last tokens, shape (tokens, 2).
    """
    inside = torch.tensor([place for place, first in enumerate(window["begins"]) if first != NOWHERE])
    if not len(inside):
        return -torch.inf, []
    logits = logits.detach()
    sums = logits[inside, 0][:, None] + logits[inside, 1][None, :]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    first, last = divmod(int(sums.masked_fill(~allowed, -torch.inf).argmax()), len(inside))
    characters = [window["begins"][int(inside[first])], window["ends"][int(inside[last])]]
    return float(sums[first, last]), characters


EXERCISE = Answering
