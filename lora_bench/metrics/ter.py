"""TER: how many edits make a prediction into the nearest of its references, a word of the reference.

An edit inserts, deletes or replaces a word, or moves a run of words. sacrebleu's TER with its defaults (in lower case,
words between white space), as a number of edits a word and not in percent. Lower is better; it can exceed 1.
The script behind LoRA's tables takes pyter's, on nltk's words and as a mean over inputs, which is another number.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.texts import columns


def ter(predictions: list[str], references: list[list[str]]) -> float:
    """Edits a word of the reference, at least 0; lower is better."""
    from sacrebleu.metrics import TER

    return float(TER().corpus_score(predictions, columns(references)).score) / 100


METRIC = Metric(ter, kind="generation", higher_is_better=False, library="sacrebleu")
