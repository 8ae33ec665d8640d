"""ROUGE-L: the longest common subsequence of prediction and reference, as E2E's official scorer takes it.

Of the references of an input, the best precision and the best recall are taken apart from each other, and joined in an
F-score that weighs recall 1.2 squared times as much; the mean over inputs. Words are those of the Penn Treebank
tokenizer (Java), in lower case, without signs. `rouge_l_summary` is another definition, with other numbers.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.java import split_all


def rouge_l(predictions: list[str], references: list[list[str]]) -> float:
    """F-score of the longest common subsequence, in [0, 1]."""
    from pycocoevalcap.rouge.rouge import Rouge

    made, right = split_all(predictions, references)
    return float(Rouge().compute_score(right, made)[0])


METRIC = Metric(rouge_l, kind="generation", library="pycocoevalcap", java=True)
