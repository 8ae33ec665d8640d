"""Shared parts of the metrics of answers, by the rules of SQuAD's official scorer, version 2.0.

A question without an answer has the reference "". References without a word, such as "the", count only where there is no other.
For answers with a word in them these are the rules of version 1.1 too.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal_answer(text: str) -> str:
    """Return a text in lower case without punctuation, articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def best_of(score: Callable[[list[str], list[str]], float], references: Sequence[str], prediction: str) -> float:
    """Return the best score of a prediction among its references, from the words of both."""
    right = [words for text in references if (words := normal_answer(text).split())]
    given = normal_answer(prediction).split()
    return max(score(words, given) for words in right or [[]])


def same_words(right: list[str], given: list[str]) -> float:
    """Return 1 if the words are equal, else 0."""
    return float(right == given)


def shared_words(right: list[str], given: list[str]) -> float:
    """Return F1 of the words; of two answers without words it is 1."""
    if not right or not given:
        return same_words(right, given)
    both = sum((Counter(right) & Counter(given)).values())
    return 2 * both / (len(right) + len(given))
