"""The expected best of some trials, by going through every choice of them."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_bench.errors import LoraBenchError
from lora_bench.stats import expected_best

scores = st.lists(st.floats(-100, 100), min_size=1, max_size=8)


def test_of_three_trials_by_hand():
    # One: the mean. Two of 1, 2, 4: the greater of (1, 2), (1, 4), (2, 4). All three: the best.
    assert expected_best([2, 4, 1]) == pytest.approx((7 / 3, 10 / 3, 4))
    assert expected_best([2, 4, 1], higher_is_better=False) == pytest.approx((7 / 3, 4 / 3, 1))


@given(scores)
def test_it_is_the_mean_over_all_choices_of_different_trials(values):
    found = expected_best(values)
    for k, value in enumerate(found, start=1):
        choices = [max(chosen) for chosen in itertools.combinations(values, k)]
        assert value == pytest.approx(math.fsum(choices) / len(choices), abs=1e-9)


@given(scores, st.floats(-10, 10), st.floats(0.1, 10), st.randoms())
def test_order_shift_scale_and_direction(values, shift, scale, random):
    found = expected_best(values)
    shuffled = random.sample(values, len(values))
    assert expected_best(shuffled) == found
    moved = expected_best([shift + scale * value for value in values])
    assert moved == pytest.approx([shift + scale * value for value in found], abs=1e-7)
    assert expected_best([-value for value in values], higher_is_better=False) == pytest.approx(
        [-value for value in found]
    )
    assert all(one <= other + 1e-9 for one, other in itertools.pairwise(found))


def test_thousands_of_trials_are_exact_too():
    # Of 0, 1, …, n − 1 the expected greatest of k is k (n + 1) / (k + 1) − 1.
    n = 1500
    found = expected_best([float(i) for i in range(n)])
    for k in (1, 2, 700, n):
        assert found[k - 1] == pytest.approx(k * (n + 1) / (k + 1) - 1, rel=1e-12)


def test_no_trials_and_a_score_that_is_no_number_are_refused():
    with pytest.raises(LoraBenchError, match="no trials"):
        expected_best([])
    with pytest.raises(LoraBenchError, match="score of trial 2 is nan"):
        expected_best([0.5, math.nan])
