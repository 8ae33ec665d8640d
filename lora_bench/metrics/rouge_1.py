"""ROUGE-1: the single words that a summary shares with its reference.

The F-score against the reference that gives the greatest, averaged over inputs; words of letters and digits only, in
lower case and stemmed, as the rouge-score library counts them.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.texts import mean_rouge


def rouge_1(predictions: list[str], references: list[list[str]]) -> float:
    """F-score of single words, in [0, 1]."""
    return mean_rouge("rouge1", predictions, references)


METRIC = Metric(rouge_1, kind="generation", library="rouge_score")
