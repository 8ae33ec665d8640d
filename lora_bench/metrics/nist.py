"""NIST: information-weighted precision of 1- to 5-grams, from 0 without limit, as mteval-v13a and E2E's official scorer count.

Short predictions get a penalty; `lora_bench/metrics/nist.py` has the formula. Words of `bleu`. The scorer's Python port
averages reference lengths by input, and subtracts n - 1 n-grams even from shorter predictions: with a varying number of
references, numbers differ in the second digit. Doddington 2002, https://dl.acm.org/doi/10.5555/1289189.1289273
"""

import math
from collections import Counter
from functools import reduce
from operator import or_

from lora_bench.metrics.support.metric_facts import Metric
from lora_bench.metrics.support.texts import mteval_words

LONGEST = 5

PENALTY = math.log(2) / math.log(3 / 2) ** 2

Words = tuple[str, ...]


def nist(predictions: list[str], references: list[list[str]]) -> float | None:
    """Return NIST of all predictions together, from 0 without limit; None if no reference has a word."""
    words = mteval_words()
    return nist_of_words(
        [tuple(words(text)) for text in predictions], [[tuple(words(text)) for text in each] for each in references]
    )


def nist_of_words(predictions: list[Words], references: list[list[Words]]) -> float | None:
    """Return NIST of predictions and their references, all split into words; None if no reference has a word.

    The information of w1..wn is log2(count of w1..wn-1 / count of w1..wn) over all references. That of one word is log2(number
    of words / count of the word). For each n, the information of predicted n-grams that a reference has is summed, and divided
    by the number of predicted n-grams. Each counts at most as often as in the reference that has it most. The sum over n is
    multiplied by `length_penalty` of r = predicted words / (reference words / mean number of references).
    """
    reference_words = sum(len(words) for each in references for words in each)
    if not reference_words:
        return None
    seen: Counter[Words] = Counter({(): reference_words})  # what comes before a single word
    most: list[Counter[Words]] = []  # for each input, a run's greatest count in one reference
    for each in references:
        counts = [runs(words) for words in each]
        for count in counts:
            seen.update(count)
        most.append(reduce(or_, counts))
    right = [0.0] * LONGEST
    made = [0] * LONGEST
    for words, allowed in zip(predictions, most, strict=True):
        for run, times in runs(words).items():
            made[len(run) - 1] += times
            if run in allowed:
                right[len(run) - 1] += min(times, allowed[run]) * math.log2(seen[run[:-1]] / seen[run])
    # Only references that have words count: files with as many references for every input hold empty ones.
    filled = sum(bool(words) for each in references for words in each)
    length_ratio = sum(map(len, predictions)) / (reference_words / (filled / len(references)))
    means = (information / max(total, 1) for information, total in zip(right, made, strict=True))
    return length_penalty(length_ratio) * math.fsum(means)


def runs(words: Words) -> Counter[Words]:
    """Return the count of each 1- to 5-gram in a text."""
    return Counter(
        words[start : start + length] for length in range(1, LONGEST + 1) for start in range(len(words) - length + 1)
    )


def length_penalty(ratio: float) -> float:
    """Return the factor exp(-b log(ratio)^2) for predictions of *ratio* times the references' length.

    It is 1 from a ratio of 1 on, 1/2 at 2/3, and 0 at 0.
    """
    if ratio >= 1:
        return 1.0
    return math.exp(-PENALTY * math.log(ratio) ** 2) if ratio > 0 else 0.0


METRIC = Metric(nist, kind="generation", points=False, library="sacrebleu")
