"""METEOR 1.5: words matched by form, stem, synonym or paraphrase, less for every break in their order.

The English weights with `-norm`, counted over all predictions together, through the jar that pycocoevalcap ships (Java,
which needs some 2 GB of memory and ten seconds to read its paraphrases). Its texts are split by the Penn Treebank
tokenizer first, as E2E's official scorer does. That scorer's own jar is another build, and the script behind LoRA's
tables of WebNLG and DART splits by nltk: numbers near theirs, not theirs.
"""

from __future__ import annotations

from lora_bench.metrics.base import TextMetric
from lora_bench.metrics.java import meteor, split_all


class Meteor(TextMetric):
    """F-score of matched words, in [0, 1]."""

    key = "meteor"

    def value(self, predictions: list[str], references: list[list[str]]) -> float:
        """METEOR of all predictions together."""
        made, right = split_all(predictions, references)
        return meteor([text for (text,) in made.values()], list(right.values()))
