"""Accuracy over words: the share of all words of all sentences with the right label, in [0, 1].

Words outside of entities count too, so prefer `seqeval_f1` for named entities. Undefined without words.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def token_accuracy(reference: Sequence[str], prediction: Sequence[str]) -> tuple[float, float]:
    """Return the number of words of a sentence with the right label, and of all its words."""
    return sum(right == given for right, given in zip(reference, prediction, strict=True)), len(reference)


METRIC = Metric(kind="tokens", margin=HALF_A_POINT, item_parts=token_accuracy)
