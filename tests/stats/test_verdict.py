"""Verdicts on numbers of which a reader can see what they must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from statsmodels.stats.weightstats import ttost_paired

from lora_bench.errors import LoraBenchError
from lora_bench.stats import FixedSeeds, ItemScores, Risk, grade, judge, macro_difference, paired_difference

# Ten differences with mean 0 and standard deviation 1.
SPREAD = np.array([-1.0, 1.0] * 5) / np.std([-1.0, 1.0] * 5, ddof=1)


# Enough pairs to exclude that a method collapses in a tenth of its runs, in a family of up to three.
MANY = 40


def difference(mean, sd, pairs=10):
    """A paired difference of the given mean and standard deviation; of many pairs its parts are those of a normal one."""
    shape = SPREAD[:pairs] if pairs <= len(SPREAD) else ndtri((np.arange(pairs) + 0.5) / pairs)
    spread = shape / np.std(shape, ddof=1) if pairs > 1 else np.zeros(1)
    second = np.linspace(0.5, 0.6, pairs)
    first = second + mean + sd * spread
    return paired_difference(dict(enumerate(first.tolist())), dict(enumerate(second.tolist())), draw_seed=0)


def verdict(mean, sd, pairs=10, margin=0.01, **options):
    return judge({"one": difference(mean, sd, pairs)}, margin=margin, **options)["one"]


# The t-interval of ten is ± 0.715 SD at 95 % and ± 0.580 SD at 90 %.
def test_a_large_difference_is_better_or_worse_and_beyond_the_margin():
    one, other = verdict(0.05, 0.02), verdict(-0.05, 0.02)
    assert (one.verdict, one.beyond_margin, one.small_but_real) == ("better", True, None)
    assert (other.verdict, other.beyond_margin) == ("worse", True)
    assert one.interval.low == pytest.approx(0.05 - 0.715 * 0.02, abs=1e-5)


def test_better_may_be_by_less_than_the_margin():
    # .02 ± .0143 leaves out 0 and not the margin of .01.
    found = verdict(0.02, 0.02)
    assert (found.verdict, found.beyond_margin) == ("better", False)


def test_a_small_spread_around_nothing_is_equivalent():
    # ± .0027 at 90 % lies within ± .01.
    found = verdict(0.0, 0.01, MANY)
    assert (found.verdict, found.small_but_real, found.needed) == ("equivalent", None, None)


@pytest.mark.parametrize(("mean", "direction"), [(0.004, "better"), (-0.004, "worse")])
def test_equivalence_outranks_a_real_difference_that_is_small(mean, direction):
    # .004 ± .0006 leaves out 0 and lies within ± .01.
    found = verdict(mean, 0.002, MANY)
    assert (found.verdict, found.small_but_real, found.beyond_margin) == ("equivalent", direction, False)


def test_non_inferior_is_what_is_not_worse_by_the_margin():
    # .006 ± .0053 at 90 %: above −.01 and not below .01; ± .0064 at 95 %: not above 0.
    found = verdict(0.006, 0.02, MANY)
    assert (found.verdict, found.needed) == ("non-inferior", None)
    assert verdict(0.006, 0.02, MANY, margin=None).verdict == "inconclusive"


def test_inconclusive_says_how_many_seeds_would_decide():
    # .2 SD: 199 pairs find it with power 80 % (statsmodels: 198.15); the margin of .025 SD is beyond a thousand.
    found = verdict(-0.02, 0.1, margin=0.0025)
    assert (found.verdict, found.needed.seeds, found.needed.by) == ("inconclusive", 199, "difference")
    assert verdict(0.0, 0.1, margin=0.0025).needed is None
    assert verdict(-0.02, 0.1, margin=0.0025, power=None).needed is None


def test_where_less_is_better_the_words_turn_and_the_numbers_stay():
    higher, lower = verdict(0.05, 0.02), verdict(0.05, 0.02, higher_is_better=False)
    assert (higher.verdict, lower.verdict) == ("better", "worse")
    assert higher.difference == lower.difference and higher.interval == lower.interval
    assert verdict(-0.006, 0.02, MANY, higher_is_better=False).verdict == "non-inferior"
    assert verdict(0.004, 0.002, MANY, higher_is_better=False).small_but_real == "worse"


def test_p_values_are_those_of_two_one_sided_tests():
    one = difference(0.003, 0.02, MANY)
    (p, *_) = ttost_paired(np.array(one.differences), np.zeros(MANY), -0.01, 0.01)
    assert judge({"one": one}, margin=0.01)["one"].equivalence_p == pytest.approx(p)
    assert p > 0.9**MANY


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [(3, "exploratory"), (5, "exploratory"), (6, "indicative"), (9, "indicative"), (10, "recommendation")],
)
def test_a_verdict_is_graded_by_its_pairs(pairs, expected):
    assert grade(pairs) == expected == verdict(0.05, 0.02, pairs).grade


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_fewer_than_four_pairs_decide_nothing(pairs):
    found = verdict(0.5, 0.0001, pairs)
    assert (found.verdict, found.adjusted_p, found.needed) == ("inconclusive", None, None)
    assert found.reason == {1: "one pair of seeds has no spread"}.get(
        pairs, f"{pairs} pairs of seeds are fewer than the 4 of which verdicts are made"
    )


def test_differences_that_are_all_the_same_decide_nothing_and_say_why():
    found = verdict(0.05, 0.0)
    assert found.verdict == "inconclusive" and found.interval is None and "all 10 differences" in found.reason


def test_a_larger_family_asks_for_more():
    # .0087 / .01 · √10 = 2.75 standard errors of nine degrees of freedom: p = .022.
    one = difference(0.0087, 0.01)
    alone = judge({0: one}, margin=None)[0]
    assert (alone.verdict, alone.family) == ("better", 1) and 0.02 < alone.p_value < 0.025
    among = judge({key: one if key == 0 else difference(0.0, 0.01) for key in range(4)}, margin=None)[0]
    assert among.verdict == "inconclusive" and among.adjusted_p == pytest.approx(4 * alone.p_value)


def test_a_family_of_clear_differences_makes_room_for_the_last():
    one = difference(0.0087, 0.01)
    family = {0: one, 1: difference(0.1, 0.01), 2: difference(-0.1, 0.01)}
    found = judge(family, margin=None)
    assert [each.verdict for each in found.values()] == ["better", "better", "worse"]
    # Tested last, at the whole of alpha.
    assert found[0].adjusted.confidence == pytest.approx(0.95) and 0 not in found[0].adjusted
    assert 0 in found[0].simultaneous and found[0].simultaneous.confidence == pytest.approx(1 - 0.05 / 3)


# A collapse costs 40 points of the first method and 10 of the second, and none was seen.
RISKS = (Risk(loss=0.4, share=0.0, excluded=0.26), Risk(loss=0.1, share=0.0, excluded=0.26))


def test_collapses_cancel_a_claim_at_the_least_difference_that_its_test_leaves_open():
    def cancelled(mean, sd, pairs=10):
        found = verdict(mean, sd, pairs, risks={"one": RISKS}).cancelled
        return found.of_first, found.rate

    # Better by .05 ± .0143, so that the first may lose .0357; worse alike, and the second may.
    assert cancelled(0.05, 0.02) == (True, pytest.approx((0.05 - 0.0143) / 0.4, rel=0.001))
    assert cancelled(-0.05, 0.02) == (False, pytest.approx((0.05 - 0.0143) / 0.1, rel=0.001))
    # Equivalent by two tests at 5 %: .002 ± .00266 is .00934 above −margin and .00534 below the margin.
    assert cancelled(0.002, 0.01, MANY) == (True, pytest.approx(0.00934 / 0.4, rel=0.001))
    assert cancelled(0.006, 0.01, MANY) == (False, pytest.approx(0.00134 / 0.1, rel=0.01))
    # Claimed at Holm's level, as the last of three, with a wider interval that reaches 0.
    family = {0: difference(0.0087, 0.01), 1: difference(0.1, 0.01), 2: difference(-0.1, 0.01)}
    found = judge(family, margin=None, risks=dict.fromkeys(family, RISKS))[0]
    assert 0 in found.simultaneous and found.cancelled.rate == pytest.approx((0.0087 - 0.00715) / 0.4, rel=0.01)


means = st.lists(st.tuples(st.floats(-0.05, 0.05), st.floats(0.001, 0.05)), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(means, st.floats(0.001, 0.03), st.booleans())
def test_what_is_shown_agrees_with_what_is_said(family, margin, higher):
    differences = {key: difference(mean, sd) for key, (mean, sd) in enumerate(family)}
    risks = dict.fromkeys(differences, RISKS)
    found = judge(differences, margin=margin, higher_is_better=higher, power=None, risks=risks)
    for one in found.values():
        assert one.decides == (one.cancelled is not None and one.cancelled.rate > 0)
        claimed = one.small_but_real if one.verdict == "equivalent" else one.verdict
        assert (claimed in ("better", "worse")) == (0 not in one.adjusted)
        if claimed in ("better", "worse"):
            assert (claimed == "better") == ((one.difference > 0) == higher)
        if one.verdict == "equivalent":
            assert abs(one.difference) < margin
        if one.verdict == "non-inferior":
            assert (one.difference if higher else -one.difference) > -margin
        if one.beyond_margin:
            assert one.verdict in ("better", "worse") and abs(one.difference) > margin
        assert one.interval.low >= one.adjusted.low - 1e-12 >= one.simultaneous.low - 2e-12

    mirrored = judge(
        {key: difference(-mean, sd) for key, (mean, sd) in enumerate(family)},
        margin=margin, higher_is_better=not higher, power=None,
    )  # fmt: skip
    assert [one.verdict for one in mirrored.values()] == [one.verdict for one in found.values()]
    turned = judge(dict(reversed(differences.items())), margin=margin, higher_is_better=higher, power=None, risks=risks)
    assert turned == found


def test_margins_and_directions_may_be_given_for_each():
    family = {"a": difference(0.0, 0.01, MANY), "b": difference(0.05, 0.02, MANY), "c": difference(0.0, 0.01, MANY)}
    found = judge(family, margin={"a": 0.01, "b": 0.01, "c": None}, higher_is_better={"a": True, "b": False, "c": True})
    assert [one.verdict for one in found.values()] == ["equivalent", "worse", "inconclusive"]
    assert (found["c"].margin, found["c"].equivalence_p) == (None, None)
    # Two of the three have a margin: that is the family of the claims of margins.
    alone = judge({"a": family["a"]}, margin=0.01)["a"]
    assert found["a"].equivalence_p == pytest.approx(2 * alone.equivalence_p)


def test_a_macro_difference_is_judged_like_any_other():
    generator = np.random.default_rng(0)
    first = {task: dict(enumerate(generator.normal(0.85, 0.005, 10))) for task in ("a", "b")}
    second = {task: dict(enumerate(generator.normal(0.80, 0.005, 10))) for task in ("a", "b")}
    assert judge({"lora": macro_difference(first, second, draw_seed=0)}, margin=0.005)["lora"].verdict == "better"


def test_items_that_outweigh_the_seeds_leave_it_open_whatever_the_number_of_seeds():
    generator = np.random.default_rng(1)
    # Both methods are right on 20 items of their own: of 100 items the difference is known to ± .13, seeds or not.
    right = np.ones((2, 10, 100))
    right[0, :, :25], right[1, :, 25:45] = 0, 0
    right[:, :, 99] = generator.random((2, 10)) < 0.5
    items = tuple(ItemScores(tuple(range(10)), method) for method in right)
    scores = [dict(enumerate(method.mean(axis=1).tolist())) for method in right]
    by_seeds = judge({0: paired_difference(*scores, draw_seed=0)}, margin=0.01)[0]
    found = judge({0: paired_difference(*scores, items=items, draw_seed=0)}, margin=0.01)[0]
    assert by_seeds.verdict == "worse"
    assert (found.verdict, found.needed, found.interval.source) == ("inconclusive", None, "bootstrap")


def test_what_makes_no_sense_is_refused():
    family = {"lora": difference(0.0, 0.01)}
    with pytest.raises(LoraBenchError, match="margin of lora is 0; expected a number above 0"):
        judge(family, margin=0)
    with pytest.raises(LoraBenchError, match=r"alpha is 95; expected a number between 0 and 0\.5"):
        judge(family, margin=None, settings=FixedSeeds(alpha=95))
    with pytest.raises(LoraBenchError, match="there is no margin for lora; known: full"):
        judge(family, margin={"full": 0.1})
    assert judge({}, margin=0.01) == {}
