"""Exact match of answers, as SQuAD's official scorer computes it, in [0, 1].

The share of questions whose answer is one of their references but for case, punctuation, articles and spaces. A question
without an answer has the reference "", which only the prediction "" meets.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.answers import best_of, same_words
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def squad_exact_match(references: Sequence[str], prediction: str) -> float:
    """Return 1 for a right answer to a question, else 0."""
    return best_of(same_words, references, prediction)


METRIC = Metric(kind="spans", margin=HALF_A_POINT, of_item=squad_exact_match)
