"""Metrics of generated texts: what the definition gives by hand, on made-up words."""

import math

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import metric


def value(name: str, predictions: list[str], references: list[list[str]]) -> float | None:
    return metric(name).compute(predictions=predictions, references=references)[name]


def test_exact_match_is_the_share_of_predictions_that_are_a_reference():
    assert value("exact_match", ["a b ", "c", "D", "a  b"], [["x", "a b"], ["c"], ["d"], ["a b"]]) == 2 / 4


def test_bleu_is_the_geometric_mean_of_four_precisions():
    # "a b c d x y" in "a b c d z y": 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours.
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert value("bleu", ["a b c d x y"], [["A b c d z y"]]) == pytest.approx(expected)


def test_bleu_counts_over_all_predictions_together():
    # The second adds 0 of 1 word and no longer run: 6 of 7, 5 of 5, 4 of 4, 3 of 3.
    assert value("bleu", ["a b c d e f", "x"], [["a b c d e f"], ["y"]]) == pytest.approx((6 / 7) ** (1 / 4))


def test_bleu_of_a_short_prediction_is_measured_at_the_reference_of_nearest_length():
    assert value("bleu", ["a b c d"], [["a b c d e f"]]) == pytest.approx(math.exp(1 - 6 / 4))
    # Lengths 4 and 6 are as near to 5, and the shorter one counts: no penalty. 4 of 5, 3 of 4, 2 of 3, 1 of 2.
    assert value("bleu", ["a b c d x"], [["a b c d e f", "a b c d"]]) == pytest.approx((1 / 5) ** (1 / 4))


def test_bleu_is_not_smoothed():
    assert value("bleu", ["a b c"], [["a b c"]]) == 0


def test_bleu_is_that_of_sacrebleu():
    import sacrebleu

    predictions = ["A fox, 3.5 m long, ran off.", "No-one saw it again!"]
    references = [["The fox, 3.5 m long, ran off."], ["No-one saw it again.", "Nobody saw it again!"]]
    columns = [["The fox, 3.5 m long, ran off.", "No-one saw it again."], [None, "Nobody saw it again!"]]
    theirs = sacrebleu.corpus_bleu(predictions, columns, tokenize="13a", smooth_method="none", lowercase=True)
    assert value("bleu", predictions, references) == pytest.approx(theirs.score / 100)


def test_bleu_webnlg_splits_at_every_sign():
    # don ' t stop it now, against don ' t stop it: 5 of 6, 4 of 5, 3 of 4, 2 of 3, together 1/3.
    assert value("bleu_webnlg", ["Don't stop it now"], [["don't stop it"]]) == pytest.approx((1 / 3) ** (1 / 4))
    # bleu has "don't" as one word, and then not one run of four is right.
    assert value("bleu", ["Don't stop it now"], [["don't stop it"]]) == 0


def test_bleu_webnlg_counts_over_several_references_with_a_penalty():
    # 5 words for the nearest of 6 and 9: exp(1 - 6/5). Words 5 of 5; pairs ab bc cd from the first, dx from the second,
    # 4 of 4; triples abc bcd from the first, cdx from none, 2 of 3; fours abcd, 1 of 2.
    references = [["a b c d y y", "d x y y y y y y y"]]
    expected = math.exp(1 - 6 / 5) * (2 / 3 * 1 / 2) ** (1 / 4)
    assert value("bleu_webnlg", ["a b c d x"], references) == pytest.approx(expected)


def test_bleu_webnlg_looks_at_six_references():
    six = [f"{word} {word} {word} {word}" for word in "bcdefg"]
    assert value("bleu_webnlg", ["a a a a"], [[*six, "a a a a"]]) == 0
    assert value("bleu_webnlg", ["a a a a"], [[*six[:5], "a a a a"]]) == pytest.approx(1)


def test_ter_is_edits_a_word():
    assert value("ter", ["a x c d"], [["a b c d"]]) == pytest.approx(1 / 4)
    assert value("ter", ["c a b"], [["a b c"]]) == pytest.approx(1 / 3)  # one move
    assert value("ter", ["", "b"], [["a"], ["b"]]) == pytest.approx(1 / 2)
    assert value("ter", ["a b c d e f"], [["a"]]) == pytest.approx(5)


def test_ter_takes_the_nearest_reference_and_the_mean_length():
    # One edit from the first; lengths 4 and 6.
    assert value("ter", ["a b c"], [["a b c d", "u v w x y z"]]) == pytest.approx(1 / 5)


def test_chrf_is_the_mean_over_runs_of_characters():
    # Single characters 1 of 2, pairs 0 of 1, no longer runs: precision and recall are both (1/2 + 0) / 2.
    assert value("chrf", ["ab"], [["ac"]]) == pytest.approx(1 / 4)
    assert value("chrf", ["some words"], [["other", "some words"]]) == pytest.approx(1)


def test_rouge_by_hand():
    # Words 2 of 3 and pairs 1 of 2, in prediction and reference alike.
    assert value("rouge_1", ["green cats sang"], [["Green cat slept."]]) == pytest.approx(
        2 / 3
    )  # cats and cat: one stem
    assert value("rouge_2", ["green cats sang"], [["Green cat slept."]]) == pytest.approx(1 / 2)
    # Longest common subsequence a c: 2 of 3 and 2 of 4, F = 2 * (2/3 * 1/2) / (2/3 + 1/2) = 4/7.
    assert value("rouge_l_summary", ["a b c"], [["a x y c"]]) == pytest.approx(4 / 7)


def test_rouge_takes_the_best_reference_and_the_mean_over_inputs():
    assert value("rouge_1", ["a b", "c"], [["x", "a b"], ["d"]]) == pytest.approx(1 / 2)


def test_rouge_l_of_summaries_goes_by_sentence():
    # In one line only one of the two halves is in order; on two lines both are found.
    assert value("rouge_l_summary", ["c d a b"], [["a b c d"]]) == pytest.approx(1 / 2)
    assert value("rouge_l_summary", ["c d\na b"], [["a b\nc d"]]) == pytest.approx(1)


def test_a_prediction_without_reference_is_refused_by_its_number():
    with pytest.raises(LoraBenchError, match="'bleu' needs a reference for every prediction; number 2 has none"):
        value("bleu", ["a", "b"], [["a"], []])
