"""Intervals and p-values of an estimate: Student's t, the wider of two errors, and what has no error at all."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lora_bench.errors import LoraBenchError
from lora_bench.stats import Estimate, Uncertainty, clopper_pearson, summarise
from lora_bench.stats.estimate import mean_estimate

VALUES = [0.81, 0.84, 0.79, 0.86, 0.82]

errors = st.builds(
    Uncertainty,
    source=st.sampled_from(["t", "bootstrap"]),
    standard_error=st.floats(1e-3, 10),
    freedom=st.floats(1, 500),
)
estimates = st.builds(
    Estimate, value=st.floats(-5, 5), uncertainties=st.lists(errors, min_size=1, max_size=2).map(tuple)
)


def test_the_summary_is_scipys_t_interval_and_the_textbook_numbers():
    found = summarise(VALUES)
    assert (found.n, found.median, found.least, found.greatest) == (5, 0.82, 0.79, 0.86)
    assert found.mean == pytest.approx(0.824) and found.sd == pytest.approx(np.std(VALUES, ddof=1))
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (found.interval.confidence, found.interval.source) == (0.95, "t")


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99, 1 - 0.05 / 12])
def test_an_interval_has_any_confidence(confidence):
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(confidence)
    found = mean_estimate(VALUES).interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_p_values_are_scipys():
    centred = [value - 0.8 for value in VALUES]
    estimate = mean_estimate(centred)
    for alternative, p in (
        ("two-sided", estimate.p_value()), ("greater", estimate.p_above(0.0)), ("less", estimate.p_below(0.0)),
    ):  # fmt: skip
        assert p == pytest.approx(stats.ttest_1samp(centred, 0, alternative=alternative).pvalue, rel=1e-10)
    assert estimate.p_above(-0.01) == pytest.approx(stats.ttest_1samp(centred, -0.01, alternative="greater").pvalue)


@pytest.mark.parametrize("values", [[0.5], [0.7, 0.7, 0.7], [0.3 - 0.2, 0.2 - 0.1, 0.1]])
def test_values_without_spread_have_no_interval_and_no_p_value(values):
    assert summarise(values).interval is None
    assert mean_estimate(values).p_value() is None


def test_tiny_differences_that_are_more_than_rounding_have_an_interval():
    assert summarise([1e-9, 2e-9, 3e-9]).interval is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused_by_its_place(bad):
    with pytest.raises(LoraBenchError, match=r"value 2 is (nan|inf); expected a finite number"):
        summarise([0.5, bad, 0.7])


def test_no_values_and_no_confidence_are_refused():
    with pytest.raises(LoraBenchError, match="no values"):
        summarise([])
    with pytest.raises(LoraBenchError, match="confidence is 95; expected a number between 0 and 1"):
        summarise(VALUES, confidence=95)


def test_the_wider_interval_is_reported_and_which_may_depend_on_the_confidence():
    # Student's t: 4.303 × 1 with 2 degrees of freedom against 2.009 × 1.8 with 50 at 95 %; 1.061 against 0.680 × 1.8 at 60 %.
    both = Estimate(
        value=0.0,
        uncertainties=(
            Uncertainty(source="t", standard_error=1.0, freedom=2),
            Uncertainty(source="bootstrap", standard_error=1.8, freedom=50),
        ),
    )
    wide, narrow = both.interval(0.95), both.interval(0.6)
    assert (wide.source, round(wide.high, 3)) == ("t", 4.303)
    assert narrow.source == "bootstrap" and narrow.high == pytest.approx(1.8 * stats.t.ppf(0.8, 50))


@given(estimates, st.floats(0.01, 0.99), st.floats(-5, 5))
def test_an_interval_leaves_a_number_out_exactly_if_the_p_value_against_it_is_small(estimate, confidence, number):
    moved = Estimate(value=estimate.value - number, uncertainties=estimate.uncertainties)
    p = moved.p_value()
    if abs(p - (1 - confidence)) > 1e-9:
        assert (number in estimate.interval(confidence)) == (p > 1 - confidence)


@given(estimates, st.floats(-5, 5))
def test_the_claims_above_and_below_swap_with_the_sign(estimate, threshold):
    assert estimate.p_above(threshold) == pytest.approx(estimate.negated().p_below(-threshold))
    assert estimate.p_value() == pytest.approx(estimate.negated().p_value())


@pytest.mark.parametrize(("count", "n"), [(0, 5), (1, 5), (3, 7), (10, 10)])
def test_the_interval_of_a_share_is_scipys_exact_one(count, n):
    expected = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(count, count, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_importing_loads_neither_scipy_nor_statsmodels():
    loaded = "import sys, lora_bench.stats; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"scipy", "statsmodels", "pandas", "torch", "sklearn"} & set(done.stdout.split())
