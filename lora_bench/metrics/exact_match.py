"""Exact match: the share of predictions equal to one of their references, in [0, 1].

White space at both ends is ignored; case counts.
"""

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def exact_match(predictions: list[str], references: list[list[str]]) -> float:
    """Return the share of predictions equal to one of their references, in [0, 1]."""
    pairs = zip(predictions, references, strict=True)
    return sum(text.strip() in {each.strip() for each in right} for text, right in pairs) / len(predictions)


METRIC = Metric(exact_match, kind="generation", margin=HALF_A_POINT)
