"""METEOR 1.5: words matched by form, stem, synonym or paraphrase, less for every break in their order.

The English weights with `-norm`, counted over all predictions together, through the jar that pycocoevalcap ships (Java,
which needs some 2 GB of memory and ten seconds to read its paraphrases). Its texts are split by the Penn Treebank
tokenizer first, as E2E's official scorer does. That scorer's own jar is another build, and the script behind LoRA's
tables of WebNLG and DART splits by nltk: numbers near theirs, not theirs.
"""

from __future__ import annotations

from lora_bench.metrics.support import java
from lora_bench.metrics.support.declaration import Metric


def meteor(predictions: list[str], references: list[list[str]]) -> float:
    """F-score of matched words, in [0, 1]."""
    made, right = java.split_all(predictions, references)
    return java.meteor([text for (text,) in made.values()], list(right.values()))


METRIC = Metric(meteor, kind="generation", library="pycocoevalcap", java=True)
