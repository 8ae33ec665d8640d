"""Shared parts of text metrics: mteval's words, references in sacrebleu's layout, and rouge-score's mean."""

import math
import string
from collections.abc import Callable

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def mteval_words() -> Callable[[str], list[str]]:
    """Return the function that splits a text into words as mteval-v13a does.

    Its Perl puts A to Z in lower case and no other letter, so that É and é differ.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    return lambda text: str(tokenize(text)).translate(_LOWER).split()


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
