"""ROUGE-2: like `rouge_1`, on pairs of neighbouring words."""

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import mean_rouge


def rouge_2(predictions: list[str], references: list[list[str]]) -> float:
    """Return the mean F-score of pairs of neighbouring words, in [0, 1]."""
    return mean_rouge("rouge2", predictions, references)


METRIC = Metric(rouge_2, kind="generation", library="rouge_score")
