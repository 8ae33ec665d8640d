"""chrF: F-score of character 1- to 6-grams, with recall counted twice, in [0, 1].

sacrebleu's chrF2 with its defaults (case counts, white space does not). The best reference of an input counts; of equals, the
first.
"""

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import columns


def chrf(predictions: list[str], references: list[list[str]]) -> float:
    """Return chrF2 of all predictions together, in [0, 1]."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().corpus_score(predictions, columns(references)).score) / 100


METRIC = Metric(chrf, kind="generation", library="sacrebleu")
