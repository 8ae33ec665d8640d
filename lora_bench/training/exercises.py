"""The exercises of each kind of task, and a model's replies to them.

An `Exercise` adapts a kind of task to a model: it encodes and batches examples, and turns outputs into answers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from transformers import DataCollatorWithPadding

from lora_bench.errors import Diverged, LoraBenchError
from lora_bench.models.loading import reads_apart
from lora_bench.records.budget import TARGETS
from lora_bench.records.spec import Decoding, PlannedSpec
from lora_bench.tasks import Split, Task, encode
from lora_bench.tasks.answer_spans import NOWHERE, encode_windows, tokens_of
from lora_bench.tasks.tagging import encode_words, labels_of_tokens, labels_of_words
from lora_bench.tasks.task_scores import Likelihood
from lora_bench.training.generation import CompletionCollator, PairCollator, encode_to_answer, encode_to_learn
from lora_bench.training.generation.chat import ChatFormat, Ending
from lora_bench.training.generation.encode import NO_LOSS
from lora_bench.training.predicting import Example, autocast, predict, quiet
from lora_bench.training.thresholds import USUAL, labels_above

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Replies:
    """A model's answers to questions.

    Args:
        answers: Answer to each question: a class index, a number, a text, the labels of its words, or a list of label indexes;
            none if no metric reads texts.
        logits: Of classification into one class or several labels, shape (questions, classes).
        likelihoods: Of the right text of each question, if a metric reads them.
    """

    answers: list[Any]
    logits: torch.Tensor | None = None
    likelihoods: Sequence[Likelihood] = ()


class Exercise(Protocol):
    """Adapts a kind of task to a model."""

    @property
    def collate(self) -> Callable[[list[Example]], Mapping[str, torch.Tensor]]:
        """Return the function that makes a batch of examples."""

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return the training examples of a split, unpadded, and the share that was truncated."""

    def questions(self, split: Split) -> tuple[list[Example], float]:
        """Return the examples of a split to answer, and the share that was truncated."""

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        """Return the model's answer to each question.

        Raises:
            Diverged: If the model's outputs are not finite.
        """


class Labelling:
    """Classification and regression: an answer is a class index, a number, or a list of label indexes."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec) -> None:
        self.collate = DataCollatorWithPadding(tokenizer)
        self._task, self._tokenizer, self._spec = task, tokenizer, spec

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return token ids with their label."""
        examples, truncated = encode(split, self._tokenizer, self._spec.training.max_length)
        labels: Sequence[Any] = split.labels
        if self._task.kind == "multilabel":
            # Tuples, as lists have a value a token.
            each = range(len(self._spec.task.labels))
            labels = [tuple(float(place in own) for place in each) for own in labels]
        return [{**example, "labels": label} for example, label in zip(examples, labels, strict=True)], truncated

    def questions(self, split: Split) -> tuple[list[Example], float]:
        """Return token ids."""
        return encode(split, self._tokenizer, self._spec.training.max_length)

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        """Return the likeliest class of each question, its number, or its labels that are likelier than not."""
        return self.answers_in(predict(model, questions, self.collate, self._spec, self.read), questions)

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
        if self._task.kind == "regression":
            return Replies([round(value, 6) for value in logits.squeeze(-1).tolist()])
        if self._task.kind == "multilabel":
            return Replies(labels_above(logits, USUAL), logits)
        return Replies(logits.argmax(-1).tolist(), logits)


class Tagging(Labelling):
    """Labels of words: an answer is the label of each word, that of its first token."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec) -> None:
        super().__init__(task, tokenizer, spec)
        self.collate = CompletionCollator(tokenizer)
        self._names = spec.task.labels

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return token ids with a label for the first token of each word.

        Raises:
            LoraBenchError: If no word of an example has a token, so that its loss would be undefined.
        """
        examples, truncated = self.questions(split)
        index = {name: number for number, name in enumerate(self._names)}
        found = []
        right: Sequence[Any] = split.labels
        for name, example, tags in zip(split.ids, examples, right, strict=True):
            labels = labels_of_tokens(example["begins"], [index[tag] for tag in tags], NO_LOSS)
            if set(labels) == {NO_LOSS}:
                raise LoraBenchError(f"the tokenizer makes no token of any word of training example {name}")
            found.append({key: example[key] for key in example if key not in ("begins", "words")} | {"labels": labels})
        return found, truncated

    def questions(self, split: Split) -> tuple[list[Example], float]:
        """Return token ids, and which of them begin a word."""
        return encode_words(split, self._tokenizer, self._spec.training.max_length)

    def read(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the likeliest label of each token, NaN where logits are not finite, filled up to `max_length` tokens."""
        likeliest = logits.argmax(-1).float().masked_fill(~logits.isfinite().all(-1), torch.nan)
        return nn.functional.pad(likeliest, (0, self._spec.training.max_length - likeliest.shape[-1]))

    def answers_in(self, logits: torch.Tensor, questions: Sequence[Example]) -> Replies:
        """Return the labels of the words of each question.

        Raises:
            Diverged: If the label of a token is NaN.
        """
        answers = []
        for row, question in zip(logits, questions, strict=True):
            of_tokens = row[: len(question["input_ids"])]
            if of_tokens.isnan().any():
                raise Diverged("the trained model's outputs are not finite")
            said = [self._names[int(number)] for number in of_tokens.tolist()]
            answers.append(labels_of_words(question["begins"], question["words"], said, self._names))
        return Replies(answers)


class WindowCollator(CompletionCollator):
    """Makes a batch of windows, with the first and the last token of their answers."""

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return tensors of shape (windows, longest), and (windows,) for the positions."""
        batch = super().__call__(examples)
        positions = [name for name in ("start_positions", "end_positions") if name in examples[0]]
        return batch | {name: torch.tensor([example[name] for example in examples]) for name in positions}


class Answering(Labelling):
    """Answers in a text: the likeliest first and last token of all windows of a question, and the characters they stand for.

    With unanswerable questions there is none if the sum of both logits is greatest at the first token of a window, which in
    SQuAD's code is called a null score with a threshold of 0; of several windows the least counts.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec) -> None:
        super().__init__(task, tokenizer, spec)
        self.collate = WindowCollator(tokenizer)

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
        """Return the windows of every example."""
        return encode_windows(split, self._tokenizer, self._spec.training.max_length)

    def read(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of first and last tokens side by side, filled up to `max_length` tokens."""
        more = self._spec.training.max_length - logits.shape[-2]
        return nn.functional.pad(logits, (0, 0, 0, more)).flatten(-2)

    def answers_in(self, logits: torch.Tensor, questions: Sequence[Example]) -> Replies:
        """Return first character of each question's answer and the one behind its last; nothing for no answer.

        Raises:
            Diverged: If a logit is not finite.
        """
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


def likeliest_span(logits: torch.Tensor, window: Example) -> tuple[float, list[int]]:
    """Return the sum of the logits of a window's likeliest answer, and its characters; nothing without a text.

    Args:
        logits: Of first and last tokens, shape (tokens, 2).
        window: The window.
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


# Place among the questions of what a text is right for; a prompt has none.
ITEM = "item"


class Writing:
    """Generation and chat: an answer is the text by which a causal model continues its input, or a decoder answers an encoder.

    Questions are prompts, if a metric reads texts, and then right texts, if one reads how likely these are.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec, seed: int) -> None:
        self.apart = reads_apart(spec.model.model_type)
        self.collate: Callable[[list[Example]], Mapping[str, torch.Tensor]] = (
            PairCollator(tokenizer) if self.apart else CompletionCollator(tokenizer)
        )
        self.weighs = task.weighs
        self._task, self._tokenizer, self._spec, self._seed = task, tokenizer, spec, seed

    def lessons(self, split: Split) -> tuple[list[Example], float]:
        """Return input and completion, with a loss on the completion."""
        return self._learned(split)

    def questions(self, split: Split) -> tuple[list[Example], float]:
        """Return the inputs to continue, and the texts to weigh."""
        prompts: list[Example] = []
        cut = 0.0
        longest = self._spec.training.max_length
        if self._spec.decoding is not None:
            new = self._spec.decoding.max_new_tokens
            prompts, cut = encode_to_answer(self._task, split, self._tokenizer, longest, new, apart=self.apart)
        if not self.weighs:
            return prompts, cut
        labels: list[Any] = list(split.labels)
        pairs = [(item, text) for item, texts in enumerate(labels) for text in texts]
        items = [item for item, _ in pairs]
        references: list[tuple[str, ...]] = [(text,) for _, text in pairs]
        each = Split([split.ids[item] for item in items], [split.texts[item] for item in items], references)
        right, cut_right = self._learned(each)

        def nothing(prompt: Example) -> Example:
            return {TARGETS: ()} if self.apart else {"labels": [NO_LOSS] * len(prompt["input_ids"])}

        unweighed = [{**prompt, **nothing(prompt), ITEM: -1} for prompt in prompts]
        weighed = [{**example, ITEM: item} for item, example in zip(items, right, strict=True)]
        return [*unweighed, *weighed], max(cut, cut_right)

    def _learned(self, split: Split) -> tuple[list[Example], float]:
        return encode_to_learn(self._task, split, self._tokenizer, self._spec.training.max_length, apart=self.apart)

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        """Return the text that the model writes for each input, and how likely the right ones are.

        Raises:
            Diverged: If a likelihood is not finite.
        """
        from lora_bench.training.generation.decode import complete

        prompts = [one for one in questions if one.get(ITEM, -1) < 0]
        texts: list[str] = []
        if prompts:
            with self._writing(model) as decoding:
                texts = complete(model, prompts, self._tokenizer, decoding, self._seed, ending=self._ending())
        return Replies(texts, likelihoods=self._weighed(model, questions[len(prompts) :]))

    def _weighed(self, model: nn.Module, right: Sequence[Example]) -> list[Likelihood]:
        """Return how likely the right texts of each item are."""
        from lora_bench.training.generation.likelihood import likelihoods

        if not right:
            return []
        recipe = self._spec.training
        rows = max(1, recipe.batch_size // (recipe.accumulation * recipe.processes))  # as many as a step has in memory
        with quiet(), autocast(model, self._spec):
            found = likelihoods(model, right, self.collate, batch_rows=rows)
        of_items: dict[int, Likelihood] = {}
        for row, one in zip(right, found, strict=True):
            if not math.isfinite(one.nats):
                raise Diverged("the trained model's outputs are not finite")
            before = of_items.get(row[ITEM], Likelihood(0.0, 0))
            of_items[row[ITEM]] = Likelihood(round(before.nats + one.nats, 6), before.tokens + one.tokens)
        return [of_items[item] for item in sorted(of_items)]

    def _ending(self) -> Ending | None:
        """Return the end of an answer; None for the tokenizer's own."""
        return ChatFormat(self._tokenizer, self._task.chat_template).ending if self._task.kind == "chat" else None

    def answers_of_each(
        self, model: Any, questions: Sequence[Example], seeds: Sequence[int], rows: int
    ) -> list[Replies]:
        """Return the texts of each of several models; see `lora_bench.training.generation.decode.complete_each`.

        It weighs no right text.

        Args:
            model: All of them as one model, whose rows have the weights of one or another.
            questions: Inputs to continue.
            seeds: Seed of each model.
            rows: Greatest number of rows in a batch.
        """
        from lora_bench.training.generation.decode import complete_each

        with self._writing(model) as decoding:
            each = complete_each(
                model, questions, self._tokenizer, decoding, seeds, batch_rows=rows, ending=self._ending()
            )
        return [Replies(list(texts)) for texts in each]

    @contextlib.contextmanager
    def _writing(self, model: nn.Module) -> Iterator[Decoding]:
        """Prepare the model for writing in this block; yield the decoding."""
        assert self._spec.decoding is not None
        with quiet(), torch.no_grad(), autocast(model, self._spec):
            yield self._spec.decoding


def exercise(task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec, seed: int) -> Exercise:
    """Return the exercise of a kind of task."""
    if task.kind == "spans":
        return Answering(task, tokenizer, spec)
    if task.kind == "tokens":
        return Tagging(task, tokenizer, spec)
    return Writing(task, tokenizer, spec, seed) if task.writes else Labelling(task, tokenizer, spec)
