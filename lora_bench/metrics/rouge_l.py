"""ROUGE-L: F-score of the longest common subsequence, in [0, 1], as E2E's official scorer counts.

Joins the best precision and the best recall over an input's references, recall weighing 1.2 squared times as much; the mean
over inputs. Words of the Penn Treebank tokenizer, in lower case, without punctuation.
"""

from lora_bench.metrics.support.java import split_all
from lora_bench.metrics.support.metric_facts import Metric


def rouge_l(predictions: list[str], references: list[list[str]]) -> float:
    """Return the mean F-score of the longest common subsequence, in [0, 1]."""
    from pycocoevalcap.rouge.rouge import Rouge

    made, right = split_all(predictions, references)
    return float(Rouge().compute_score(right, made)[0])


METRIC = Metric(rouge_l, kind="generation", library="pycocoevalcap", java=True)
