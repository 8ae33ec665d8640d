"""ROUGE-1: F-score of single words of a summary and its best reference, averaged over inputs, in [0, 1].

Words are letters and digits only, in lower case and stemmed, as in rouge-score.
"""

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import mean_rouge


def rouge_1(predictions: list[str], references: list[list[str]]) -> float:
    """Return the mean F-score of single words, in [0, 1]."""
    return mean_rouge("rouge1", predictions, references)


METRIC = Metric(rouge_1, kind="generation", library="rouge_score")
