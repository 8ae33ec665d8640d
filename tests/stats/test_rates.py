"""The rate that trials choose, and the error of that choice, on numbers that can be checked by hand."""

import math

import pytest

from lora_bench.stats import ChoiceError, Estimate, Uncertainty, judge, paired_difference, trials_of

FLOOR = 0.5


def halved(scores, **given):
    of_seeds = {rate: dict(enumerate(of_rate)) for rate, of_rate in scores.items()}
    return trials_of(of_seeds, **{"floor": FLOOR, "higher_is_better": True, "search": "halve_seeds", **given})


def test_the_better_half_of_the_first_trials_goes_on_and_what_learned_nothing_comes_last():
    first = {1e-4: [0.6], 3e-4: [0.7], 1e-3: [0.8], 3e-3: [0.5], 1e-2: [None]}
    assert halved(first).going(3) == (1e-4, 3e-4, 1e-3)
    assert halved(first).going(4) == (1e-4, 3e-4, 1e-3, 3e-3)


def test_a_rate_of_one_trial_is_not_chosen_by_its_luck():
    assert halved({1e-4: [0.9], 3e-4: [0.95, 0.8, 0.8]}).chosen == 3e-4


def test_a_rate_of_which_one_trial_learned_nothing_is_out_unless_all_are():
    assert halved({1e-4: [0.6, 0.6, 0.6], 3e-4: [0.9, 0.9, 0.5]}).chosen == 1e-4
    assert halved({1e-4: [0.9, 0.5, 0.5], 3e-4: [0.9, 0.9, 0.5]}).chosen == 3e-4
    # One sound trial precedes rates that fell.
    assert halved({1e-4: [0.6], 3e-4: [0.9, 0.9, 0.5]}).chosen == 1e-4
    # As before, where every rate has all seeds only a run without a score excludes its rate.
    scores = {1e-4: [0.6, 0.6], 3e-4: [0.9, 0.5]}
    assert halved(scores, search="all_seeds").chosen == 3e-4
    assert halved({**scores, 3e-4: [0.9, None]}, search="all_seeds").chosen == 1e-4


@pytest.mark.parametrize(("largest", "chosen"), [(0.5, 1e-4), (0.6, 3e-4)])
def test_within_one_standard_error_the_smaller_rate_is_taken_only_where_a_larger_one_fell(largest, chosen):
    # Both rates have squares of 0.0002 on 2 degrees of freedom: an SD of 0.01, a standard error of 0.0058.
    scores = {1e-4: [0.790, 0.800, 0.810], 3e-4: [0.795, 0.805, 0.815], 1e-3: [largest]}
    assert halved(scores).chosen == chosen


def test_a_difference_of_more_than_one_standard_error_decides_though_a_larger_rate_fell():
    assert halved({1e-4: [0.790, 0.800, 0.810], 3e-4: [0.797, 0.807, 0.817], 1e-3: [0.5]}).chosen == 3e-4


def test_lower_losses_are_better():
    losses = {1e-4: [2.0, 2.1], 3e-4: [1.0, 1.1]}
    assert halved(losses, floor=3.0, higher_is_better=False).chosen == 3e-4
    assert halved({1e-4: [2.0, 2.1], 3e-4: [1.0, 3.0]}, floor=3.0, higher_is_better=False).chosen == 1e-4


def test_the_error_of_a_choice_by_hand():
    # Twenty standard deviations apart: always the same rate.
    clear = halved({1e-4: [0.59, 0.61], 3e-4: [0.89, 0.91]}, search="all_seeds").error(0)
    assert clear.sd == pytest.approx(0, abs=1e-12) and clear.freedom == 2
    # Means 0.70 and 0.71 with an SD of 0.14: a coin decides, so the SD is half of the distance.
    coin = halved({1e-4: [0.60, 0.80], 3e-4: [0.61, 0.81]}, search="all_seeds").error(0)
    assert coin.sd == pytest.approx(0.005, rel=0.1)
    # One trial of a rate has no spread.
    assert halved({1e-4: [0.6], 3e-4: [0.7]}).error(0) is None


def test_errors_of_choices_widen_an_estimate_and_never_make_it_surer():
    t = Uncertainty(source="t", standard_error=0.03, freedom=4)
    alone = Estimate(value=0.1, uncertainties=(t,))
    wider = alone.widened([ChoiceError(sd=0.04, freedom=3), ChoiceError(sd=0.0, freedom=3)])
    (one,) = wider.uncertainties
    assert one.standard_error == pytest.approx(0.05) and wider.choice_sd == pytest.approx(0.04)
    # Satterthwaite: 0.05⁴ / (0.03⁴ / 4 + 0.04⁴ / 3)
    assert min(4, 0.05**4 / (0.03**4 / 4 + 0.04**4 / 3)) == pytest.approx(one.freedom)
    little = alone.widened([ChoiceError(sd=0.001, freedom=100)] * 2)
    assert little.uncertainties[0].freedom == 4 and little.p_value() > alone.p_value()
    # With one rate unknown, the verdict is of these rates.
    assert alone.widened([ChoiceError(sd=0.04, freedom=3), None]) is alone and alone.choice_sd is None


def test_a_verdict_includes_the_choice_and_seeds_cannot_remove_it():
    first, second = {1: 0.81, 2: 0.82, 3: 0.83, 4: 0.82}, {1: 0.80, 2: 0.80, 3: 0.80, 4: 0.80}
    errors = [ChoiceError(sd=0.02, freedom=4)] * 2
    verdicts = {
        name: judge({"copy": paired_difference(first, second, draw_seed=0, choices=of)}, margin=0.005)["copy"]
        for name, of in (("these", ()), ("any", errors))
    }
    assert verdicts["these"].verdict == "better" and verdicts["these"].choice_sd is None
    assert verdicts["any"].verdict == "inconclusive"
    assert verdicts["any"].choice_sd == pytest.approx(math.sqrt(2) * 0.02)
    # 0.02 is less than twice 0.028, whatever the number of seeds.
    assert verdicts["any"].needed is None
