"""Differences over tasks: each task alike in its declared unit, seeds drawn for all tasks at once, items task by task."""

import numpy as np
import pytest
from scipy import stats

from lora_bench.errors import LoraBenchError
from lora_bench.stats import ItemMetric, ItemScores, macro_difference

TASKS, SEEDS = ("cola", "mrpc", "rte"), range(5)


def scores(seed, mean=0.8):
    generator = np.random.default_rng(seed)
    return {task: dict(zip(SEEDS, generator.normal(mean, 0.02, 5).tolist(), strict=True)) for task in TASKS}


FIRST, SECOND = scores(0, 0.82), scores(1)


def by_seed(first=FIRST, second=SECOND):
    return np.mean([[first[t][s] - second[t][s] for s in SEEDS] for t in TASKS], axis=0)


def test_the_macro_mean_and_its_interval_are_those_of_the_means_over_tasks():
    found = macro_difference(FIRST, SECOND, draw_seed=0)
    expected = stats.ttest_1samp(by_seed(), 0)
    assert found.differences == pytest.approx(by_seed())
    assert found.estimate.value == pytest.approx(by_seed().mean())
    assert found.estimate.p_value() == pytest.approx(expected.pvalue)
    reference = expected.confidence_interval()
    interval = found.estimate.interval()
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))
    assert (found.pairs, found.crossed) == (5, None)
    for task in TASKS:
        assert found.tasks[task] == pytest.approx(np.mean([FIRST[task][s] - SECOND[task][s] for s in SEEDS]))


def test_seeds_that_some_task_lacks_are_left_out():
    first = {**FIRST, "rte": {s: FIRST["rte"][s] for s in (0, 1, 2, 3)} | {9: 0.8}}
    found = macro_difference(first, SECOND, draw_seed=0)
    assert found.seeds == (0, 1, 2, 3)
    assert found.differences == pytest.approx(by_seed()[:4])


def item_scores(seed, sizes=(40, 60, 80)):
    generator = np.random.default_rng(seed)
    return {task: (generator.random((5, n)) < 0.8) * 1.0 for task, n in zip(TASKS, sizes, strict=True)}


def as_items(values):
    return {task: ItemScores(tuple(SEEDS), one) for task, one in values.items()}


def as_scores(values):
    return {task: dict(zip(SEEDS, one.mean(axis=1).tolist(), strict=True)) for task, one in values.items()}


def test_the_items_of_each_task_are_drawn_on_their_own():
    first, second = item_scores(2), item_scores(3)
    items = {task: (as_items(first)[task], as_items(second)[task]) for task in TASKS}
    found = macro_difference(as_scores(first), as_scores(second), items=items, draw_seed=0).crossed
    # By hand: a third of each task's difference; seeds together, items of each task.
    parts = [(first[task] - second[task]) / 3 for task in TASKS]
    alone = sum(part.mean(axis=1) for part in parts)
    assert found.seed_variance == pytest.approx(alone.var(ddof=1) / 5)
    n = 180
    assert found.item_variance == pytest.approx(n / (n - 1) * sum(p.mean(axis=0).var() / p.shape[1] for p in parts))
    assert found.items == n
    generator = np.random.default_rng(4)
    means = []
    for _ in range(4000):
        seeds = generator.integers(5, size=5)
        means.append(sum(p[np.ix_(seeds, generator.integers(p.shape[1], size=p.shape[1]))].mean() for p in parts))
    # The variance of those draws is the sum of the three parts before each is made unbiased.
    seed, item = found.seed_variance * 4 / 5, found.item_variance * (n - 1) / n
    assert np.var(means) == pytest.approx(seed + item + found.shared_variance * 4 / 5 * (n - 1) / n, rel=0.08)


def test_metrics_that_are_no_means_are_drawn():
    first, second = item_scores(2), item_scores(3)

    def metrics(values):
        return {
            task: ItemMetric(tuple(SEEDS), one.shape[1], lambda weights, one=one: weights @ one.T / one.shape[1])
            for task, one in values.items()
        }

    drawn_items = {task: (metrics(first)[task], metrics(second)[task]) for task in TASKS}
    exact_items = {task: (as_items(first)[task], as_items(second)[task]) for task in TASKS}
    pair = as_scores(first), as_scores(second)
    drawn = macro_difference(*pair, items=drawn_items, draw_seed=0).crossed
    exact = macro_difference(*pair, items=exact_items, draw_seed=0).crossed
    assert drawn.item_variance == pytest.approx(exact.item_variance, rel=0.05)
    assert drawn.shared_variance == pytest.approx(exact.shared_variance, rel=0.05)


def test_tasks_without_items_stay_in_the_mean():
    first, second = item_scores(2), item_scores(3)
    pair = as_scores(first), as_scores(second)
    items = {"cola": (as_items(first)["cola"], as_items(second)["cola"])}
    found = macro_difference(*pair, items=items, draw_seed=0)
    assert found.estimate.value == pytest.approx(macro_difference(*pair, draw_seed=0).estimate.value)
    assert found.crossed.seed_variance == pytest.approx(np.var(found.differences, ddof=1) / 5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(LoraBenchError, match="expected the same"):
        macro_difference(FIRST, {"cola": SECOND["cola"]}, draw_seed=0)
    with pytest.raises(LoraBenchError, match="no seed is in every task"):
        macro_difference(FIRST, {**SECOND, "rte": {7: 0.5}}, draw_seed=0)
