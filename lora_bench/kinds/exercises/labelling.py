"""Labels of a text: an answer is the index of the likeliest class, a number, or the indexes of several labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding

from lora_bench.errors import Diverged
from lora_bench.kinds.exercises.base_exercise import Exercise, Loss, Pack, Replies, binary_cross_entropy, squared_error
from lora_bench.kinds.exercises.predicting import Example, autocast, predict, predict_in_order
from lora_bench.kinds.support.row_values import Encoded
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.metrics import find
from lora_bench.metrics.support.label_arrays import label_arrays
from lora_bench.tasks import Split, Task, TaskData, encode

# Thresholds: without a selection split, and those tried on it.
USUAL, TRIED = 0.5, tuple(number / 100 for number in range(1, 100))
CHOSEN_ON = "selection"


class Labelling(Exercise):
    """Gives each text a label. Other exercises with one output of a model derive from it."""

    collator = DataCollatorWithPadding
    weighs_classes = True

    def lessons(self, split: Split) -> Encoded:
        examples, truncated = self.questions(split)
        return [{**example, "labels": label} for example, label in zip(examples, split.labels, strict=True)], truncated

    def questions(self, split: Split) -> Encoded:
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
        """Return the answers from what was read, of shape (examples, values). Raise Diverged if they are not finite."""
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
    """Marks each text with the labels that are likelier than a threshold.

    One threshold serves all labels: a selection split of some hundred examples has too few of a rare label to choose its own.
    It is the hundredth with the best value of the task's metric on the selection split; of equal ones the nearest to a half.
    Without a selection split it is a half.
    """

    def lessons(self, split: Split) -> Encoded:
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
        """Return the answers to each split at the threshold that those to the selection split choose, and the threshold."""
        threshold = USUAL
        if CHOSEN_ON in answers:
            logits = answers[CHOSEN_ON].logits
            references: Any = data.splits[CHOSEN_ON].labels
            assert logits is not None
            threshold = best_threshold(task.metric, references, logits)
        found = {}
        for name, given in answers.items():
            assert given.logits is not None
            found[name] = replace(given, answers=labels_above(given.logits, threshold))
        return found, threshold

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid()


def labels_above(logits: Tensor, threshold: float) -> list[list[int]]:
    """Return the labels of each row of logits, shape (rows, labels), with a probability above a threshold."""
    return [np.flatnonzero(row).tolist() for row in _probabilities(logits) > threshold]


def best_threshold(metric: str, references: Sequence[Sequence[int]], logits: Tensor) -> float:
    """Return the best threshold by a metric of several labels, micro F1 for one of the hub; *logits* are (examples, labels)."""
    declared = find(metric) or find("multilabel_micro_f1")
    assert declared is not None and declared.weighted is not None
    probabilities, everything = _probabilities(logits), np.ones((1, len(references)))
    right, _ = label_arrays(references, [], probabilities.shape[1])
    scores = {}
    for threshold in TRIED:
        given = (probabilities > threshold).astype(np.float64)[None]
        score = float(declared.weighted(references=right, predictions=given)(everything)[0, 0])
        scores[threshold] = -1.0 if np.isnan(score) else score
    return max(TRIED, key=lambda threshold: (scores[threshold], -abs(threshold - USUAL)))


def _probabilities(logits: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = logits.double().sigmoid().numpy()
    return found
