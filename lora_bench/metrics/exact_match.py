"""Exact match: the share of predictions that are one of their references, character by character.

White space at both ends does not count; everything else does, case too.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import HALF_A_POINT, Metric


def exact_match(predictions: list[str], references: list[list[str]]) -> float:
    """The share of predictions equal to a reference, in [0, 1]."""
    pairs = zip(predictions, references, strict=True)
    return sum(text.strip() in {each.strip() for each in right} for text, right in pairs) / len(predictions)


METRIC = Metric(exact_match, kind="generation", margin=HALF_A_POINT)
