"""NIST equals its definition, worked out by hand on made-up words."""

import math
from math import log2

import pytest

from lora_bench.metrics import metric
from lora_bench.metrics.nist import length_penalty


def nist(predictions: list[str], references: list[list[str]]) -> float | None:
    return metric("nist").compute(predictions=predictions, references=references)["nist"]


def test_a_word_tells_log2_of_its_rarity_and_a_sure_successor_nothing():
    # Two words, each once in two: log2(2/1) = 1 each, mean 1. The pair: "a" is always followed by "b", log2(1/1) = 0.
    assert nist(["a b"], [["a b"]]) == pytest.approx(1)


def test_the_information_of_a_run_is_that_of_its_last_word_after_the_others():
    # Of four words "a" is three and "b" one: log2(4/3) and log2(4/1). "a" is followed by "b" once in three: log2(3/1).
    # Two words for four: the factor is 2 to the power of -(ln(1/2) / ln(2/3))^2.
    information = (log2(4 / 3) + log2(4)) / 2 + log2(3) / 1
    assert nist(["a b"], [["a a a b"]]) == pytest.approx(information * 2 ** -((math.log(1 / 2) / math.log(2 / 3)) ** 2))


def test_two_thirds_of_the_length_halve_the_score():
    # Two words of log2(3/1) each, mean log2(3); "b" is sure after "a".
    assert nist(["a b"], [["a b c"]]) == pytest.approx(log2(3) / 2)
    assert length_penalty(2 / 3) == pytest.approx(1 / 2)
    assert (length_penalty(0), length_penalty(1), length_penalty(3)) == (0, 1, 1)


def test_a_long_prediction_pays_with_its_precision_only():
    # Three right words of four; runs of two and more are all sure.
    assert nist(["a b c d"], [["a b c"]]) == pytest.approx(3 * log2(3) / 4)


def test_a_run_counts_at_most_as_often_as_in_the_reference_that_has_it_most():
    # "a" is two words of three, log2(3/2), and counts twice of three; "a a" follows "a" once in two, log2(2/1) = 1, and
    # counts once of two; "a a a" is nowhere.
    assert nist(["a a a"], [["a a b"]]) == pytest.approx(2 * log2(3 / 2) / 3 + 1 / 2)


def test_references_of_all_inputs_are_counted_together_whatever_their_number():
    # Five words in three references: a twice, b, c and d once. "b" follows "a" once in two: log2(2) = 1, over one pair.
    # Three predicted words for 5 words / (3 references / 2 inputs) = 10/3: a ratio of 0.9. (The mean length input by
    # input would be 2 + 1 = 3, and the factor 1: what the scorer's Python port has.)
    information = (log2(5 / 2) + log2(5) + log2(5)) / 3 + 1 / 1
    factor = 2 ** -((math.log(0.9) / math.log(2 / 3)) ** 2)
    assert nist(["a b", "d"], [["a b", "a c"], ["d"]]) == pytest.approx(information * factor)


def test_an_empty_prediction_earns_nothing_and_costs_length():
    assert nist([""], [["a b"]]) == 0
    # The first has log2(4/1) = 2 a word and sure pairs; half the length for both.
    factor = 2 ** -((math.log(1 / 2) / math.log(2 / 3)) ** 2)
    assert nist(["a b", ""], [["a b"], ["c d"]]) == pytest.approx(2 * factor)


def test_an_empty_reference_is_none():
    assert nist(["a b"], [["a b c", ""]]) == nist(["a b"], [["a b c"]])
    assert nist(["a b"], [[""]]) is None


def test_words_are_those_of_mteval_in_lower_case():
    assert nist(["The FOX, 3.5 m."], [["the fox , 3.5 m ."]]) == nist(["the fox , 3.5 m ."], [["the fox , 3.5 m ."]])
