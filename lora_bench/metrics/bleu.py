"""BLEU: precision of 1- to 4-grams with a penalty for short predictions, in [0, 1], as E2E's official scorer counts.

Words of mteval-v13a, which puts A to Z in lower case and no other letter, counted over all predictions together without
smoothing: 0 if no 4-gram is right. On texts without other capitals sacrebleu's `-lc -tok 13a -s none`.
"""

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import columns, mteval_words


def bleu(predictions: list[str], references: list[list[str]]) -> float:
    """Return BLEU of all predictions together, in [0, 1]."""
    from sacrebleu.metrics import BLEU

    words = mteval_words()
    split = [" ".join(words(text)) for text in predictions]
    against = [[" ".join(words(text)) for text in each] for each in references]
    scorer = BLEU(tokenize="none", smooth_method="none", force=True)
    return float(scorer.corpus_score(split, columns(against)).score) / 100


METRIC = Metric(bleu, kind="generation", library="sacrebleu")
