"""ROUGE-L of summaries: like `rouge_1`, on longest common subsequences of sentences.

Each line is a sentence (rouge-score's rougeLsum). `rouge_l` differs.
"""

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import mean_rouge


def rouge_l_summary(predictions: list[str], references: list[list[str]]) -> float:
    """Return the mean F-score of the longest common subsequences of sentences, in [0, 1]."""
    return mean_rouge("rougeLsum", predictions, references)


METRIC = Metric(rouge_l_summary, kind="generation", library="rouge_score")
