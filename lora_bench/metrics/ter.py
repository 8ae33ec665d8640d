"""TER: edits from a prediction to its nearest reference, per word of the reference; at least 0, lower is better.

An edit inserts, deletes or replaces a word, or moves a run of words; values can exceed 1. sacrebleu's defaults: lower case,
words between white space. LoRA's tables average pyter on nltk's words over inputs: another number.
"""

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import columns


def ter(predictions: list[str], references: list[list[str]]) -> float:
    """Return edits per word of the references, over all predictions, at least 0; lower is better."""
    from sacrebleu.metrics import TER

    return float(TER().corpus_score(predictions, columns(references)).score) / 100


METRIC = Metric(ter, kind="generation", higher_is_better=False, library="sacrebleu")
