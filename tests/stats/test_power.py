"""Power against statsmodels, published numbers and simulation; the seeds that would decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from lora_bench.stats import seeds_needed
from lora_bench.stats.power import difference_power, equivalence_power, items_needed, two_sided_power, within_power


@pytest.mark.parametrize(
    ("seeds", "unpaired", "paired", "one_of_six"),
    [
        (3, 3.07, 3.26, 5.04),
        (5, 2.02, 1.68, 2.83),
        (8, 1.51, 1.16, 1.99),
        (10, 1.32, 1.00, 1.73),
        (20, 0.91, 0.66, 1.15),
    ],
)
def test_the_least_effect_that_is_found_with_power_80_percent(seeds, unpaired, paired, one_of_six):
    # Of an effect with two decimals the power is within that of half of one in the last of them.
    assert difference_power(paired, seeds, 1.0) == pytest.approx(0.8, abs=0.01)
    apart, freedom = (2 / seeds) ** 0.5, 2 * seeds - 2
    assert two_sided_power(unpaired / apart, freedom, 0.05) == pytest.approx(0.8, abs=0.01)
    assert two_sided_power(one_of_six / apart, freedom, 0.05 / 6) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("seeds", "alpha"), [(2, 0.05), (3, 0.05), (6, 0.05), (6, 0.01), (25, 0.01)])
def test_statsmodels_has_that_power(seeds, alpha):
    # Its power, and not its solve_power, which looks no further than effects of 10 standard deviations.
    for effect in (0.5, 1.0, 2.0):
        assert TTestPower().power(effect, seeds, alpha) == pytest.approx(
            difference_power(effect, seeds, 1.0, 0.0, alpha), abs=1e-5
        )
        two = two_sided_power(effect / (2 / seeds) ** 0.5, 2 * seeds - 2, alpha)
        assert TTestIndPower().power(effect, seeds, alpha) == pytest.approx(two, abs=1e-5)


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 99])
@pytest.mark.parametrize("effect", [0.0, 0.5, 2.0, 5.0])
def test_power_is_that_of_the_noncentral_t(freedom, effect):
    reach = stats.t.ppf(0.975, freedom)
    expected = stats.nct.sf(reach, freedom, effect) + stats.nct.cdf(-reach, freedom, effect)
    assert two_sided_power(effect, freedom, 0.05) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("variation", "subjects", "expected"),
    # Bioequivalence within ± log 1.25 at a true ratio of 0.95, 2 × 2 crossover: the sample sizes and the power of the
    # documentation of R's PowerTOST 1.5, sampleN.TOST(CV = 0.2) and sampleN.TOST(CV = 0.3).
    [(0.2, 20, 0.834680), (0.3, 40, 0.815845)],
)
def test_the_power_of_equivalence_is_that_of_powertost(variation, subjects, expected):
    error = np.sqrt(np.log(1 + variation**2)) * np.sqrt(2 / subjects)
    found = within_power(np.log(0.95) / error, np.log(1.25) / error, subjects - 2, 0.05)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("seeds", "items"), [(5, 0.0), (5, 0.3), (12, 0.1)])
def test_power_with_test_items_is_that_of_simulated_experiments(seeds, items):
    # The differences of the seeds have variance 1, and the choice of items moves all of them by the same.
    generator, experiments, difference = np.random.default_rng(0), 20_000, 1.2
    means = difference + np.sqrt(1 / seeds + items) * generator.standard_normal(experiments)
    seed_variance = generator.chisquare(seeds - 1, experiments) / (seeds - 1) / seeds
    variance = seed_variance + items
    freedom = variance**2 / (seed_variance**2 / (seeds - 1))
    half = np.maximum(
        stats.t.ppf(0.975, seeds - 1) * np.sqrt(seed_variance), stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    )
    assert difference_power(difference, seeds, 1.0, items) == pytest.approx(np.mean(abs(means) > half), abs=0.02)
    narrow = np.maximum(
        stats.t.ppf(0.95, seeds - 1) * np.sqrt(seed_variance), stats.t.ppf(0.95, freedom) * np.sqrt(variance)
    )
    inside = np.mean(abs(means - 0.9) < 2.0 - narrow)
    assert equivalence_power(difference - 0.9, 2.0, seeds, 1.0, items) == pytest.approx(inside, abs=0.03)


def test_the_seeds_that_find_a_difference_are_statsmodels():
    for effect in (0.4, 0.8, 1.5):
        expected = int(np.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)))
        found = seeds_needed(effect * 0.01, 0.01)
        assert (found.seeds, found.by) == (expected, "difference")


def test_the_one_that_takes_fewer_seeds_decides():
    # A tenth of a standard deviation takes hundreds of seeds to find, and a margin of two is soon proven.
    assert seeds_needed(0.1, 1.0, margin=2.0).by == "equivalence"
    assert seeds_needed(1.9, 1.0, margin=2.0).by == "difference"


def test_what_no_thousand_seeds_decide_is_none():
    assert seeds_needed(0.01, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.0, 1.0, margin=0.01) is None


def test_test_items_can_stand_in_the_way_of_any_number_of_seeds():
    assert seeds_needed(0.5, 1.0).seeds == 34
    # Standard error of the items alone: .25, and a difference of twice that is found with power 52 %.
    assert seeds_needed(0.5, 1.0, item_variance=0.25**2) is None


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 3), st.floats(0.1, 2), st.floats(0, 0.01), st.floats(0.2, 3))
def test_needed_seeds_are_enough_and_one_fewer_is_not(difference, sd, items, margin):
    found = seeds_needed(difference, sd, margin=margin, item_variance=items)
    if found is not None:

        def power(seeds):
            return max(
                difference_power(difference, seeds, sd, items), equivalence_power(difference, margin, seeds, sd, items)
            )

        assert power(found.seeds) >= 0.8
        assert found.seeds == 2 or power(found.seeds - 1) < 0.8


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(-20, 20))
def test_seeds_needed_do_not_depend_on_the_unit(seeds, unit):
    needed = seeds_needed(3 / seeds, 1.0)
    # A unit whose rounding decides nothing: a power of two.
    assert seeds_needed(3 / seeds * 2**unit, 2.0**unit) == needed


def test_the_test_items_that_decide_are_enough_and_one_fewer_is_not():
    # Items give half of the variance of a difference of 2 in ten seeds, 0.9 of 1.8; four times the items leave 1.125.
    spread = {"item_variance": 0.9, "alpha": 0.05}
    found = items_needed(3.2, 3.0, 10, 872, **spread)
    assert 872 < found < 20 * 872
    for items, decides in ((found, True), (found - 1, False)):
        assert (difference_power(3.2, 10, 3.0, 0.9 * 872 / items) >= 0.8) == decides
    assert items_needed(1.0, 3.0, 10, 872, **spread) is None  # seeds alone leave too much
    assert items_needed(3.2, 3.0, 10, 872, fixed_variance=0.9, **spread) is None  # as does the choice of rates
