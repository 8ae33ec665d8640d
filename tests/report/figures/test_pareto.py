"""The Pareto front, worked out by hand: what no other row beats in both score and cost."""

import pytest

from lora_bench.records.budget import Budget
from lora_bench.report.figures.plan import costs_of, front_of, pareto_front, several_bases
from lora_bench.report.model.comparison import compare
from tests.sample_records import ENVIRONMENT, METHODS, record


def front(*points, higher_is_better=True):
    return pareto_front(points, higher_is_better=higher_is_better)


def test_a_row_that_costs_more_and_scores_less_is_not_on_the_front():
    # b is dearer than a and worse; c is dearer and better.
    assert front((1.0, 0.7), (2.0, 0.6), (3.0, 0.8)) == [0, 2]


def test_the_front_is_in_the_order_of_costs_whatever_that_of_the_points():
    assert front((3.0, 0.9), (1.0, 0.7), (2.0, 0.8)) == [1, 2, 0]


def test_where_lower_is_better_the_front_falls():
    # A perplexity: 20 for 1, 25 for 2 (worse and dearer), 18 for 3.
    assert front((1.0, 20.0), (2.0, 25.0), (3.0, 18.0), higher_is_better=False) == [0, 2]


def test_the_cheapest_is_on_the_front_however_bad():
    assert front((1.0, 0.1), (2.0, 0.9)) == [0, 1]


def test_at_the_same_cost_only_the_best_stays():
    assert front((1.0, 0.7), (1.0, 0.8), (1.0, 0.6)) == [1]


def test_at_the_same_score_only_the_cheapest_stays():
    assert front((2.0, 0.7), (1.0, 0.7), (3.0, 0.7)) == [1]


def test_equal_points_do_not_dominate_each_other():
    assert front((1.0, 0.7), (1.0, 0.7), (2.0, 0.7)) == [0, 1]


def test_points_without_a_score_or_a_cost_are_left_out():
    assert front((None, 0.99), (0.5, None), (None, None), (1.0, 0.7)) == [3]
    assert front() == front((None, 0.5)) == []


def test_a_cost_of_zero_is_a_cost_and_a_score_of_zero_a_score():
    assert front((0.0, 0.0), (1.0, -1.0), (2.0, 0.5)) == [0, 2]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_front_is_what_its_definition_says(higher_is_better):
    # Every pair of a small grid, against the definition: nothing is at least as good in both and better in one.
    points = [((7 * i) % 5, (3 * i * i) % 7) for i in range(12)]
    sign = 1 if higher_is_better else -1

    def dominates(one, other):
        return one[0] <= other[0] and sign * one[1] >= sign * other[1] and one != other

    expected = {i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)}
    assert set(front(*points, higher_is_better=higher_is_better)) == expected


# Of rows.


def of(records):
    """The first base model's rows and the costs of its setting, by their labels."""
    comparison = compare(records)
    (setting,) = comparison.settings
    return setting.tables[0].rows, {cost.label: cost for cost in costs_of([setting], comparison.environments)}


MEMORY, STEP, ADAPTER = "peak memory above the start, MiB", "training step, ms", "adapter parameters"


def test_the_front_of_rows_is_of_their_means():
    rows, costs = of(
        [
            *(record("lora", seed=seed, score=score, step_seconds=0.05) for seed, score in enumerate((0.5, 0.9))),
            record("bottleneck_adapter", score=0.8, step_seconds=0.06),
            record("prefix_tuning", score=0.6, step_seconds=0.07),
            record("full", score=0.85, step_seconds=0.09),
        ]
    )
    # Means: lora 0.7 at 50 ms, bottleneck 0.8 at 60, prefix 0.6 at 70, full 0.85 at 90.
    assert [costs[STEP].of(row) for row in rows] == pytest.approx([90, 60, 50, 70])
    assert [row.label for row in front_of(rows, costs[STEP], True)] == ["lora", "bottleneck_adapter", "full"]


def test_one_row_is_no_front():
    rows, costs = of([record("lora", score=0.9, peak_mib=300), record("full", score=0.8, peak_mib=600)])
    assert front_of(rows, costs[MEMORY], True) == []


def test_without_a_direction_there_is_no_front():
    rows, costs = of([record("lora", score=0.7, peak_mib=300), record("full", score=0.8, peak_mib=600)])
    assert [row.label for row in front_of(rows, costs[MEMORY], True)] == ["lora", "full"]
    assert front_of(rows, costs[MEMORY], None) == []


# Nothing holds the counts of these equal.
FREE = Budget(train_examples=3_200)


def test_the_reference_has_no_place_among_the_parameters():
    rows, costs = of([record("full", budget=FREE), record("lora", budget=FREE)])
    assert [costs[ADAPTER].of(row) for row in rows] == [None, 7_680]


def test_parameters_are_those_that_the_target_is_for():
    budget = Budget(stored_parameters=100_000, train_examples=3_200)  # which the method misses
    rows, costs = of([record("lora", budget=budget)])
    assert next(iter(costs)) == "stored parameters"
    assert costs["stored parameters"].of(rows[0]) == 156_680


def test_a_row_without_parameters_has_none():
    none = METHODS["lora"].model_copy(update={"name": "of somebody", "label": "of somebody"})
    rows, costs = of([record(none), record("lora")])
    assert [costs[ADAPTER].of(row) for row in rows] == [7_680, None]


def test_measurements_of_two_machines_have_no_front_and_counts_have():
    other = ENVIRONMENT.model_copy(update={"cpu": "another"})
    rows, costs = of(
        [
            record("lora", score=0.7, peak_mib=300, budget=FREE),
            record("bottleneck_adapter", score=0.8, peak_mib=400, environment=other, budget=FREE),
        ]
    )
    assert [several_bases(rows, cost) for cost in costs.values()] == [False, True, True]
    assert front_of(rows, costs[MEMORY], True) == front_of(rows, costs[STEP], True) == []
    assert [row.label for row in front_of(rows, costs[ADAPTER], True)] == ["lora", "bottleneck_adapter"]


def test_what_no_row_has_is_no_cost():
    _, costs = of([record("full", step_seconds=None)])
    assert [*costs] == [MEMORY]
