"""What intervals and verdicts promise, on simulated scores of which the truth is known; all of them seeded."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks import places_coverage
from benchmarks import statistics_coverage as simulation
from benchmarks.tables import unfolded
from lora_bench.stats import Crossed, Estimate, ItemScores, crossed_bootstrap, judge
from lora_bench.stats.crossed import with_items
from lora_bench.stats.power import difference_power, two_sided_power

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("statistics.md", "error-rates.md"))


@dataclass(frozen=True)
class Plain:
    """A difference without what stands beside it: what verdicts are made of."""

    estimate: Estimate
    pairs: int
    sd: float
    crossed: Crossed | None
    scores: tuple[tuple[float, ...], ...] = ()
    reason: None = None


def plain(values):
    """The difference of per-item scores, shape (seeds, items)."""
    seeds, items = values.shape
    crossed = crossed_bootstrap(ItemScores(tuple(range(seeds)), values), draw_seed=0, draws=0) if items > 1 else None
    scores = values.mean(axis=1)
    return Plain(with_items(scores, crossed), seeds, float(scores.std(ddof=1)), crossed)


def stated(heading):
    """The rows of the table of the page whose header begins so, as lists of cells."""
    (table,) = re.findall(rf"^\| {re.escape(heading)}.*\n\|[- :|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return unfolded(table.splitlines())


@pytest.mark.parametrize("item", [0.0, 1.0])
def test_simulated_experiments_have_the_numbers_of_the_package(item):
    # An effect, so that Holm's procedure has something to step down over.
    differences = simulation.suites(np.random.default_rng(0), 20, 5, 4.0, item, 2)
    found = simulation.errors(differences)
    called = simulation.holm_rejects(found.p_values().reshape(20, -1), 0.05).reshape(20, 3, 2)
    assert 0 < called.sum() < called.size
    for suite in range(20):
        family = {(method, task): plain(differences[suite, method, task]) for method in range(3) for task in range(2)}
        verdicts = judge(family, margin=None, power=None)
        for place, one in family.items():
            at = (suite, *place)
            half = (one.estimate.interval().high - one.estimate.interval().low) / 2
            assert half == pytest.approx(found.halves(0.025)[1][at])
            assert one.estimate.p_value() == pytest.approx(found.p_values()[at])
            assert (verdicts[place].verdict != "inconclusive") == called[at]


@pytest.mark.slow
def test_the_script_prints_the_tables_of_the_page(capsys):
    simulation.main(["--quick"])
    printed = re.findall(r"^\| ([^|]+) \|.*\n\| ---", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(printed) == 5
    for heading in printed:
        assert stated(heading)


@pytest.mark.parametrize("seeds", simulation.SEEDS)
def test_t_intervals_of_normal_scores_cover_as_often_as_they_say(seeds):
    (alone, *_) = simulation.NORMAL
    assert 0.93 <= simulation.coverage(alone, seeds, 4000, seed=1).t <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", simulation.SEEDS)
@pytest.mark.parametrize("world", simulation.NORMAL, ids=lambda world: world.name)
def test_reported_intervals_cover_new_seeds_and_new_items(world, seeds):
    assert simulation.coverage(world, seeds, 3000, seed=1).reported >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["differences", "scores that are not normal"])
def test_the_page_states_the_coverage_that_is_measured(kind):
    worlds = {world.name: world for world in (*simulation.NORMAL, *simulation.SKEWED)}
    rows = stated(kind)
    assert len(rows) == 3 * len(simulation.NORMAL)
    for name, seeds, t, _, reported in rows:
        found = simulation.coverage(worlds[name], int(seeds), 3000, seed=2)
        # Three standard errors of a share of 3,000 are .012 at .95 and .025 at .7.
        assert float(t) == pytest.approx(found.t, abs=0.027)
        assert float(reported) == pytest.approx(found.reported, abs=0.027)


@pytest.mark.parametrize("copies", [1, 4])
def test_copies_of_texts_narrow_no_interval_where_texts_are_the_items(copies):
    (row,) = [row for row in stated("times that each text stands") if row[:2] == [str(copies), "10"]]
    rows, texts = simulation.coverage_of_copies(copies, 10, 2000, seed=6)
    # Three standard errors of a share of 2,000 are .015 at .95 and .03 at .74.
    assert texts == pytest.approx(0.95, abs=0.015) and rows == (texts if copies == 1 else pytest.approx(0.74, abs=0.03))
    assert (float(row[2]), float(row[3])) == pytest.approx((rows, texts), abs=0.03)


@pytest.mark.slow
def test_the_published_bootstrap_covers_too_rarely_at_few_seeds():
    (alone, *_) = simulation.NORMAL
    rows = {
        int(seeds): float(published) for name, seeds, _, published, _ in stated("differences") if name == alone.name
    }
    for seeds, published in rows.items():
        found = simulation.coverage(alone, seeds, 4000, draws=300, seed=3).published
        assert published == pytest.approx(found, abs=0.05)
    assert rows[3] < 0.8 < rows[5] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seeds"), [(name, seeds) for name in simulation.FAMILIES for seeds in simulation.SEEDS]
)
def test_equal_methods_are_called_different_in_at_most_five_of_a_hundred_suites(name, seeds):
    count = 4000 if name == "seeds alone" else 1000
    share = simulation.families(seeds, count, item=simulation.FAMILIES[name], seed=4).any
    # Two standard errors beyond the level.
    assert share <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / count)
    ((said,),) = [row[2:] for row in stated("3 methods × 4 tasks") if row[:2] == [name, str(seeds)]]
    assert float(said) == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_a_difference_of_two_standard_deviations_is_found_at_ten_seeds():
    found = {
        (name, tasks): simulation.families(10, 2000, effect=effect, tasks=tasks, seed=5).found
        for name, effect in (("of a method's scores", 2.0), ("of the differences", 2 * math.sqrt(2)))
        for tasks in (1, 4)
    }
    assert found["of a method's scores", 1] >= 0.8
    assert found["of the differences", 1] >= 0.8 and found["of the differences", 4] >= 0.8
    for name, of_three, of_twelve in stated("first method better by 2 SD"):
        assert float(of_three) == pytest.approx(found[name, 1], abs=0.03)
        assert float(of_twelve) == pytest.approx(found[name, 4], abs=0.03)


def test_the_page_states_the_least_effects():
    rows = stated("seeds of each method")
    assert [int(seeds) for seeds, *_ in rows] == [3, 5, 8, 10, 20]
    for seeds, paired, unpaired, of_six in rows:
        n, apart = int(seeds), math.sqrt(2 / int(seeds))
        assert difference_power(float(paired), n, 1.0) == pytest.approx(0.8, abs=0.01)
        for effect, comparisons in ((unpaired, 1), (of_six, 6)):
            power = two_sided_power(float(effect) / apart, 2 * n - 2, 0.05 / comparisons)
            assert power == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_a_method_that_is_worse_by_the_margin_is_seldom_called_equivalent_or_non_inferior():
    # Two at the margin, which is three standard errors of the mean of six seeds, and one of no difference.
    generator, margin, experiments = np.random.default_rng(6), 3.0, 1000
    false = different = 0
    for _ in range(experiments):
        values = generator.standard_normal((3, 6, 1)) * math.sqrt(6) - np.array([margin, margin, 0.0])[:, None, None]
        verdicts = judge({key: plain(values[key]) for key in range(3)}, margin=margin, power=None)
        false += any(verdicts[key].verdict in ("equivalent", "non-inferior") for key in (0, 1))
        different += verdicts[2].verdict in ("better", "worse") or verdicts[2].small_but_real is not None
    # Three standard errors of a share of 1,000 at .05 are .02.
    assert false / experiments <= 0.07 and different / experiments <= 0.07


def test_intervals_over_tasks_and_base_models_cover_as_the_page_states():
    table = {(tasks, models, others): rest for tasks, models, others, *rest in stated("tasks | base models")}
    for (tasks, models, others), shares in table.items():
        assert all(92 <= float(share.partition(" ")[0]) < 99 for share in shares), (tasks, models, others)
    assert len(table) == len(places_coverage.PLANS)
    covered, width = places_coverage.coverage((5, 2, 5), places_coverage.SPREADS[1], 300)
    # The page has 96.5 %; of 300 intervals the standard error is 1.1 %.
    assert 0.92 <= covered < 1
    assert width == pytest.approx(float(table["5", "2", "all"][1].partition("(")[2].rstrip(")")), rel=0.2)
