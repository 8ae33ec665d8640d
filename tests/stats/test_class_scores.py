"""Scores of classes and probabilities are those that a hand gets, and scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_bench.stats.class_scores import (
    brier_score,
    calibration_error,
    confusion,
    mean_of_classes,
    precision_recall_f1,
)

RIGHT = np.array([0, 0, 0, 1, 1, 2])
SAID = np.array([0, 0, 1, 1, 0, 0])


def test_a_confusion_matrix_has_a_line_for_each_right_class():
    assert confusion(RIGHT, SAID, 3).tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_precision_recall_and_f1_by_hand():
    precision, recall, f1 = precision_recall_f1(confusion(RIGHT, SAID, 3))
    # class 0 is right in 2 of 4 answers and found in 2 of 3 items; class 2 is never answered
    assert precision.tolist() == [2 / 4, 1 / 2, 0]
    assert recall.tolist() == [2 / 3, 1 / 2, 0]
    assert f1 == pytest.approx([4 / 7, 1 / 2, 0])
    assert mean_of_classes(f1, confusion(RIGHT, SAID, 3)) == pytest.approx((4 / 7 + 1 / 2) / 3)


def test_a_class_that_occurs_nowhere_is_no_part_of_macro_f1():
    counts = confusion(np.array([0, 1]), np.array([0, 1]), 3)
    assert mean_of_classes(precision_recall_f1(counts)[2], counts) == 1


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n)] * 2)),
)
def test_they_are_scikit_learns(pair):
    right, said = map(np.array, pair)
    counts = confusion(right, said, 4)
    labels = [0, 1, 2, 3]
    assert counts.tolist() == sklearn.metrics.confusion_matrix(right, said, labels=labels).tolist()
    expected = sklearn.metrics.precision_recall_fscore_support(right, said, labels=labels, zero_division=0)
    for found, theirs in zip(precision_recall_f1(counts), expected, strict=False):
        assert found == pytest.approx(theirs)
    macro = sklearn.metrics.f1_score(right, said, average="macro", zero_division=0)
    assert mean_of_classes(precision_recall_f1(counts)[2], counts) == pytest.approx(macro)


def test_the_calibration_error_by_hand():
    right = np.array([0, 0, 1, 1])
    # confidence 0.9 (right), 0.9 (wrong), 0.6 (right), 1.0 (right): gaps |1.8 - 1| + |0.6 - 1| + |1 - 1|, of 4 items
    shares = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.0, 1.0]])
    assert calibration_error(right, shares) == pytest.approx((0.8 + 0.4) / 4)


def test_the_calibration_error_is_that_of_a_loop_over_bins():
    generator = np.random.default_rng(0)
    shares = generator.dirichlet([1, 1, 1], size=500)
    right = generator.integers(3, size=500)
    confidence, hits = shares.max(axis=1), shares.argmax(axis=1) == right
    expected = 0.0
    for place in range(15):
        inside = (confidence >= place / 15) & (confidence < (place + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - hits[inside].mean())
    assert calibration_error(right, shares) == pytest.approx(expected)


def test_the_brier_score_by_hand():
    # two classes, of the second: (0.25 - 0)^2 and (0.5 - 1)^2; three: 0.5^2 + 0.25^2 + 0.25^2
    assert brier_score(np.array([0, 1]), np.array([[0.75, 0.25], [0.5, 0.5]])) == (0.0625 + 0.25) / 2
    assert brier_score(np.array([0]), np.array([[0.5, 0.25, 0.25]])) == 0.375


def test_the_brier_score_of_two_classes_is_scikit_learns():
    generator = np.random.default_rng(1)
    second = generator.random(200)
    right = generator.integers(2, size=200)
    shares = np.stack([1 - second, second], axis=1)
    assert brier_score(right, shares) == pytest.approx(sklearn.metrics.brier_score_loss(right, second))
