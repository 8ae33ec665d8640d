"""The crossed bootstrap, held to an analysis of variance, to its own closed form, and to a slow one written out."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from lora_bench.errors import LoraBenchError
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.stats import (
    ItemMetric,
    ItemScores,
    crossed_bootstrap,
    in_groups,
    item_difference,
    paired_difference,
    seed_from,
)
from lora_bench.stats.items import interval_of_mean

SEEDS, ITEMS = 4, 30


def scores(generator, seeds=SEEDS, items=ITEMS):
    """Per-item scores with a part of the seed, a part of the item and a part of both."""
    return (
        0.7
        + generator.normal(0, 0.15, (seeds, 1))
        + generator.normal(0, 0.3, (1, items))
        + generator.normal(0, 0.2, (seeds, items))
    )


def scored(values):
    return ItemScores(tuple(range(len(values))), values)


@pytest.fixture(scope="module")
def values():
    return scores(np.random.default_rng(0))


@pytest.fixture(scope="module")
def found(values):
    return crossed_bootstrap(scored(values), draw_seed=1)


def test_the_parts_are_the_mean_squares_of_an_analysis_of_variance(values, found):
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    table = pd.DataFrame(
        [(seed, item, values[seed, item]) for seed in range(SEEDS) for item in range(ITEMS)],
        columns=["seed", "item", "score"],
    )
    squares = anova_lm(ols("score ~ C(seed) + C(item)", table).fit())["mean_sq"] / (SEEDS * ITEMS)
    assert found.seed_variance == pytest.approx(squares["C(seed)"])
    assert found.item_variance == pytest.approx(squares["C(item)"])
    assert found.shared_variance == pytest.approx(squares["Residual"])
    a, b, e = squares
    assert found.variance == pytest.approx(a + b - e)
    satterthwaite = (a + b - e) ** 2 / (a**2 / 3 + b**2 / 29 + e**2 / (3 * 29))
    assert found.freedom == pytest.approx(satterthwaite)


def test_the_seeds_part_is_the_squared_error_of_the_t_interval(values, found):
    assert found.seed_variance == pytest.approx(stats.sem(values.mean(axis=1)) ** 2)


def test_the_variance_is_unbiased():
    # Of seeds, items and both: .15² / 4 + .3² / 30 + .2² / 120.
    truth = 0.15**2 / SEEDS + 0.3**2 / ITEMS + 0.2**2 / (SEEDS * ITEMS)
    generator = np.random.default_rng(2)
    parts = [crossed_bootstrap(scored(scores(generator)), draw_seed=0, draws=0) for _ in range(1000)]
    estimates = [one.seed_variance + one.item_variance - one.shared_variance for one in parts]
    assert np.mean(estimates) == pytest.approx(truth, abs=3 * np.std(estimates) / np.sqrt(1000))


def test_the_parts_are_those_of_a_bootstrap_written_out(values, found):
    generator = np.random.default_rng(3)
    means = [
        values[np.ix_(generator.integers(SEEDS, size=SEEDS), generator.integers(ITEMS, size=ITEMS))].mean()
        for _ in range(10_000)
    ]
    # The variance of those draws is the sum of the three parts before each is made unbiased.
    biased = found.seed_variance * 3 / 4 + found.item_variance * 29 / 30 + found.shared_variance * 3 / 4 * 29 / 30
    assert np.var(means) == pytest.approx(biased, rel=0.06)


def test_a_mean_given_as_any_metric_comes_to_the_same_by_drawing(values, found):
    metric = ItemMetric(tuple(range(SEEDS)), ITEMS, lambda weights: weights @ values.T / ITEMS)
    drawn = crossed_bootstrap(metric, draw_seed=1, draws=20_000)
    assert drawn.seed_variance == pytest.approx(found.seed_variance)
    # Variances of 20,000 draws have an error of one in a hundred.
    assert drawn.item_variance == pytest.approx(found.item_variance, rel=0.04)
    assert drawn.shared_variance == pytest.approx(found.shared_variance, rel=0.04)
    assert drawn.freedom == pytest.approx(found.freedom, rel=0.1)


def test_a_difference_is_drawn_on_the_same_items():
    generator = np.random.default_rng(4)
    first = scores(generator)
    second = first - 0.1  # on every item
    difference = item_difference(scored(first), scored(second), range(SEEDS))
    assert crossed_bootstrap(difference, draw_seed=0).variance == pytest.approx(0, abs=1e-30)
    assert difference.drawn(np.random.default_rng(0), 500) == pytest.approx(np.full((500, SEEDS), 0.1))


def test_a_difference_of_means_is_the_mean_of_differences(values):
    second = scores(np.random.default_rng(5))
    difference, whole = item_difference(scored(values), scored(second), range(SEEDS)), scored(values - second)
    one, other = crossed_bootstrap(difference, draw_seed=6), crossed_bootstrap(whole, draw_seed=6)
    assert one.variance == pytest.approx(other.variance) and one.freedom == pytest.approx(other.freedom)
    of_difference, of_whole = (each.drawn(np.random.default_rng(6), 50) for each in (difference, whole))
    assert of_difference == pytest.approx(of_whole)


def test_a_difference_of_matthews_correlations_is_that_of_simulated_experiments():
    # Experiments with new seeds and new items: the mean of the variances claimed is the variance seen.
    generator = np.random.default_rng(7)
    seeds, items = 5, 300
    claimed, seen = [], []
    for _ in range(150):
        right = generator.integers(2, size=items)
        hard = generator.normal(1.5, 1.5, items)
        methods = []
        for _ in range(2):
            ability = hard + generator.normal(0, 1.0, items)
            given = {
                seed: np.where(
                    generator.random(items) < 1 / (1 + np.exp(-ability - generator.normal(0, 0.2))), right, 1 - right
                )
                for seed in range(seeds)
            }
            methods.append(item_metric("matthews_correlation", right, given))
        difference = item_difference(*methods, range(seeds))
        claimed.append(crossed_bootstrap(difference, draw_seed=0, draws=200).variance)
        seen.append(difference.scores().mean())
    # A variance of 150 values has an error of 11 %.
    assert np.mean(claimed) == pytest.approx(np.var(seen), rel=0.33)


def test_draws_follow_from_their_seed_and_the_seed_from_names_in_any_order(values):
    metric = ItemMetric(tuple(range(SEEDS)), ITEMS, lambda weights: weights @ values.T / ITEMS)
    first, again, other = (crossed_bootstrap(metric, draw_seed=seed, draws=100) for seed in (1, 1, 2))
    assert first == again and first.item_variance != other.item_variance
    assert seed_from("a", "b") == seed_from("b", "a") != seed_from("a", "c")


def test_the_order_of_seeds_and_of_items_changes_no_variance(values, found):
    generator = np.random.default_rng(8)
    other = values[generator.permutation(SEEDS)][:, generator.permutation(ITEMS)]
    again = crossed_bootstrap(scored(other), draw_seed=1)
    assert again.variance == pytest.approx(found.variance) and again.freedom == pytest.approx(found.freedom)


def test_shift_and_scale(values, found):
    again = crossed_bootstrap(scored(5 + 2 * values), draw_seed=1)
    assert again.variance == pytest.approx(4 * found.variance) and again.freedom == pytest.approx(found.freedom)


def test_seeds_that_agree_leave_the_interval_of_the_items():
    items = np.random.default_rng(9).random(ITEMS)
    found = crossed_bootstrap(scored(np.tile(items, (SEEDS, 1))), draw_seed=0)
    assert found.variance == pytest.approx(stats.sem(items) ** 2)
    assert found.freedom == pytest.approx(ITEMS - 1)


def test_items_that_agree_leave_the_interval_of_the_seeds():
    seeds = np.random.default_rng(10).random(SEEDS)
    found = crossed_bootstrap(scored(np.tile(seeds[:, None], (1, ITEMS))), draw_seed=0)
    assert found.variance == pytest.approx(stats.sem(seeds) ** 2)
    assert found.freedom == pytest.approx(SEEDS - 1)


# Items that belong together.

COPIES = np.tile(np.arange(ITEMS), 3)


def test_copies_of_every_item_leave_the_interval_of_the_distinct_ones(values):
    other = scores(np.random.default_rng(11))

    def difference(groups, *methods):
        by_seed = [dict(enumerate(one.mean(axis=1).tolist())) for one in methods]
        items = tuple(in_groups(scored(one), groups) for one in methods)
        return paired_difference(*by_seed, draw_seed=0, items=items, draws=0)

    distinct = difference(None, values, other)
    copied = difference(COPIES, values[:, COPIES], other[:, COPIES])
    assert copied.crossed.items == distinct.crossed.items == ITEMS
    for number in ("seed_variance", "item_variance", "shared_variance", "variance", "freedom"):
        assert getattr(copied.crossed, number) == pytest.approx(getattr(distinct.crossed, number))
    interval, of_copies = distinct.estimate.interval(), copied.estimate.interval()
    assert (of_copies.low, of_copies.high) == pytest.approx((interval.low, interval.high))
    narrow = difference(None, values[:, COPIES], other[:, COPIES]).crossed
    assert narrow.item_variance == pytest.approx(distinct.crossed.item_variance / 3, rel=0.03)


def test_groups_of_any_size_give_the_cluster_robust_error_of_a_regression():
    import statsmodels.api as sm

    generator = np.random.default_rng(12)
    groups = generator.integers(40, size=200)
    items = generator.normal(0, 1, 40)[groups] + generator.normal(0, 1, 200)
    found = crossed_bootstrap(in_groups(scored(np.tile(items, (SEEDS, 1))), groups), draw_seed=0, draws=0)
    fit = sm.OLS(items, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert found.variance == pytest.approx(fit.bse[0] ** 2)
    assert found.items == len(set(groups)) and found.freedom == pytest.approx(found.items - 1)


def test_a_metric_that_is_no_mean_is_drawn_by_group(values):
    generator = np.random.default_rng(13)
    groups = generator.integers(12, size=ITEMS)
    closed = crossed_bootstrap(in_groups(scored(values), groups), draw_seed=0, draws=0)
    mean = ItemMetric(tuple(range(SEEDS)), ITEMS, lambda weights: weights @ values.T / weights.sum(axis=1)[:, None])
    drawn = crossed_bootstrap(in_groups(mean, groups), draw_seed=1, draws=20_000)
    assert drawn.items == closed.items == len(set(groups))
    # The closed form is of the first order: groups of two or three items differ in size by a third.
    assert drawn.item_variance == pytest.approx(closed.item_variance, rel=0.15)
    assert drawn.shared_variance == pytest.approx(closed.shared_variance, rel=0.15)


def test_copies_of_every_item_leave_the_interval_of_a_correlation():
    generator = np.random.default_rng(14)
    right = generator.integers(2, size=150)
    given = {seed: np.where(generator.random(150) < 0.8, right, 1 - right) for seed in range(SEEDS)}
    twice = np.repeat(np.arange(150), 2)
    distinct = crossed_bootstrap(item_metric("matthews_correlation", right, given), draw_seed=0, draws=4000)
    copies = item_metric("matthews_correlation", right[twice], {seed: one[twice] for seed, one in given.items()})
    copied = crossed_bootstrap(in_groups(copies, twice), draw_seed=0, draws=4000)
    assert copied.variance == pytest.approx(distinct.variance) and copied.freedom == pytest.approx(distinct.freedom)


def test_groups_fit_the_items_and_are_the_same_for_both_methods(values):
    with pytest.raises(LoraBenchError, match="3 groups for 30 items"):
        in_groups(scored(values), [0, 0, 1])
    pairs = in_groups(scored(values), np.arange(ITEMS) // 2)
    with pytest.raises(LoraBenchError, match="different groups"):
        item_difference(pairs, in_groups(scored(values), np.arange(ITEMS) // 3), range(SEEDS))
    # Runs from before groups were recorded have none: the others' are taken.
    found = [item_difference(*sides, range(SEEDS)) for sides in ((pairs, scored(values)), (scored(values), pairs))]
    assert [one.independent for one in found] == [15, 15]


@pytest.mark.parametrize("shape", [(1, 30), (4, 1)])
def test_one_seed_or_one_item_has_no_bootstrap(shape):
    assert crossed_bootstrap(scored(np.random.default_rng(0).random(shape)), draw_seed=0) is None


def test_a_metric_that_is_often_undefined_has_none():
    # One item of four is of the second class: almost a third of the resamples lack it.
    scored = item_metric("f1", [0, 0, 0, 1], {0: [0, 0, 0, 1], 1: [0, 0, 0, 1]})
    assert crossed_bootstrap(scored, draw_seed=0) is None


def test_few_resamples_on_which_a_metric_is_undefined_are_left_out():
    # (4/5)^25 of the resamples, 4 in a thousand, lack the five items of the second class; F1 is 1 on all others.
    right = [1] * 5 + [0] * 20
    metric = item_metric("f1", right, {0: right, 1: right})
    assert 10 < np.isnan(metric.drawn(np.random.default_rng(0), 10_000)[:, 0]).sum() < 80
    assert crossed_bootstrap(metric, draw_seed=0).variance == 0


def test_no_draws_are_enough_for_a_mean_and_for_nothing_else(values, found):
    exact = crossed_bootstrap(scored(values), draw_seed=1, draws=0)
    assert exact == found
    with pytest.raises(LoraBenchError, match="draws is 0"):
        crossed_bootstrap(item_metric("f1", [0, 1], {0: [0, 1], 1: [1, 1]}), draw_seed=0, draws=0)


def test_ten_seeds_of_two_thousand_items_take_little_memory():
    values = np.random.default_rng(0).random((10, 2000))
    metric = ItemMetric(tuple(range(10)), 2000, lambda weights: weights @ values.T / 2000)
    tracemalloc.start()
    found = crossed_bootstrap(metric, draw_seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.items == 2000 and peak < 100 * 2**20


def test_the_interval_of_a_mean_over_other_items_is_that_of_a_share():
    right = np.repeat([1.0, 0.0], [320, 80])
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert interval_of_mean(ItemScores((0,), right[None])) == pytest.approx((0.8 - half, 0.8 + half), abs=0.005)
    # Of seeds that err on the same items the mean errs as one of them.
    assert interval_of_mean(ItemScores((0, 1), np.stack([right, right]))) == pytest.approx(
        (0.8 - half, 0.8 + half), abs=0.005
    )
    undefined = item_metric("pearson", [1.0] * 20, {0: [float(item) for item in range(20)]})
    assert interval_of_mean(undefined) is None
