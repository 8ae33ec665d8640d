"""The paired difference of two methods, held to scipy, to counting by hand, and to what may not change it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lora_bench.errors import LoraBenchError
from lora_bench.stats import ItemScores, paired_difference, sign_flip
from lora_bench.stats.paired import paired_p

LORA = {0: 0.842, 1: 0.851, 2: 0.838, 3: 0.849, 4: 0.861, 5: 0.844, 6: 0.853}
FULL = {0: 0.836, 1: 0.848, 2: 0.841, 3: 0.839, 4: 0.850, 5: 0.843, 6: 0.847}


def compare(first=LORA, second=FULL, **options):
    return paired_difference(first, second, draw_seed=0, **options)


def rows(scores):
    return [list(method.values()) for method in scores]


def test_estimate_interval_and_p_are_those_of_the_paired_t_test():
    found, expected = compare(), stats.ttest_rel(*rows([LORA, FULL]))
    assert found.estimate.value == pytest.approx(np.subtract(*rows([LORA, FULL])).mean())
    for confidence in (0.9, 0.95, 0.99):
        interval, reference = found.estimate.interval(confidence), expected.confidence_interval(confidence)
        assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), rel=1e-9)
    assert found.estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.pairs == 7 and found.seeds == tuple(range(7)) and found.reason is None
    assert found.sd == pytest.approx(np.subtract(*rows([LORA, FULL])).std(ddof=1))


def test_six_differences_of_one_sign_have_two_of_the_64_patterns():
    found = sign_flip([0.1, 0.2, 0.3, 0.1, 0.2, 0.4], draw_seed=0)
    assert (found.p_value, found.exact) == (2 / 64, True)


def test_a_sign_flip_test_counts_every_pattern():
    differences = [0.5, -0.2, 0.3, 0.1, 0.4, -0.1, 0.2]
    means = [abs(np.mean(np.multiply(signs, differences))) for signs in itertools.product([1, -1], repeat=7)]
    expected = np.mean(np.array(means) >= abs(np.mean(differences)) - 1e-12)
    assert sign_flip(differences, draw_seed=0).p_value == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [6, 9, 13])
def test_all_patterns_give_what_the_general_permutation_test_gives(pairs):
    differences = np.random.default_rng(pairs).normal(0.3, 1, pairs)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert sign_flip(differences.tolist(), draw_seed=0).p_value == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.slow
def test_drawn_patterns_come_close_to_all_of_them():
    differences = np.random.default_rng(5).normal(0.4, 1, 18)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    ).pvalue
    found = sign_flip(differences.tolist(), draw_seed=3)
    # 10,000 draws: four standard deviations of a share.
    assert found.p_value == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 10_000))
    assert not found.exact


def test_five_pairs_have_no_sign_flip_test_since_it_could_never_speak():
    assert sign_flip([1.0, 1.0, 1.0, 1.0, 1.0], draw_seed=0) is None


def test_of_sixteen_pairs_patterns_are_drawn_from_the_seed_and_near_to_all_of_them():
    differences = np.random.default_rng(0).normal(0.4, 1, 16).tolist()
    one, same, other = (sign_flip(differences, draw_seed=seed) for seed in (1, 1, 2))
    assert one == same and one != other and not one.exact
    signs = np.array(list(itertools.product([1, -1], repeat=16)))
    exact = np.mean(abs(signs @ differences) >= abs(np.sum(differences)) - 1e-12)
    # Three standard errors of a share of 10,000 draws.
    assert one.p_value == pytest.approx(exact, abs=3 * math.sqrt(exact / 10_000))


def test_of_different_seed_lists_those_in_both_make_the_pairs():
    found = compare({1: 0.8, 2: 0.9, 3: 0.7, 4: 0.8}, {3: 0.6, 2: 0.7, 7: 0.5, 4: 0.9})
    assert found.seeds == (2, 3, 4)
    assert found.differences == pytest.approx((0.2, 0.1, -0.1))


def test_no_common_seed_is_an_error_that_names_both_lists():
    with pytest.raises(LoraBenchError, match=r"no seed is in both: \[0, 1\] and \[2, 3\]"):
        compare({0: 0.5, 1: 0.6}, {2: 0.5, 3: 0.6})


def test_one_pair_gives_a_difference_and_no_more():
    found = compare({0: 0.9}, {0: 0.8})
    assert found.estimate.value == pytest.approx(0.1) and found.estimate.interval() is None
    assert (found.sd, found.sign_flip) == (None, None)
    assert found.reason == "one pair of seeds has no spread"


def test_differences_that_are_all_the_same_claim_no_certainty():
    # 0.3 − 0.2 and 0.2 − 0.1 differ in their last bit.
    found = compare({0: 0.3, 1: 0.2, 2: 0.9}, {0: 0.2, 1: 0.1, 2: 0.8})
    assert found.estimate.interval() is None and found.estimate.p_value() is None
    assert found.reason == "all 3 differences are the same, which tells nothing of how far others would lie"


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_refused_with_its_seed(bad):
    with pytest.raises(LoraBenchError, match=r"the score of seed 2 is (nan|-inf); expected a finite number"):
        compare({1: 0.5, 2: bad}, {1: 0.5, 2: 0.6})


def test_items_widen_the_interval_and_say_so():
    generator = np.random.default_rng(0)
    # The second method is worse on some items at every seed: its scores hardly move with the seed and much with the items.
    first = np.ones((5, 50))
    second = np.tile((np.arange(50) % 5 > 0) * 1.0, (5, 1))
    second[:, 0] = generator.random(5) < 0.5
    second[0, 0], second[1, 0] = 0, 1
    scores = [dict(enumerate(method.mean(axis=1).tolist())) for method in (first, second)]
    items = tuple(ItemScores(tuple(range(5)), method) for method in (first, second))
    without, found = compare(*scores), compare(*scores, items=items)
    assert without.estimate.interval().source == "t" and found.estimate.interval().source == "bootstrap"
    assert found.estimate.interval().high > 2 * without.estimate.interval().high - without.estimate.value
    assert found.estimate.p_value() > without.estimate.p_value()
    assert found.estimate.value == without.estimate.value


def test_items_that_are_not_those_of_the_scores_are_refused():
    items = ItemScores((0, 1, 2), np.eye(3))
    with pytest.raises(LoraBenchError, match=r"the items of seed 1 give 0\.333333 and its score is 0\.5"):
        compare({0: 1 / 3, 1: 0.5, 2: 1 / 3}, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, items=(items, items))
    other = ItemScores((0, 1, 2), np.full((3, 4), 1 / 3))
    thirds = dict.fromkeys(range(3), 1 / 3)
    with pytest.raises(LoraBenchError, match="scored on 3 items and the second on 4"):
        compare(thirds, thirds, items=(items, other))
    with pytest.raises(LoraBenchError, match="no items of seed 3"):
        compare({3: 1 / 3}, {3: 1 / 3}, items=(items, items))


scores = st.dictionaries(st.integers(0, 30), st.integers(0, 1000), min_size=3, max_size=8)


@given(scores, st.data())
def test_swapping_shifting_scaling_and_reordering(first, data):
    second = {seed: data.draw(st.integers(0, 1000)) for seed in first}
    order = data.draw(st.permutations(list(first)))
    here = compare(first, second)
    assert compare({seed: first[seed] for seed in order}, second) == here

    swapped = compare(second, first)
    assert swapped.differences == tuple(-difference for difference in here.differences)
    assert swapped.estimate.p_value() == pytest.approx(here.estimate.p_value())

    moved = compare({s: 3 * v + 7 for s, v in first.items()}, {s: 3 * v + 7 for s, v in second.items()})
    assert moved.estimate.value == pytest.approx(3 * here.estimate.value)
    assert moved.estimate.p_value() == pytest.approx(here.estimate.p_value())
    if here.sign_flip is not None:
        assert moved.sign_flip.p_value == here.sign_flip.p_value == swapped.sign_flip.p_value
    if here.estimate.interval() is not None:
        assert moved.estimate.interval().high == pytest.approx(3 * here.estimate.interval().high)
        assert swapped.estimate.interval().low == pytest.approx(-here.estimate.interval().high)


def test_many_methods_at_once_have_the_p_values_of_one_pair_at_a_time():
    scores = np.random.default_rng(0).normal(0.7, 0.02, (5, 8))
    scores[1] = scores[0] + 0.1  # the same difference at each seed
    mean, p_value = paired_p(scores[0], scores[1:])
    assert mean == pytest.approx(scores[0].mean() - scores[1:].mean(axis=1))
    assert np.isnan(p_value[0])
    assert p_value[1:] == pytest.approx([stats.ttest_rel(scores[0], row).pvalue for row in scores[2:]])
    assert paired_p(scores[0], scores[1:], 0.5)[1][1:] == pytest.approx(np.minimum(1.0, 2 * p_value[1:]))
