"""BLEU: how many of the prediction's runs of one to four words the references have, as E2E's official scorer counts them.

The words are those of mteval-v13a, in lower case, counted over all predictions together, and nothing is smoothed: 0
where not one run of four words is right. sacrebleu's `-lc -tok 13a -s none`, as a fraction and not in percent.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.texts import columns


def bleu(predictions: list[str], references: list[list[str]]) -> float:
    """Precision of runs of one to four words, less where predictions are short; in [0, 1]."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize="13a", lowercase=True, smooth_method="none", force=True)
    return float(scorer.corpus_score(predictions, columns(references)).score) / 100


METRIC = Metric(bleu, kind="generation", library="sacrebleu")
