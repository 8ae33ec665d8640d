"""F1 of the words of answers, as SQuAD's official scorer computes it, in [0, 1].

The mean over questions of the best F1 among their references, of words without case, punctuation and articles. A question
without an answer has the reference "", and counts 1 for the prediction "", else 0.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.answers import best_of, shared_words
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def squad_f1(references: Sequence[str], prediction: str) -> float:
    """Return the F1 of the answer to a question, in [0, 1]."""
    return best_of(shared_words, references, prediction)


METRIC = Metric(kind="spans", margin=HALF_A_POINT, of_item=squad_f1)
