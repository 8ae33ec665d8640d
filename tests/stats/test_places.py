"""The mean over tasks and base models, on numbers that a reader can check by hand."""

import math

import numpy as np
import pytest

from lora_bench.stats import ItemScores, crossed_bootstrap
from lora_bench.stats.estimate import student_quantile
from lora_bench.stats.places import PlaceDifference, over_places


def places(table, error=1e-9):
    """Places from rows of tasks, with a column a base model; None where a task lacks one."""
    return {
        (f"task-{task}", f"model-{model}"): PlaceDifference(value=value, error=error, freedom=4.0)
        for task, row in enumerate(table)
        for model, value in enumerate(row)
        if value is not None
    }


def test_on_one_base_model_it_is_the_t_interval_of_the_tasks():
    found = over_places(places([[1.0], [2.0], [6.0]]))
    # The mean is 3, the squares of the distances 4 + 1 + 9 = 14: a variance of 7, a standard error of √(7 / 3).
    half = student_quantile(2, 0.025) * math.sqrt(7 / 3)
    interval = found.estimate.interval()
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half))
    assert found.tasks == {"task-0": 1.0, "task-1": 2.0, "task-2": 6.0}
    assert found.task_sd == pytest.approx(math.sqrt(7))


def test_a_full_table_has_the_crossed_variance_worked_by_hand():
    # Rows have means 1, 3 and 8 of the mean 4, columns 3 and 5. The rest after both is ±1 in two rows and 0 in none:
    # 0 2 | 3 3 | 6 10 has the rests 0 0 | 1 −1 | −1 1.
    found = over_places(places([[0.0, 2.0], [3.0, 3.0], [6.0, 10.0]])).estimate
    tasks = (9 + 1 + 16) / 2 / 3  # A: the variance of the rows' means over 3
    models = (1 + 1) / 1 / 2  # B: that of the columns' over 2
    rest = 4 / 2 / 6  # E: 4 squares on 2 degrees of freedom, over 6 places
    variance = tasks + models - rest
    assert found.value == 4.0
    assert found.uncertainties[0].standard_error == pytest.approx(math.sqrt(variance))
    freedom = variance**2 / (tasks**2 / 2 + models**2 / 1 + rest**2 / 2)
    assert found.uncertainties[0].freedom == pytest.approx(freedom)


def test_a_full_table_agrees_with_the_crossed_bootstrap_of_seeds_and_items():
    values = np.random.default_rng(3).normal(0, 1, (5, 4)) + np.arange(5)[:, None] + np.arange(4)
    crossed = crossed_bootstrap(ItemScores(tuple(range(5)), values), draw_seed=0, draws=0)
    found = over_places(places(values.tolist())).estimate.uncertainties[0]
    assert (found.standard_error**2, found.freedom) == pytest.approx((crossed.variance, crossed.freedom))


def test_tasks_weigh_alike_however_many_base_models_they_have():
    found = over_places(places([[0.0, 2.0], [5.0, None], [6.0, None]]))
    assert found.estimate.value == pytest.approx((1 + 5 + 6) / 3)


def test_tasks_that_agree_are_no_surer_than_their_seeds_and_items():
    # Three errors of 0.6 give a mean with 0.6 / √3, on 3 · 4 degrees of freedom.
    found = over_places(places([[1.0], [1.0], [1.0]], error=0.6))
    (error,) = found.estimate.uncertainties
    assert (error.standard_error, error.freedom) == pytest.approx((0.6 / math.sqrt(3), 12.0))
    assert found.task_sd == 0.0


def test_base_models_of_one_task_share_its_items_so_their_errors_do_not_shrink():
    one, two = (over_places(places(table, error=0.6)) for table in ([[1.0], [1.0]], [[1.0, 1.0], [1.0, 1.0]]))
    assert one.estimate.uncertainties[0].standard_error == two.estimate.uncertainties[0].standard_error


def test_the_noise_of_seeds_and_items_is_no_spread_of_tasks():
    # The variance of 1 and 3 is 2, of which each error of 0.5 explains a quarter.
    assert over_places(places([[1.0], [3.0]], error=0.5)).task_sd == pytest.approx(math.sqrt(2 - 0.25))
