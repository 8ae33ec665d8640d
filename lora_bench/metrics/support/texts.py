"""What metrics of texts share: the form that a library wants its references in, and its scorer."""

from __future__ import annotations

import math


def columns(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: the first of every prediction, the second, and so on; None where one is missing."""
    most = max(map(len, references))
    return [[each[index] if index < len(each) else None for each in references] for index in range(most)]


def mean_rouge(kind: str, predictions: list[str], references: list[list[str]]) -> float:
    """The mean F-score of one of rouge-score's kinds, each prediction against the reference that gives the greatest."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, references, strict=True)
    return math.fsum(scorer.score_multi(each, text)[kind].fmeasure for text, each in pairs) / len(predictions)
