"""Answers that stand in a text: an answer is where it begins and ends.

A window is the question and as much of the text as `max_length` leaves room for. Windows of a text overlap by a third of
`max_length` (128 of 384 tokens, as is usual for SQuAD), so that an answer cut by one is whole in the next. A window without the
answer points at its first token.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import Diverged, LoraBenchError
from lora_bench.kinds.exercises.base_exercise import QuestionWindows, Replies, check_tells_characters
from lora_bench.kinds.exercises.generation.encode import CompletionCollator
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.spans import Span
from lora_bench.kinds.support.row_values import Encoded
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.tasks import Split

NOWHERE = -1
"""Character of a token outside of the text."""

# Special tokens around question and text, at most.
AROUND = 4


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

    def lessons(self, split: Split) -> Encoded:
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

    def questions(self, split: Split) -> Encoded:
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
    """Return the sum of logits, shape (tokens, 2), of a window's likeliest answer, and its characters; none without a text."""
    inside = torch.tensor([place for place, first in enumerate(window["begins"]) if first != NOWHERE])
    if not len(inside):
        return -torch.inf, []
    logits = logits.detach()
    sums = logits[inside, 0][:, None] + logits[inside, 1][None, :]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    first, last = divmod(int(sums.masked_fill(~allowed, -torch.inf).argmax()), len(inside))
    characters = [window["begins"][int(inside[first])], window["ends"][int(inside[last])]]
    return float(sums[first, last]), characters


def encode_windows(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode question and text of each example as windows; a question is cut to half of *max_length*.

    Beside the tokenizer's values a window has `begins` and `ends`, the characters of the text that each token stands for, or
    `NOWHERE`; `example`, the number of its example; and `windows`, how many windows that has. Raise LoraBenchError if the
    tokenizer does not tell which characters a token stands for, or *max_length* is too small.
    """
    check_tells_characters(tokenizer, "answers cannot be found")
    if max_length < 4 * AROUND:
        raise LoraBenchError(f"max_length must be at least {4 * AROUND} for a question and its text, got {max_length}")
    if not split.texts:
        return [], 0.0
    questions, cut = _cut([question for question, _ in split.texts], tokenizer, max_length // 2 - AROUND)
    batch = tokenizer(
        questions,
        [text for _, text in split.texts],
        truncation="only_second",
        max_length=max_length,
        stride=max_length // 3,
        padding=False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    columns = {name: list(values) for name, values in batch.items()}
    spans, numbers = columns.pop("offset_mapping"), columns.pop("overflow_to_sample_mapping")
    of_each = Counter(numbers)
    windows: list[dict[str, Any]] = []
    for place, row in enumerate(zip(*columns.values(), strict=True)):
        sequences = batch.sequence_ids(place)
        of_text = [
            span if number == 1 else (NOWHERE, NOWHERE) for span, number in zip(spans[place], sequences, strict=True)
        ]
        windows.append(
            {
                **dict(zip(columns, row, strict=True)),
                "begins": [first for first, _ in of_text],
                "ends": [behind for _, behind in of_text],
                "example": numbers[place],
                "windows": of_each[numbers[place]],
            }
        )
    return windows, cut / len(split.texts)


def _cut(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> tuple[list[str], int]:
    """Return questions of at most so many tokens, and the number of those that were cut."""
    spans = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    whole = [
        question[: of[most - 1][1]] if len(of) > most else question
        for question, of in zip(questions, spans, strict=True)
    ]
    return whole, sum(len(of) > most for of in spans)


def tokens_of(span: Span | None, begins: Sequence[int], ends: Sequence[int]) -> tuple[int, int]:
    """Return an answer's first and last token in a window that has all of it, else 0, by each token's *begins* and *ends*."""
    inside = [place for place, first in enumerate(begins) if first != NOWHERE]
    if span is None or not inside or begins[inside[0]] > span[0] or ends[inside[-1]] < span[1]:
        return 0, 0
    within = [place for place in inside if ends[place] > span[0] and begins[place] < span[1]]
    return (within[0], within[-1]) if within else (0, 0)
