"""The interface of exercises: an exercise adapts a kind of task to a model, and turns its outputs into answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.support.row_values import Encoded, Texts
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.records.spec import PlannedSpec
from lora_bench.tasks import Split, Task, TaskData
from lora_bench.tasks.task_scores import Likelihood, encode

Loss = Callable[[Tensor, Tensor], Tensor]
"""Computes a member's loss from its logits and labels; rows or tokens labelled -100 (or NaN) do not count."""

# Tokens of an example that is not cut.
UNCUT = 10**9


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


@dataclass(frozen=True)
class Pack:
    """Models that answer together, with the seed of each; *first* is one of them.

    *logits* computes those of all on a batch of so many *rows*, shape (members, rows, ...). *writer* makes them one model that
    writes, whose rows have the weights of one or another, and are at most *written_rows*.
    """

    first: nn.Module
    logits: Callable[[Mapping[str, Tensor]], Tensor]
    rows: int
    writer: Callable[[], Any]
    written_rows: Callable[[], int]
    seeds: Sequence[int]


def unlabelled(texts: Texts, label: tuple[str, ...] = ()) -> Split:
    """Return texts as a split whose labels say nothing."""
    return Split([str(number) for number in range(1, len(texts) + 1)], texts, [label] * len(texts))


class Exercise:
    """Adapts a kind of task to a model.

    Args:
        collator: Class of the object that makes batches, given a tokenizer.
        predicts_next: True if a label of a token is that of the token before it, as of a text to write.
        weighs_classes: True if replies have the logits of classes.
    """

    collator: ClassVar[type[Any]]
    predicts_next: ClassVar[bool] = True
    weighs_classes: ClassVar[bool] = False

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec, seed: int) -> None:
        self._task, self._tokenizer, self._spec, self._seed = task, tokenizer, spec, seed
        self.collate: Callable[[list[Example]], Mapping[str, Tensor]] = self.collator(tokenizer)

    def lessons(self, split: Split) -> Encoded:
        """Return the training examples of a split."""
        raise NotImplementedError

    def questions(self, split: Split) -> Encoded:
        """Return the examples of a split to answer."""
        raise NotImplementedError

    def to_answer(self, texts: Texts) -> list[Example]:
        """Return texts as examples to answer, without knowing what is right."""
        return self.questions(unlabelled(texts))[0]

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        """Return the model's answer to each question. Raise Diverged if the model's outputs are not finite."""
        raise NotImplementedError

    def answers_of_each(self, pack: Pack, questions: Sequence[Example]) -> Sequence[Replies | None]:
        """Return the answers of each member of a pack; None for one whose outputs are not finite. It weighs no right text."""
        raise NotImplementedError

    def units(self, lessons: Sequence[Example]) -> Sequence[Any]:
        """Return the training examples as a budget counts them: each a row that a model reads, or the list of its rows."""
        return lessons

    def whole(self, split: Split, *, train: bool) -> list[Example]:
        """Return examples before any is cut, for counts of their tokens."""
        return encode(split, self._tokenizer, UNCUT)[0]

    def weighed_at_start(self, model: nn.Module, rows: Sequence[Example]) -> Sequence[Example]:
        """Return rows with what the starting model gives them, for a kind whose own loss compares with it."""
        raise NotImplementedError

    def loss_of(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch, for a kind with a loss of its own."""
        raise NotImplementedError

    @classmethod
    def check_tokenizer(cls, task: Task, tokenizer: PreTrainedTokenizerBase, data: TaskData) -> None:
        """Refuse a tokenizer that cannot make examples of a task. Raise LoraBenchError with what it lacks."""

    @staticmethod
    def loss(label_smoothing: float = 0.0) -> Loss:
        """Return the loss of a member of a pack, equal to that of a run by itself; see `cross_entropy`."""
        return cross_entropy(label_smoothing)

    @staticmethod
    def random_labels(input_ids: Tensor, shape: Shape, labels: int, drawn: torch.Generator) -> Tensor:
        """Return labels of a random batch, of the given shape, to measure a step."""
        return torch.randint(labels, shape, generator=drawn)

    @staticmethod
    def decided(task: Task, data: TaskData, answers: Mapping[str, Replies]) -> tuple[dict[str, Replies], float | None]:
        """Return the answers to each split at a threshold chosen from them, and the threshold; as given and None without."""
        return dict(answers), None

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        """Return the probability of each class, shape (questions, classes)."""
        return logits.softmax(-1)


def check_tells_characters(tokenizer: PreTrainedTokenizerBase, without: str) -> None:
    """Raise LoraBenchError for a tokenizer that does not tell the characters of its tokens, so that *without* is the case."""
    if not tokenizer.is_fast:
        raise LoraBenchError(
            f"the tokenizer ({type(tokenizer).__name__}) does not tell which characters a token stands for, so {without}: "
            "take a base model with a tokenizer.json"
        )


class QuestionWindows(Sequence[list[dict[str, Any]]]):
    """The windows of each question as a list, made of those of all questions, one question's after the other."""

    def __init__(self, windows: Sequence[dict[str, Any]]) -> None:
        self._windows = windows
        self._begins = [0]
        while self._begins[-1] < len(windows):
            self._begins.append(self._begins[-1] + windows[self._begins[-1]]["windows"])

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return [self._windows[place] for place in range(self._begins[index], self._begins[index + 1])]


def cross_entropy(label_smoothing: float = 0.0, *, shifted: bool = False, weights: Tensor | None = None) -> Loss:
    """Return the mean cross entropy over rows or tokens that count, whose label is the next token if *shifted*.

    *label_smoothing* is the share of the target's probability that is spread over all labels; *weights* has a factor for each
    label.
    """

    def mean(logits: Tensor, labels: Tensor) -> Tensor:
        if shifted:
            # As in transformers: the loss of a language model is in float32, whatever the precision of the weights.
            logits, labels = logits[..., :-1, :].float(), labels[..., 1:]
        counts = labels >= 0
        logs = _whole(logits).log_softmax(-1)
        missed = -logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        if label_smoothing:
            missed = (1 - label_smoothing) * missed - label_smoothing * logs.mean(-1)
        if weights is not None:
            missed = missed * weights[labels.clamp(min=0)]
        return (missed * counts).sum() / counts.sum()

    return mean


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared error over rows whose label is a number."""
    counts = ~labels.isnan()
    return ((_whole(logits).squeeze(-1) - labels.nan_to_num()) ** 2 * counts).sum() / counts.sum()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy over labels that are numbers."""
    counts = ~labels.isnan()
    missed = binary_cross_entropy_with_logits(_whole(logits), labels.nan_to_num(), reduction="none")
    return (missed * counts).sum() / counts.sum()


def _whole(logits: Tensor) -> Tensor:
    """Return logits in at least float32, in which autocast computes every loss."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
