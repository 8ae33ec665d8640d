"""chrF: how many runs of one to six characters prediction and reference share, recall counting twice as much.

sacrebleu's chrF2 with its defaults (case counts, white space does not), as a fraction and not in percent. Of the references
of an input the one with the greatest score counts, and of equals the first.
"""

from __future__ import annotations

from lora_bench.metrics.base import TextMetric, columns


class Chrf(TextMetric):
    """F-score of runs of characters, in [0, 1]."""

    key = "chrf"

    def value(self, predictions: list[str], references: list[list[str]]) -> float:
        """chrF2 of all predictions together."""
        from sacrebleu.metrics import CHRF

        return float(CHRF().corpus_score(predictions, columns(references)).score) / 100
