"""Looks at growing numbers of seeds: their numbers, their shares, and what these do to p-values, intervals and verdicts."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks import statistics_sequential as simulation
from lora_bench.stats import judge, paired_difference
from lora_bench.stats.estimate import Estimate, Uncertainty
from lora_bench.stats.looks import LAST, STOPPED, looks_between, share_of


def test_looks_grow_by_a_third_and_end_at_the_most():
    assert looks_between(4, 20) == (4, 6, 8, 11, 15, 20)
    assert looks_between(3, 5) == (3, 4, 5)
    assert looks_between(10, 10) == (10,)
    assert looks_between(4, 10) == (4, 6, 8, 10)


@pytest.mark.parametrize(("at_least", "at_most"), [(3, 5), (4, 20), (4, 10), (10, 10), (5, 200)])
def test_the_shares_of_all_looks_add_up_to_one(at_least, at_most):
    looks = looks_between(at_least, at_most)
    assert sum(share_of(look, looks) for look in looks) == pytest.approx(1.0)
    assert share_of(at_most, looks) == (LAST if len(looks) > 1 else 1.0)
    # Runs that failed leave fewer pairs than a look has: they count for the look that they belong to.
    if len(looks) > 1:
        assert share_of(looks[-2] + 1, looks) == LAST


def test_an_interval_leaves_a_number_out_exactly_if_the_p_value_against_it_is_below_the_level():
    estimate = Estimate(value=2.0, uncertainties=(Uncertainty(source="t", standard_error=0.5, freedom=5),), share=0.1)
    plain = 2 * scipy_stats.t.sf(4.0, 5)
    assert estimate.p_value() == pytest.approx(plain / 0.1)
    edge = estimate.interval(1 - estimate.p_value())
    assert edge.low == pytest.approx(0.0)


def test_a_comparison_is_judged_with_the_share_of_its_look_and_its_own_interval_covers_the_stop():
    scores = dict(enumerate([0.81, 0.83, 0.80, 0.84])), dict(enumerate([0.80, 0.80, 0.78, 0.80]))
    difference = paired_difference(*scores, draw_seed=0)
    plain = scipy_stats.ttest_rel([*scores[0].values()], [*scores[1].values()])
    assert 0.02 < plain.pvalue < 0.05
    fixed = judge({"mine": difference}, margin=None)["mine"]
    early = judge({"mine": difference}, margin=None, shares=0.05)["mine"]
    assert (fixed.verdict, early.verdict) == ("better", "inconclusive")
    assert early.p_value == pytest.approx(plain.pvalue / 0.05)
    whole = plain.confidence_interval(1 - 0.05 * STOPPED)
    assert (early.interval.low, early.interval.high) == pytest.approx((whole.low, whole.high))
    assert early.interval.confidence == 0.95


@pytest.mark.slow
def test_like_methods_are_called_different_at_any_look_in_at_most_one_case_of_twenty():
    families = 4_000
    for methods, tasks in ((3, 1), (3, 4)):
        called = simulation.false_differences(simulation.NORMAL, methods, tasks, families)
        assert called < 0.05 + 3 * (0.05 * 0.95 / families) ** 0.5
    # Without shares, the same looks do so far more often.
    rule = simulation.Rule("peeking", simulation.LOOKS, lambda p, differences, look: p)
    assert simulation.one_comparison(rule, 0.0, 0.05, families).decided > 0.1


@pytest.mark.parametrize("effect", simulation.EFFECTS)
def test_intervals_cover_nearly_as_often_as_they_say_and_power_is_near_that_of_20_fixed_seeds(effect):
    rules = {rule.name: rule for rule in simulation.rules(0.05)}
    ours, fixed = (simulation.one_comparison(rules[name], effect, 0.05, 10_000) for name in ("shares", "fixed"))
    assert 0.93 <= ours.reported <= 0.97
    assert ours.decided >= fixed.decided - 0.05


@pytest.mark.parametrize("methods", [1, 3, 12])
def test_a_method_worse_by_the_margin_is_called_non_inferior_in_at_most_one_case_of_twenty(methods):
    families = 4_000
    called = simulation.false_equivalence(methods, families)
    assert called < 0.05 + 3 * (0.05 * 0.95 / families) ** 0.5


def test_the_simulated_p_values_are_those_of_paired_differences():
    generator = np.random.default_rng(0)
    differences = generator.standard_normal((3, 6))
    for row, p_value in zip(differences, simulation.p_value(differences), strict=True):
        scores = dict(enumerate(row.tolist())), dict.fromkeys(range(6), 0.0)
        assert paired_difference(*scores, draw_seed=0).estimate.p_value() == pytest.approx(p_value)


def test_spent_levels_spend_what_they_say():
    levels = simulation.spending_levels(0.05, (10, 20))
    # Of two equal looks, a quarter of alpha is spent at the first.
    assert levels[0] == pytest.approx(0.0125, rel=1e-6)
    # The rest is spent at the second: checked by integrating two correlated normals.
    bounds = [float(scipy_stats.norm.isf(level / 2)) for level in levels]
    pair = scipy_stats.multivariate_normal(cov=[[1, 0.5**0.5], [0.5**0.5, 1]])
    inside = pair.cdf(bounds, lower_limit=[-bounds[0], -bounds[1]])
    assert 1 - inside == pytest.approx(0.05, abs=2e-4)
