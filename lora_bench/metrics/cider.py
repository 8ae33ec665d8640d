"""CIDEr: mean similarity to the references by weighted 1- to 4-grams, in [0, 10].

An n-gram weighs more if fewer inputs have it in a reference (CIDEr-D times 10, as in E2E's official scorer). Undefined with
fewer than two inputs, or without a word in any reference. Words of `rouge_l`.
"""

from lora_bench.metrics.support.java import split_all
from lora_bench.metrics.support.metric_facts import Metric


def cider(predictions: list[str], references: list[list[str]]) -> float | None:
    """Return the mean similarity of weighted n-grams, in [0, 10]; None if it is undefined."""
    from pycocoevalcap.cider.cider import Cider

    made, right = split_all(predictions, references)
    if len(predictions) < 2 or not any(text for each in right.values() for text in each):
        return None
    return float(Cider().compute_score(right, made)[0])


METRIC = Metric(cider, kind="generation", points=False, library="pycocoevalcap", java=True)
