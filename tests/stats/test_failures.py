"""Failures are counted with an exact interval, and stay in the scores at the floor."""

import math

import pytest
from scipy import stats

from lora_bench.errors import LoraBenchError
from lora_bench.stats import Cancelling, Risk, collapsed, paired_difference, rate, with_failures_at_floor
from lora_bench.stats.failures import cancelling, excluded_rate


def test_no_failure_of_five_runs_leaves_a_half_possible():
    found = rate(0, 5)
    # 1 − .025^(1/5)
    assert (found.share, found.low, found.high) == (0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 5)))


def test_the_interval_is_scipys_exact_one():
    found, expected = rate(2, 9, 0.9), stats.binomtest(2, 9).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.count, found.runs, found.share, found.confidence) == (2, 9, 2 / 9, 0.9)


@pytest.mark.parametrize(("count", "runs"), [(1, 0), (3, 2), (-1, 5)])
def test_what_is_no_rate_is_refused(count, runs):
    with pytest.raises(LoraBenchError, match=f"{count} of {runs} runs is no rate"):
        rate(count, runs)


def test_a_run_collapsed_if_it_is_no_better_than_the_floor():
    scores = {3: 0.68, 1: 0.9, 2: 0.5}
    assert collapsed(scores, 0.68) == (2, 3)
    assert collapsed(scores, 0.68, higher_is_better=False) == (1, 3)


def test_failures_at_the_floor_turn_a_comparison():
    # Without its two diverged runs the first method looks better; a user gets those as well.
    first, second = {0: 0.90, 1: 0.91, 2: 0.92}, dict.fromkeys(range(5), 0.85)
    assert paired_difference(first, second, draw_seed=0).estimate.value == pytest.approx(0.06)
    held = with_failures_at_floor(first, [3, 4], 0.5)
    assert held == {0: 0.90, 1: 0.91, 2: 0.92, 3: 0.5, 4: 0.5}
    assert paired_difference(held, second, draw_seed=0).estimate.value == pytest.approx((0.18 - 0.70) / 5)


def test_a_seed_cannot_fail_and_have_a_score():
    with pytest.raises(LoraBenchError, match=r"seed 1 failed and has the score 0\.9"):
        with_failures_at_floor({1: 0.9}, [1], 0.5)
    with pytest.raises(LoraBenchError, match="the floor is nan"):
        with_failures_at_floor({1: 0.9}, [2], math.nan)


def test_the_rate_of_collapses_that_cancels_a_claim_by_hand():
    # The first is better by 1.2 points, and a collapse of it costs 34: 1.2 / 34; one of ten fell already, which its mean has.
    first, second = Risk(loss=0.34, share=0.1, excluded=0.4), Risk(loss=0.3, share=0.0, excluded=0.26)
    found = cancelling((0.012, None), (first, second))
    assert found == Cancelling(of_first=True, rate=pytest.approx(0.1 + 0.012 / 0.34), excluded=0.4)
    # Equivalence within .015 ends too where the second collapses, so that the first would be better by as much.
    assert cancelling((0.027, 0.003), (first, second)) == Cancelling(
        of_first=False, rate=pytest.approx(0.01), excluded=0.26
    )
    assert cancelling((None, None), (first, second)) is None


@pytest.mark.parametrize(("runs", "rate"), [(10, 0.2589), (30, 0.0950)])
def test_runs_without_a_collapse_exclude_a_rate(runs, rate):
    assert excluded_rate(0, runs) == pytest.approx(1 - 0.05 ** (1 / runs)) == pytest.approx(rate, abs=5e-5)
