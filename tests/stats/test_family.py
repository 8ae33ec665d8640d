"""Error levels over a family: Holm's by hand, intervals that match, and two hypotheses a comparison for margins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from lora_bench.errors import LoraBenchError
from lora_bench.stats import holm, margin_claims, paired_difference

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_holms_adjusted_p_values_by_hand():
    # Ascending .005, .011, .02, .04, times 4, 3, 2, 1, and never falling.
    found = holm([0.02, 0.005, 0.04, 0.011], alpha=0.05)
    assert [one.p_value for one in found] == pytest.approx([0.04, 0.02, 0.04, 0.033])


def test_each_is_tested_at_alpha_over_those_not_rejected_before_it():
    # .001 ≤ .05/4 and .012 ≤ .05/3 are rejected; .03 > .05/2 is not, and .2 is then tested at the same level.
    found = holm([0.2, 0.001, 0.03, 0.012], alpha=0.05)
    assert [one.level for one in found] == pytest.approx([0.05 / 2, 0.05 / 4, 0.05 / 2, 0.05 / 3])


@settings(max_examples=20, deadline=None)  # multipletests collects garbage at every call
@given(p_values, st.floats(0.001, 0.4))
def test_they_are_those_of_statsmodels(p, alpha):
    rejected, adjusted, *_ = multipletests(p, alpha=alpha, method="holm")
    found = holm(p, alpha)
    assert [one.p_value for one in found] == pytest.approx(adjusted.tolist())
    assert [one.p_value <= alpha for one in found] == rejected.tolist()


def test_the_order_of_a_family_changes_nothing_even_where_p_values_are_the_same():
    one, other, last = holm([0.01, 0.01, 0.2], alpha=0.05)
    assert one == other and one.level == pytest.approx(0.05 / 3) and last.level == pytest.approx(0.05)
    assert holm([0.2, 0.01, 0.01], alpha=0.05) == [last, one, other]


@given(p_values, st.floats(0.001, 0.4))
def test_a_comparison_is_rejected_exactly_if_its_p_value_is_at_most_its_level(p, alpha):
    for value, one in zip(p, holm(p, alpha), strict=True):
        if abs(one.p_value - alpha) > 1e-9:
            assert (one.p_value <= alpha) == (value <= one.level)


def test_what_has_no_p_value_counts_in_the_family_and_is_never_rejected():
    found = holm([0.02, None], alpha=0.05)
    assert found[0].p_value == pytest.approx(0.04) and found[1].p_value is None
    assert holm([], alpha=0.05) == [] == margin_claims([], [], alpha=0.05)


def test_what_is_no_p_value_is_refused():
    with pytest.raises(LoraBenchError, match=r"1\.2 is no p-value"):
        holm([0.5, 1.2], alpha=0.05)


def test_two_one_sided_tests_are_statsmodels():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.8, 0.01, (2, 8))
    p, (_, lower, _), (_, upper, _) = ttost_paired(first, second, -0.012, 0.012)
    estimate = paired_difference(dict(enumerate(first)), dict(enumerate(second)), draw_seed=0).estimate
    assert (estimate.p_above(-0.012), estimate.p_below(0.012)) == pytest.approx((lower, upper))
    (found,) = margin_claims([lower], [upper], alpha=0.05)
    assert found.within == pytest.approx(p) and (found.above, found.below) == pytest.approx((lower, upper))


def rejections(above, below, alpha):
    """Shaffer's procedure written out: levels by comparisons that still have a hypothesis."""
    left, rejected = set(range(len(above))), set()
    while True:
        level = alpha / max(1, len(left))
        new = {(side, j) for side, p in (("above", above), ("below", below)) for j in left if p[j] <= level} - rejected
        if not new:
            return rejected
        rejected |= new
        left -= {j for j in left if ("above", j) in rejected and ("below", j) in rejected}


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0.01, 0.4))
def test_margin_claims_are_those_of_the_procedure_written_out(pairs, alpha):
    above, below = [p for p, _ in pairs], [q for _, q in pairs]
    found, expected = margin_claims(above, below, alpha), rejections(above, below, alpha)
    for j, one in enumerate(found):
        for side, p in (("above", one.above), ("below", one.below)):
            if abs(p - alpha) > 1e-9:
                assert (p <= alpha) == ((side, j) in expected)
        if abs(one.within - alpha) > 1e-9:
            assert (one.within <= alpha) == ({("above", j), ("below", j)} <= expected)


def test_one_proven_equivalence_frees_its_share_for_the_others():
    # The first is within the margin at any level; the second is above −margin at .03 ≤ .05 / 1, and not at .05 / 2.
    first, second = margin_claims([0.001, 0.03], [0.002, 0.9], alpha=0.05)
    assert first.within == pytest.approx(0.004)
    assert second.above == pytest.approx(0.03) and second.within == pytest.approx(0.9)
    assert second.level == pytest.approx(0.05)


def test_a_comparison_without_p_values_makes_no_claim_and_counts():
    one, other = margin_claims([0.01, None], [0.01, None], alpha=0.05)
    assert one.within == pytest.approx(0.02)
    assert (other.above, other.below, other.within) == (None, None, None)


def test_any_false_claim_of_a_margin_is_rarer_than_alpha():
    # Two comparisons exactly at a margin and one of no difference, each known to a tenth of the margin: the last is always
    # proven, and the others are tested at half of alpha.
    generator = np.random.default_rng(1)
    truth, false, experiments = np.array([-1.0, 1.0, 0.0]), 0, 1000
    for estimates in truth + 0.1 * generator.standard_normal((experiments, 3)):
        claims = margin_claims(
            stats.norm.sf((estimates + 1) / 0.1).tolist(), stats.norm.sf((1 - estimates) / 0.1).tolist(), alpha=0.05
        )
        assert claims[2].within < 0.05
        false += claims[0].above <= 0.05 or claims[1].below <= 0.05
    # 1 − (1 − .025)² = .049; three standard errors of a share of 1,000 are .02.
    assert 0.03 < false / experiments < 0.07
