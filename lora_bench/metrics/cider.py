"""CIDEr: how much of what sets an input's references apart from those of other inputs the prediction has.

Runs of one to four words weigh by how few inputs have them in a reference (CIDEr-D, as in E2E's official scorer, times
10). Undefined with fewer than two inputs, since nothing then sets one apart, and where no reference has a word. Words are
those of the Penn Treebank tokenizer (Java), in lower case, without signs.
"""

from __future__ import annotations

from lora_bench.metrics.support.declaration import Metric
from lora_bench.metrics.support.java import split_all


def cider(predictions: list[str], references: list[list[str]]) -> float | None:
    """Mean similarity of weighted runs of words, in [0, 10]."""
    from pycocoevalcap.cider.cider import Cider

    made, right = split_all(predictions, references)
    if len(predictions) < 2 or not any(text for each in right.values() for text in each):
        return None
    return float(Cider().compute_score(right, made)[0])


METRIC = Metric(cider, kind="generation", points=False, library="pycocoevalcap", java=True)
