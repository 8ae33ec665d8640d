"""Seeds that test a fold of the rows each: the larger error of folds and items, and overlapping training rows."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import folds_coverage as simulation
from lora_bench.errors import LoraBenchError
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.stats import (
    ItemScores,
    crossed_bootstrap,
    in_groups,
    item_difference,
    judge,
    paired_difference,
    summarise,
)
from lora_bench.stats.items import FoldItems

SEEDS, ITEMS, OVERLAP = 5, 40, 0.25


def folds(values):
    """Scores of seeds with items of their own, one row each."""
    return FoldItems(tuple(ItemScores((seed,), row[None]) for seed, row in enumerate(values)))


@pytest.fixture(scope="module")
def values():
    generator = np.random.default_rng(0)
    return [0.7 + generator.normal(0, 0.3, ITEMS + 2 * seed) for seed in range(SEEDS)]


def test_the_items_of_all_folds_give_the_error_of_the_mean(values):
    found = crossed_bootstrap(folds(values), draw_seed=0, draws=0)
    of_items = sum(row.var(ddof=1) / len(row) for row in values) / SEEDS**2
    assert found.items == sum(map(len, values)) and found.seeds == SEEDS
    assert found.item_variance == pytest.approx(of_items)
    assert found.shared_variance == pytest.approx(found.item_variance)
    assert found.variance == max(found.seed_variance, found.item_variance)
    metric = FoldItems(
        tuple(item_metric("mae", np.zeros(len(row)), {seed: np.abs(row)}) for seed, row in enumerate(values))
    )
    assert metric.parts() is not None  # so nothing is drawn


def test_where_items_are_not_known_overlapping_training_rows_widen_the_interval(values):
    other = [row + 0.05 + 0.01 * seed for seed, row in enumerate(values)]
    scores = [{seed: row.mean() for seed, row in enumerate(one)} for one in (other, values)]
    differences = [0.05 + 0.01 * seed for seed in range(SEEDS)]
    alone = paired_difference(*scores, draw_seed=0, overlap=OVERLAP).estimate
    (error,) = alone.uncertainties
    assert error.standard_error == pytest.approx(stats.sem(differences) * np.sqrt(1 + OVERLAP))
    both = paired_difference(
        *scores, draw_seed=0, items=(folds(other), folds(values)), draws=0, overlap=OVERLAP
    ).estimate
    assert both.uncertainties[0].standard_error == pytest.approx(stats.sem(differences))
    assert both.overlap == alone.overlap == OVERLAP
    narrow, wide = (summarise([*scores[1].values()], overlap=overlap).interval for overlap in (0.0, OVERLAP))
    assert wide.high - wide.low == pytest.approx((narrow.high - narrow.low) * np.sqrt(1 + OVERLAP))


def test_no_number_of_further_seeds_is_named_as_all_folds_are_tested(values):
    noise = np.random.default_rng(1).normal(0, 0.3, SEEDS)
    scores = [{seed: row.mean() for seed, row in enumerate(values)}]
    scores.insert(0, {seed: value + noise[seed] for seed, value in scores[0].items()})
    for overlap in (0.0, OVERLAP):
        verdict = judge({"other": paired_difference(*scores, draw_seed=0, overlap=overlap)}, margin=0.2)["other"]
        assert verdict.verdict == "inconclusive" and (verdict.needed is None) == bool(overlap)


def test_methods_are_compared_on_the_folds_that_both_tested(values):
    first, second = folds(values), folds([row - 0.1 for row in values])
    difference = item_difference(first, second, [1, 3])
    assert difference.scores() == pytest.approx([0.1, 0.1])
    assert difference.items == len(values[1]) + len(values[3])
    with pytest.raises(LoraBenchError, match="no items of seed 9"):
        item_difference(first, second, [9])
    with pytest.raises(LoraBenchError, match="expected the same items"):
        item_difference(first, folds([row[1:] for row in values]), [0])


def test_groups_of_a_fold_are_drawn_whole(values):
    """Each row stands twice, which is no more than once."""
    once = crossed_bootstrap(folds(values), draw_seed=0, draws=0)
    twice = FoldItems(
        tuple(
            in_groups(ItemScores((seed,), np.repeat(row, 2)[None]), np.repeat(np.arange(len(row)), 2).tolist())
            for seed, row in enumerate(values)
        )
    )
    assert twice.independent == folds(values).items and len(set(twice.groups.tolist())) == twice.independent
    assert crossed_bootstrap(twice, draw_seed=0, draws=0).item_variance == pytest.approx(once.item_variance)


def test_a_metric_that_is_no_mean_is_drawn_fold_by_fold():
    generator = np.random.default_rng(2)
    right = [generator.integers(2, size=60) for _ in range(SEEDS)]
    said = [[np.where(generator.random(60) < share, one, 1 - one) for one in right] for share in (0.9, 0.8)]
    first, second = (
        FoldItems(
            tuple(
                item_metric("f1", one.tolist(), {seed: answers.tolist()})
                for seed, (one, answers) in enumerate(zip(right, of_method, strict=True))
            )
        )
        for of_method in said
    )
    assert first.parts() is None
    difference = item_difference(first, second, range(SEEDS))
    assert difference.scores() == pytest.approx(first.scores() - second.scores())
    found = crossed_bootstrap(difference, draw_seed=0, draws=2_000)
    of_items = np.mean([part.drawn(generator, 2_000).var() for part in first.of_seeds]) / SEEDS
    assert of_items < found.item_variance < 6 * of_items
    assert found.shared_variance == pytest.approx(found.item_variance, rel=0.2)


def test_simulated_experiments_have_the_intervals_of_the_package():
    design = simulation.Design("5 folds", SEEDS, 5)
    drawn = np.random.default_rng(3).normal(0.02, 0.3, (10, SEEDS, ITEMS)) + np.random.default_rng(4).normal(
        0, 0.05, (10, SEEDS, 1)
    )
    halves = simulation.halves(drawn, design)["reported"]
    for half, rows in zip(halves, drawn, strict=True):
        scores, zero = dict(enumerate(rows.mean(axis=1))), dict.fromkeys(range(SEEDS), 0.0)
        items = folds(rows), folds(np.zeros_like(rows))
        found = paired_difference(scores, zero, draw_seed=0, items=items, draws=0, overlap=design.overlap)
        interval = found.estimate.interval()
        assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.001)


def test_tables_with_a_distance_each_are_those_of_one_distance():
    world, labels = (
        simulation.World(100, 10, seed=0.3),
        np.where(np.random.default_rng(5).random((3, 100)) < 0.5, 1.0, -1.0),
    )
    one, each = (
        simulation.Table(world, labels, apart, np.random.default_rng(6)).runs(simulation.DESIGNS[0], np.full(3, 3.0))
        for apart in (1.25, np.array([1.25, 2.0, 1.25]))
    )
    for part in ("scores", "truth"):
        first, second = getattr(one, part), getattr(each, part)
        assert second[::2] == pytest.approx(first[::2]) and second[1].mean() > first[1].mean()


def test_reported_intervals_of_folds_cover():
    """The margin of error of 400 experiments is .02."""
    found = simulation.coverage(simulation.World(100, 10), simulation.DESIGNS[0], 400)
    assert found.models["reported"] > 0.93 and found.tables["reported"] > 0.93 and found.score["alone"] > 0.92
    assert found.found["items"] > found.found["reported"] > found.found["Nadeau"]


@pytest.mark.slow
def test_the_script_prints_a_row_for_each_design(capsys):
    simulation.main(["--quick"])
    printed = capsys.readouterr().out
    assert all(f"| {design.name} |" in printed for design in simulation.DESIGNS)
