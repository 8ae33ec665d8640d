"""Shared parts of text metrics: references in sacrebleu's layout, and rouge-score's mean."""

from __future__ import annotations

import math


def columns(references: list[list[str]]) -> list[list[str | None]]:
    """Return references in sacrebleu's layout: the first of every prediction, the second, and so on; None for a missing one."""
    most = max(map(len, references))
    return [[each[index] if index < len(each) else None for each in references] for index in range(most)]


def mean_rouge(kind: str, predictions: list[str], references: list[list[str]]) -> float:
    """Return the mean F-score of one of rouge-score's kinds, each prediction against its best reference."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, references, strict=True)
    return math.fsum(scorer.score_multi(each, text)[kind].fmeasure for text, each in pairs) / len(predictions)
