"""chrF: how many runs of one to six characters prediction and reference share, recall counting twice as much.

sacrebleu's chrF2 with its defaults (case counts, white space does not), as a fraction and not in percent. Of the references
of an input the one with the greatest score counts, and of equals the first.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.texts import columns


def chrf(predictions: list[str], references: list[list[str]]) -> float:
    """F-score of runs of characters, in [0, 1]."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().corpus_score(predictions, columns(references)).score) / 100


METRIC = Metric(chrf, kind="generation", library="sacrebleu")
