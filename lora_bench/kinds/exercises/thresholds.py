"""The threshold of several labels a text: a label is answered if its probability is above it.

One threshold serves all labels: a selection split of some hundred examples has too few of a rare label to choose its own. It
is the hundredth with the best value of the task's metric on the selection split; of equal ones the nearest to a half. Without
a selection split it is a half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from lora_bench.metrics import find
from lora_bench.metrics.support.label_arrays import label_arrays
from lora_bench.tasks import Task, TaskData

if TYPE_CHECKING:
    from torch import Tensor

    from lora_bench.kinds.exercises.base_exercise import Replies

USUAL = 0.5
TRIED = tuple(number / 100 for number in range(1, 100))
CHOSEN_ON = "selection"


def labels_above(logits: Tensor, threshold: float) -> list[list[int]]:
    """Return the labels of each row of logits, shape (rows, labels), with a probability above a threshold."""
    return [np.flatnonzero(row).tolist() for row in _probabilities(logits) > threshold]


def decided(task: Task, data: TaskData, answers: Mapping[str, Replies]) -> tuple[dict[str, Replies], float]:
    """Return the answers to each split at the threshold that those to the selection split choose, if any, and the threshold."""
    threshold = USUAL
    if CHOSEN_ON in answers:
        logits, references = answers[CHOSEN_ON].logits, cast("Sequence[Sequence[int]]", data.splits[CHOSEN_ON].labels)
        assert logits is not None
        threshold = best_threshold(task.metric, references, logits)
    found = {}
    for name, given in answers.items():
        assert given.logits is not None
        found[name] = replace(given, answers=labels_above(given.logits, threshold))
    return found, threshold


def best_threshold(metric: str, references: Sequence[Sequence[int]], logits: Tensor) -> float:
    """Return the threshold with the best value of a metric of several labels; micro F1 takes the place of one from the hub.

    *references* are the label indexes of each example, and *logits* have the shape (examples, labels).
    """
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
