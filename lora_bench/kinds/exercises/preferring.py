"""Preference: an answer has the log-likelihoods of two texts under a model, and under the starting model of its run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import Diverged, LoraBenchError
from lora_bench.kinds.exercises.base_exercise import UNCUT, Exercise, QuestionWindows, Replies
from lora_bench.kinds.exercises.generation.chat_format import ChatFormat, encode_conversations
from lora_bench.kinds.exercises.generation.encode import NO_LOSS, CompletionCollator, encode_completions
from lora_bench.kinds.exercises.predicting import Example, autocast, quiet
from lora_bench.kinds.exercises.writing import likelihoods
from lora_bench.kinds.preference import has_chats
from lora_bench.kinds.support.row_values import Texts
from lora_bench.tasks import Split, Task, TaskData

AT_START = "at_start"
"""Log-likelihood of a row's answer under the starting model."""


class AnswerCollator(CompletionCollator):
    """Makes a batch of rows, two for each pair: the chosen answer with its prompt, and then the rejected one."""

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return tensors of shape (rows, longest), and log-likelihoods at the start, if known, of shape (rows,)."""
        batch = super().__call__(examples)
        if AT_START in examples[0]:
            batch[AT_START] = torch.tensor([row[AT_START] for row in examples])
        return batch


class Preferring(Exercise):
    """Ranks the answers of a pair by their implicit rewards. A row is a prompt with one of its answers."""

    collator = AnswerCollator

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        return self._rows(split, self._spec.training.max_length)

    def questions(self, split: Split) -> tuple[list[Example], float]:
        return self._rows(split, self._spec.training.max_length)

    def to_answer(self, texts: Texts) -> list[Example]:
        """Refuse: a reward needs the starting model."""
        raise LoraBenchError("pairs are ranked in the run that trains on them; its kept weights alone rank none")

    def whole(self, split: Split, *, train: bool) -> list[Example]:
        return self._rows(split, UNCUT)[0]

    def units(self, lessons: Sequence[Example]) -> Sequence[Any]:
        return QuestionWindows(lessons)

    def _rows(self, split: Split, longest: int) -> tuple[list[Example], float]:
        """Return two rows for each pair, with labels at the tokens of the answer, and the share that was truncated."""
        sides, cut = [], 0.0
        for side in (1, 2):
            answers: list[tuple[str, ...]] = [(text[side],) for text in split.texts]
            of_side = Split(split.ids, [text[:1] for text in split.texts], answers)
            if has_chats(split.texts):
                template = self._task.chat_template
                rows, share = encode_conversations(of_side, self._tokenizer, longest, template, last_alone=True)
            else:
                rows, share = encode_completions(of_side, self._tokenizer, longest)
            sides.append(rows)
            cut = max(cut, share)
        in_turn = chain.from_iterable(zip(*sides, strict=True))
        return [{**row, "example": place // 2, "windows": 2} for place, row in enumerate(in_turn)], cut

    @classmethod
    def check_tokenizer(cls, task: Task, tokenizer: PreTrainedTokenizerBase, data: TaskData) -> None:
        if any(has_chats(split.texts) for split in data.splits.values()):
            ChatFormat(tokenizer, task.chat_template)

    def weighed_at_start(self, model: nn.Module, rows: Sequence[Example]) -> list[Example]:
        return [{**row, AT_START: one} for row, one in zip(rows, self._weighed(model, rows), strict=True)]

    def loss_of(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = dict(batch)
        at_start, labels = inputs.pop(AT_START), inputs.pop("labels")
        gained = log_likelihoods(model(**inputs).logits, labels) - at_start
        assert self._task.beta is not None, "the kind fills it in"
        return preference_loss(gained, self._task.beta)

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        """Return for each pair the log-likelihoods of the chosen and the rejected answer, and then those at the start."""
        found = self._weighed(model, questions)
        before = [row[AT_START] for row in questions]
        return Replies([[*found[row : row + 2], *before[row : row + 2]] for row in range(0, len(found), 2)])

    def _weighed(self, model: nn.Module, rows: Sequence[Example]) -> list[float]:
        """Return the log-likelihood of the answer of each row, in nats, rounded."""
        recipe = self._spec.training
        at_once = max(1, recipe.batch_size // recipe.accumulation)  # no more than a step has in memory
        with quiet(), autocast(model, self._spec):
            found = likelihoods(model, rows, CompletionCollator(self._tokenizer), batch_rows=at_once)
        if not all(math.isfinite(one.nats) for one in found):
            raise Diverged("the trained model's outputs are not finite")
        return [round(-one.nats, 6) for one in found]


def log_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log probability of the labelled tokens of each row, shape (rows,).

    *logits* are those of the next token, shape (rows, tokens, vocabulary), and *labels* are `NO_LOSS` elsewhere, shape
    (rows, length); virtual tokens may stand in front.
    """
    predicted = labels[:, 1:]
    rows, places = (predicted != NO_LOSS).nonzero(as_tuple=True)
    # Over a large vocabulary, float32 is for the tokens of answers alone.
    chosen = logits[:, -labels.shape[1] : -1][rows, places].float()
    missed = F.cross_entropy(chosen, predicted[rows, places], reduction="none")
    return -missed.new_zeros(len(labels)).index_add(0, rows, missed)


def preference_loss(gained: Tensor, beta: float) -> Tensor:
    """Return the mean over pairs of -log sigmoid(beta * (chosen - rejected)), the loss of DPO.

    *gained* has the log-ratio of each row to the starting model, shape (2 * pairs,), a chosen answer before the rejected one.
    """
    chosen, rejected = gained.unflatten(0, (-1, 2)).unbind(1)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()
