"""METEOR 1.5: F-score of words matched by form, stem, synonym or paraphrase, lower for breaks in their order, in [0, 1].

English weights with `-norm`, over all predictions together, by pycocoevalcap's jar; Java needs about 2 GB of memory, and ten
seconds to read paraphrases. E2E's official scorer has the same jar, byte for byte, and the same words: those of the Penn
Treebank tokenizer. LoRA's WebNLG and DART tables have nltk's words: numbers are near theirs, not equal.
"""

from lora_bench.metrics.support import java
from lora_bench.metrics.support.metric_facts import Metric


def meteor(predictions: list[str], references: list[list[str]]) -> float:
    """Return METEOR of all predictions together, in [0, 1]."""
    made, right = java.split_all(predictions, references)
    return java.meteor([text for (text,) in made.values()], list(right.values()))


METRIC = Metric(meteor, kind="generation", library="pycocoevalcap", java=True)
