"""Exact match of answers, as SQuAD's official scorer computes it, in [0, 1].

The share of questions whose answer is one of their references but for case, punctuation, articles and spaces. A question
without an answer has the reference "", which only the prediction "" meets.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.metrics.support.answers import best_of, same_words
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def squad_exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the share of right answers, in [0, 1]."""
    pairs = zip(references, predictions, strict=True)
    return sum(right_answer(right, given) for right, given in pairs) / len(predictions)


def right_answer(references: Sequence[str], prediction: str) -> float:
    """Return 1 for a right answer to a question, else 0."""
    return best_of(same_words, references, prediction)


METRIC = Metric(squad_exact_match, kind="spans", margin=HALF_A_POINT, of_item=right_answer)
