"""The spread of a change's differences, and how likely an unchanged system is to pass, by hand and by simulation."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import against_simulation as simulation
from lora_bench.stats import paired_difference
from lora_bench.stats.pooled import Pool, chance_to_pass, pools, seeds_to_pass, with_pooled_spread

PAGE = (Path(__file__).parents[2] / "docs" / "error-rates.md").read_text(encoding="utf-8")


def difference(now, before):
    return paired_difference(dict(enumerate(now)), dict(enumerate(before)), draw_seed=0)


def of_noise(number, seeds, sds, *, together=0.0, draw=0):
    """So many comparisons without a change, whose scores share a part of each seed's effect."""
    generator = np.random.default_rng(draw)
    made = {}
    for key, sd in zip(range(number), sds, strict=True):
        shared, *own = generator.standard_normal((3, seeds))
        now, before = (50 + sd * (math.sqrt(together) * shared + math.sqrt(1 - together) * one) for one in own)
        made[key] = difference(now, before)
    return made


def test_the_spread_of_comparisons_by_hand():
    # Variances of three scores: 1 and 4 in the first comparison, 9 and 4 in the second; correlations of .5 and −.5.
    family = {"a": difference((2.0, 1.0, 3.0), (0.0, 2.0, 4.0)), "b": difference((3.0, 0.0, 6.0), (2.0, 0.0, -2.0))}
    (pool,) = pools(family, dict.fromkeys(family, "accuracy"))
    # Unpaired: 5 and 13, each on 2 (3 − 1) degrees of freedom.
    assert pool.sd == pytest.approx(3.0) and pool.freedom() == 8
    one = with_pooled_spread(family, dict.fromkeys(family, "accuracy"))["a"]
    assert one.estimate.value == 0.0 and one.estimate.uncertainties[0].standard_error == pytest.approx(math.sqrt(3))
    assert one.estimate.p_above(-2.0) == pytest.approx(stats.t.sf(2 / math.sqrt(3), 8))


def test_scores_of_a_seed_that_go_together_are_paired():
    (apart,) = pools(of_noise(4, 5, [1.0] * 4), dict.fromkeys(range(4), "accuracy"))
    (together,) = pools(of_noise(4, 5, [1.0] * 4, together=0.95), dict.fromkeys(range(4), "accuracy"))
    assert (apart.freedom(), together.freedom()) == (32, 16)
    assert together.sd < apart.sd / 2


def test_a_comparison_of_a_much_wider_spread_and_one_on_another_metric_keep_their_own():
    family = of_noise(4, 10, [1.0, 1.0, 6.0, 1.0])
    found = pools(family, dict(enumerate(["accuracy", "accuracy", "accuracy", "f1"])))
    assert [list(pool.seeds) for pool in found] == [[2], [0, 1], [3]]


def test_differences_without_a_spread_are_in_no_pool():
    family = {"same": difference((0.5, 0.6), (0.5, 0.6)), "equal": difference((0.5, 0.7), (0.25, 0.45))}
    assert pools(family, dict.fromkeys(family, "accuracy")) == []
    assert with_pooled_spread(family, dict.fromkeys(family, "accuracy")) == family


def test_the_chance_of_one_comparison_to_pass_is_that_of_the_noncentral_t():
    pool = Pool(seeds={"a": 5}, sd=2.0, per_seed=2)
    bound = stats.t.isf(0.05, 8)
    power = stats.nct.sf(bound, 8, 1.5 * math.sqrt(5) / 2.0)
    assert chance_to_pass([pool], {"a": 1.5}, 0.05) == pytest.approx(power, abs=1e-4)
    assert chance_to_pass([pool], {"a": None}, 0.05) < 0.06 and chance_to_pass([pool], {"a": 100.0}, 0.05) > 0.999


def test_the_seeds_named_are_the_fewest_that_pass_in_eighty_percent():
    pool = Pool(seeds=dict.fromkeys(range(4), 5), sd=simulation.SD, per_seed=2)
    margins = dict.fromkeys(range(4), 1.0)
    seeds = seeds_to_pass([pool], margins, 0.05)
    chances = [chance_to_pass([pool], margins, 0.05, number) for number in (seeds - 1, seeds)]
    assert chances[0] < 0.8 <= chances[1] and 5 < seeds <= 10
    assert seeds_to_pass([pool], dict.fromkeys(range(4), 0.01), 0.05) is None


def test_the_simulation_judges_as_the_package_does():
    laws = [simulation.Law(), simulation.Law(together=0.8), simulation.Law(first=5.0)]
    shapes = set()
    for law in laws:
        before, now = law.draw(np.random.default_rng(1), 30, 4, 5)
        variance, freedom = simulation.spread(before, now)
        found = simulation.excluded(before, now, 1.0)
        for check in range(30):
            family = {cell: difference(now[check, cell], before[check, cell]) for cell in range(4)}
            for cell, one in with_pooled_spread(family, dict.fromkeys(family, "accuracy")).items():
                (error,) = one.estimate.uncertainties
                assert error.standard_error == pytest.approx(math.sqrt(variance[check, cell] / 5))
                assert error.freedom == freedom[check, cell]
                assert (one.estimate.p_above(-1.0) <= 0.05) == found[check, cell]
                shapes.add(error.freedom)
    assert {32, 16, 24, 8} <= shapes


def test_the_chance_to_pass_is_the_share_of_simulated_checks_that_pass():
    for seeds in (5, 10):
        pool = Pool(seeds=dict.fromkeys(range(4), seeds), sd=simulation.SD, per_seed=2)
        measured = simulation.passed(4, seeds, 1.0, checks=4000)
        assert chance_to_pass([pool], dict.fromkeys(range(4), 1.0), 0.05) == pytest.approx(measured, abs=0.03)


@pytest.mark.parametrize("law", simulation.LAWS)
@pytest.mark.parametrize("cells", [1, 4])
def test_a_loss_of_the_margin_seldom_passes(law, cells):
    for seeds in simulation.SEEDS:
        share = simulation.loss_passed(law, cells, seeds, checks=4000)
        assert share <= 0.057 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def stated(heading):
    """The rows of the table of the page whose header begins so, as lists of cells."""
    (table,) = re.findall(rf"^\| {re.escape(heading)}.*\n\|[- :|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def test_the_page_states_what_is_measured_and_the_aims_are_met():
    passes = {
        (margin, cells): list(map(float, shares.split("/")))
        for margin, cells, shares, *_ in stated("margin, points | cells")
    }
    assert set(passes) == {(str(margin), str(cells)) for cells, margin in simulation.CELLS_AND_MARGINS}
    for (margin, cells), shares in passes.items():
        measured = simulation.passed(int(cells), 5, float(margin), checks=4000)
        assert measured == pytest.approx(shares[1], abs=0.03)
    assert passes["1.0", "4"][1] >= 0.35 and passes["1.0", "4"][2] >= 0.85 and passes["1.5", "4"][1] >= 0.85
    losses = {law: cells for law, *cells in stated("a cell that lost the margin")}
    assert set(losses) == {*simulation.LAWS, *simulation.WIDER}
    assert max(float(share) for shares in losses["normal"] for share in shares.split("/")) <= 0.053
