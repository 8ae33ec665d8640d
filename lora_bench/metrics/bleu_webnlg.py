r"""BLEU as computed for WebNLG and DART in LoRA's tables, in [0, 1].

Lower-cased texts are split at every character but letters, digits and underscores (`re.split(r"(\W)", text)`), then counted as
by Moses' multi-bleu-detok.perl: words of mteval-v13a, no smoothing, the first six references (`--ref_num 6`). Differs from
`bleu` where letters meet punctuation: "don't" is three words here and one there.
"""

import re

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import columns

COUNTED_REFERENCES = 6

SIGN = re.compile(r"(\W)")


def bleu_webnlg(predictions: list[str], references: list[list[str]]) -> float:
    """Return BLEU of all predictions together, in [0, 1]."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize="13a", smooth_method="none", force=True)
    split = [[split_at_signs(text) for text in each[:COUNTED_REFERENCES]] for each in references]
    return float(scorer.corpus_score([split_at_signs(text) for text in predictions], columns(split)).score) / 100


def split_at_signs(text: str) -> str:
    """Return a text in lower case with one space around every sign.

    >>> split_at_signs("A_b's  cost: 3.5")
    "a_b ' s cost : 3 . 5"
    """
    return " ".join(" ".join(SIGN.split(text.lower())).split())


METRIC = Metric(bleu_webnlg, kind="generation", library="sacrebleu")
