"""Metrics of answers, by hand and by the rules of SQuAD's official scorer."""

import collections
import random
import re
import string

import pytest

from lora_bench.metrics import metric
from lora_bench.metrics.support.answers import normal_answer
from lora_bench.metrics.support.item_weights import item_metric


def values(right, given):
    return tuple(
        metric(name).compute(references=right, predictions=given)[name] for name in ("squad_exact_match", "squad_f1")
    )


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower, Paris!", "eiffeltower paris"),
        ("a theatre and an answer", "theatre and answer"),
        ("U.S.A.", "usa"),
        ("the a an", ""),
        ("Ça — 20 %", "ça — 20"),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(text, normal):
    assert normal_answer(text) == normal


@pytest.mark.parametrize(
    ("right", "given", "expected"),
    [
        (["the Denver Broncos"], "Denver Broncos.", (1, 1)),
        (["Denver Broncos"], "Broncos", (0, 2 / 3)),  # precision 1, recall 1/2
        (["Denver Broncos"], "the Denver city", (0, 0.5)),
        (["Broncos", "Denver Broncos"], "Denver Broncos", (1, 1)),  # the best of several
        (["x x y"], "x x x", (0, 2 / 3)),  # words count as often as they stand there
        (["Paris"], "", (0, 0)),
        ([""], "", (1, 1)),
        ([""], "Paris", (0, 0)),
        ([""], "the", (1, 1)),
        (["the", "Paris"], "a", (0, 0)),  # a reference without a word counts only alone
    ],
)
def test_answers_by_hand(right, given, expected):
    assert values([right], [given]) == pytest.approx(expected)
    assert values([right, ["z"]], [given, "q"]) == pytest.approx(tuple(value / 2 for value in expected))


def official(right, given):
    """The rules as SQuAD 2.0's page states them, written apart from ours."""

    def normalised(text):
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(gold, said):
        gold_words, said_words = normalised(gold).split(), normalised(said).split()
        common = sum((collections.Counter(gold_words) & collections.Counter(said_words)).values())
        if not gold_words or not said_words:
            return int(gold_words == said_words)
        if common == 0:
            return 0
        precision, recall = common / len(said_words), common / len(gold_words)
        return 2 * precision * recall / (precision + recall)

    exact, overlap = [], []
    for references, said in zip(right, given, strict=True):
        golds = [text for text in references if normalised(text)] or [""]
        exact.append(max(int(normalised(gold) == normalised(said)) for gold in golds))
        overlap.append(max(f1(gold, said) for gold in golds))
    return sum(exact) / len(exact), sum(overlap) / len(overlap)


def test_they_are_the_official_ones_on_any_words():
    draw = random.Random(0)
    words = ["the", "a", "Paris", "paris,", "in", "1999", "an", "—", "x-y", ""]

    def answer():
        return " ".join(draw.choices(words, k=draw.randint(0, 4)))

    right = [[answer() for _ in range(draw.randint(1, 3))] for _ in range(400)]
    given = [answer() for _ in right]
    assert values(right, given) == pytest.approx(official(right, given))
    for name, value in zip(("squad_exact_match", "squad_f1"), values(right, given), strict=True):
        assert item_metric(name, right, {0: given}).scores() == pytest.approx([value])
