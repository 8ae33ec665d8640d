"""ROUGE-2: the pairs of neighbouring words that a summary shares with its reference.

The F-score against the reference that gives the greatest, averaged over inputs; words of letters and digits only, in
lower case and stemmed, as the rouge-score library counts them.
"""

from __future__ import annotations

from lora_bench.metrics.base import TextMetric, mean_rouge


class Rouge2(TextMetric):
    """F-score of pairs of neighbouring words, in [0, 1]."""

    key = "rouge_2"

    def value(self, predictions: list[str], references: list[list[str]]) -> float:
        """The mean over predictions."""
        return mean_rouge("rouge2", predictions, references)
