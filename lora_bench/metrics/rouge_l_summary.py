"""ROUGE-L of summaries: the longest common subsequences of the sentences of a summary and of its reference.

Each sentence on a line of its own; of one line, the longest common subsequence of the whole. The F-score against the
reference that gives the greatest, averaged over inputs; words of letters and digits only, in lower case and stemmed, as
the rouge-score library counts them (its rougeLsum). `rouge_l` is another definition, with other numbers.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.texts import mean_rouge


def rouge_l_summary(predictions: list[str], references: list[list[str]]) -> float:
    """F-score of longest common subsequences, in [0, 1]."""
    return mean_rouge("rougeLsum", predictions, references)


METRIC = Metric(rouge_l_summary, kind="generation", library="rouge_score")
