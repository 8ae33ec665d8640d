"""How far night means lie apart: by nights, by seeds, and by what other series say of the two."""

import numpy as np
import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.stats import History, confirm, judge_night
from lora_bench.stats.night_spread import SeriesNights, pooled_variance, spreads


def drawn(series, nights, seeds, night=0.0, generator=None, of=1):
    """b and w of *of* families of series, each of shape (of, series)."""
    generator = generator or np.random.default_rng(0)
    shape = (of, series, nights)
    effect = np.sqrt(night) * generator.standard_normal((*shape, 1))
    runs = effect + np.sqrt(1 - night) * generator.standard_normal((*shape, seeds))
    return runs.mean(axis=-1).var(axis=-1, ddof=1), runs.var(axis=-1, ddof=1).mean(axis=-1) / seeds


def test_the_parts_of_a_series_by_hand():
    told = SeriesNights("", [2.0, 4.0, 6.0], [[1.0, 3.0], [4.0, 4.0], [5.0, 7.0]])
    # Means 2, 4, 6: a variance of 4. Variances of the seeds 2, 0, 2, over two seeds each: (1 + 0 + 1) / 3.
    assert told.parts() == (4.0, pytest.approx(2 / 3), 3, 2)


def test_a_series_alone_has_what_its_nights_say():
    variance, freedom = pooled_variance(np.array([4.0]), np.array([1.0]), 8, 3)
    assert (variance.tolist(), freedom.tolist()) == ([4.0], [7.0])


@pytest.mark.parametrize(("between", "within", "seeds"), [(0.0, 1.0, 3), (1.0, 0.0, 3), (1.0, 1.0, 1)])
def test_so_has_one_without_spread_or_with_one_seed_a_night(between, within, seeds):
    others = np.array([1.0, 1.1, 0.9])
    found = pooled_variance(np.array([between, *others]), np.array([within, *others]), 8, np.array([seeds, 3, 3, 3]))
    assert (found[0][0], found[1][0]) == (between, 7.0) and all(found[1][1:] > 7)


@pytest.mark.parametrize("night", [0.0, 0.25])
def test_the_variance_is_that_of_night_means_and_so_is_its_freedom(night):
    """With fifty series; where nights add half of the variance as well, as they do it in all series."""
    variance, freedom = pooled_variance(*drawn(50, 8, 3, night, of=400), 8, 3, axis=1)
    truth = night + (1 - night) / 3
    assert variance.mean() == pytest.approx(truth, rel=0.03)
    # The freedom of a variance is two over its squared coefficient of variation.
    measured = 2 * truth**2 / variance.var()
    assert np.median(freedom) == pytest.approx(measured, rel=0.15)
    assert 18 < measured < 24


def test_series_whose_nights_do_not_add_alike_have_fewer_degrees_of_freedom():
    alike = drawn(20, 8, 3, of=50)
    apart = np.concatenate([drawn(10, 8, 3, of=50)[0], drawn(10, 8, 3, 0.9, of=50)[0]], axis=1), alike[1]
    (_, many), (_, few) = (pooled_variance(*parts, 8, 3, axis=1) for parts in (alike, apart))
    assert np.median(many) > 15 and 7 <= np.median(few) < 12


def test_kinds_of_series_say_nothing_of_each_other():
    generator = np.random.default_rng(1)
    scores = {key: generator.normal(0.8, 0.01, (8, 3)) for key in range(6)}
    times = {key: generator.normal(0, 0.3, (8, 1)) + generator.normal(0, 0.01, (8, 3)) for key in range(6, 9)}

    def told(series, kind):
        return {key: SeriesNights(kind, runs.mean(axis=1).tolist(), runs.tolist()) for key, runs in series.items()}

    alone = spreads(told(scores, "linear"))
    both = spreads({**told(scores, "linear"), **told(times, "log")})
    assert {key: both[key] for key in scores} == alone
    mixed = spreads({**told(scores, ""), **told(times, "")})
    assert all(mixed[key][1] < alone[key][1] for key in scores)


def histories(seeds=True):
    generator = np.random.default_rng(2)
    runs = {key: generator.normal(0.8, 0.01, (8, 3)) for key in range(30)}
    return {
        key: History(
            nights=scores.mean(axis=1).tolist(), seeds=scores.tolist() if seeds else None,
            higher_is_better=True, margin=0.0, floor=1e-6,
        )
        for key, scores in runs.items()
    }  # fmt: skip


def test_a_night_is_judged_by_the_spread_of_seeds_and_series_and_so_are_its_second_seeds():
    tonight = dict.fromkeys(range(30), 0.8)
    with_seeds, without = (judge_night(tonight, histories(seeds)) for seeds in (True, False))
    assert {one.level.freedom for one in without.values()} == {7}
    assert all(one.level.freedom > 10 for one in with_seeds.values())
    # Between the two bounds: too little for what eight nights say, and enough with their seeds.
    key = max(tonight, key=lambda key: with_seeds[key].level.worst - without[key].level.worst)
    value = (with_seeds[key].level.worst + without[key].level.worst) / 2
    first = judge_night({**tonight, key: value}, histories())[key]
    assert first.answer == "suspect" and judge_night({**tonight, key: value}, histories(False))[key].answer == "pass"
    second = confirm(histories()[key], value, first=first.level)
    assert second.answer == "regression" and second.shift.spread == first.level.spread


def test_seeds_are_of_the_nights_that_have_means():
    with pytest.raises(LoraBenchError, match="seeds of 2 nights and means of 3"):
        History(nights=[1, 2, 3], seeds=[[1.0], [2.0]], higher_is_better=True, margin=0, floor=1)
    with pytest.raises(LoraBenchError, match="night 1, score 2 is nan"):
        History(nights=[1], seeds=[[1.0, float("nan")]], higher_is_better=True, margin=0, floor=1)
