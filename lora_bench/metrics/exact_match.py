"""Exact match: the share of predictions that are one of their references, character by character.

White space at both ends does not count; everything else does, case too.
"""

from __future__ import annotations

from lora_bench.metrics.base import TextMetric


class ExactMatch(TextMetric):
    """The share of predictions equal to a reference, in [0, 1]."""

    key = "exact_match"

    def value(self, predictions: list[str], references: list[list[str]]) -> float:
        """The share of predictions that equal one of their references."""
        pairs = zip(predictions, references, strict=True)
        return sum(text.strip() in {each.strip() for each in right} for text, right in pairs) / len(predictions)
