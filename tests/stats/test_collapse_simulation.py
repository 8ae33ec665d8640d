"""What verdicts promise where runs collapse, come in two kinds or are skewed, on simulated scores; all of them seeded."""

import math
import re

import numpy as np
import pytest

from benchmarks import statistics_collapse as simulation
from lora_bench.stats import judge, paired_difference
from tests.stats.test_simulations import stated

COUNT = 1500


def allowed(count):
    """The level, and two standard errors of a share of *count*."""
    return 0.05 + 2 * math.sqrt(0.05 * 0.95 / count)


def judged(scores, margin):
    """The verdicts of the package on every family, one after another."""
    for methods, reference in zip(scores.methods, scores.reference, strict=True):
        family = {
            (method, task): paired_difference(
                dict(enumerate(methods[method, task].tolist())),
                dict(enumerate(reference[0, task].tolist())),
                draw_seed=0,
            )
            for method in range(methods.shape[0])
            for task in range(methods.shape[1])
        }
        yield [*judge(family, margin=margin, power=None, fewest=3).values()]


@pytest.mark.parametrize(
    ("world", "seeds"), [(simulation.ALIKE[2], 3), (simulation.ALIKE[6], 5), (simulation.NORMAL, 3)]
)
def test_simulated_differences_are_those_of_the_package(world, seeds):
    generator = np.random.default_rng(0)
    # A difference in every second family, so that there is something to be called.
    methods, reference = world.draw(generator, (40, 3, 2, seeds)), world.draw(generator, (40, 1, 2, seeds))
    methods[::2, 0, 0] += 60
    scores = simulation.Scores(methods, reference)
    (_, called), apart = simulation.differ(scores), scores.apart()[:, 0]
    assert 0 < called.sum() < len(called)
    for index, verdicts in enumerate(judged(scores, None)):
        assert {one.apart for one in verdicts} == {bool(apart[index])}
        assert any(one.verdict in ("better", "worse") for one in verdicts) == called[index]


@pytest.mark.parametrize("world", [simulation.ONE_OF_TWO[2], simulation.NORMAL], ids=lambda world: world.name)
def test_simulated_claims_of_a_margin_are_those_of_the_package(world):
    generator = np.random.default_rng(1)
    methods = world.draw(generator, (40, 1, 1, 29)) + world.below - 1
    scores = simulation.Scores(methods, simulation.normal(generator, (40, 1, 1, 29)))
    _, called = simulation.within(scores, 2.0, simulation.ALPHA)
    assert called.sum() > 0
    for index, (verdict,) in enumerate(judged(scores, 2.0)):
        above = verdict.noninferiority_p is not None and verdict.noninferiority_p <= simulation.ALPHA
        assert above == called[index, 0]


@pytest.mark.slow
def test_the_script_prints_the_tables_of_the_page(capsys):
    simulation.main(["--quick"])
    printed = re.findall(r"^\| ([^|]+) \|.*\n\| ---", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(printed) == 5
    for heading in printed:
        assert stated(heading)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("world", simulation.ALIKE, ids=lambda world: world.name)
def test_like_methods_are_called_different_in_at_most_five_of_a_hundred_families(world, seeds):
    ((_, _, *said),) = [row for row in stated("like methods whose runs are") if row[:2] == [world.name, str(seeds)]]
    for place, family in ((1, (3, 4)), (2, (9, 5))):
        count = COUNT if family == (3, 4) else COUNT // 3
        before, now = simulation.false_differences(world, *family, seeds, count)
        assert now <= allowed(count)
        assert float(said[2 * place]) == pytest.approx(before, abs=0.06)
        assert float(said[2 * place + 1]) == pytest.approx(now, abs=0.03)


def test_three_seeds_hide_two_kinds_of_runs_where_seeds_move_all_methods_and_four_do_not():
    rows = {
        int(row[1]): list(map(float, row[2:])) for row in stated("two kinds of runs, corr") if row[0] == "6 SD apart"
    }
    three, four = (simulation.false_of_shared_seeds(6, 3, 4, seeds, COUNT) for seeds in (3, 4))
    assert three > allowed(COUNT) and four <= 0.05
    assert (rows[3][1], rows[4][1]) == pytest.approx((three, four), abs=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("world", [*simulation.ONE_OF_TWO, *simulation.SKEWED], ids=lambda world: world.name)
def test_a_method_that_is_worse_by_the_margin_passes_it_in_at_most_five_of_a_hundred_families(world):
    rows = {int(row[1]): row[2:] for row in stated("worse by the margin") if row[0] == world.name}
    for seeds in (3, 10, 29):
        before, now = simulation.false_margins(world, 1, 1, seeds, COUNT, world.below or simulation.in_error(seeds))
        assert now <= allowed(COUNT)
        assert float(rows[seeds][0]) == pytest.approx(before, abs=0.06)
        assert float(rows[seeds][1]) == pytest.approx(now, abs=0.03)
    assert max(float(cell) for cells in rows.values() for cell in cells[1::2]) <= 0.05


@pytest.mark.slow
def test_what_the_rule_costs_where_scores_are_normal_is_stated():
    for (effect, seeds), (name, said, *shares) in zip(simulation.EFFECTS, stated("one true difference"), strict=True):
        assert (name, said) == (f"{effect:.0f} SD", str(seeds))
        before, now = simulation.found(effect, 3, 4, seeds, COUNT)
        assert float(shares[2]) == pytest.approx(before, abs=0.03)
        assert float(shares[3]) == pytest.approx(now, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("metric", simulation.METRICS)
def test_reported_intervals_of_metrics_cover(metric):
    alone, reported = simulation.metric_coverage(metric, 5, 150)
    ((_, _, said_alone, said, _),) = [
        row for row in stated("difference of two equally good methods") if row[:2] == [metric, "5"]
    ]
    # Two and a half standard errors of a share of 150 are .04 at .95 and .1 at .6.
    assert reported >= 0.9
    assert float(said) == pytest.approx(reported, abs=0.05)
    assert float(said_alone) == pytest.approx(alone, abs=0.1)
