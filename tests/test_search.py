"""Learning rates drawn from ranges: the same places for every method, and mistakes named with their line."""

import math

import pytest

from lora_bench.errors import BadInput
from lora_bench.suite import load_suite
from tests.project import SUITE, write_project

METHODS = """\
methods:
  - {method: full, learning_rate: {low: 1e-5, high: 1e-3}}
  - {method: lora, learning_rate: {low: 1e-4, high: 1e-2}}
"""


def suite(folder, monkeypatch, methods=METHODS, budget="trials: 4, ", tuning="tuning: {seeds: [100]}"):
    monkeypatch.chdir(folder)
    text = SUITE.replace("methods: [full, lora, bottleneck_adapter, prefix_tuning]\n", methods)
    text = text.replace("budget: {", f"budget: {{{budget}")
    write_project(folder, f"{text}{tuning}\n")
    return load_suite("tickets.yaml")


def rates(loaded):
    return {entry.label: entry.rates("base") for entry in loaded.methods}


def test_as_many_rates_as_trials_are_drawn_inside_each_range(tmp_path, monkeypatch):
    found = rates(suite(tmp_path, monkeypatch))
    assert [len(values) for values in found.values()] == [4, 4]
    for low, values in zip((1e-5, 1e-4), found.values(), strict=True):
        assert list(values) == sorted(values)
        assert all(low <= value <= 100 * low for value in values)


def test_every_range_is_drawn_at_the_same_places(tmp_path, monkeypatch):
    full, lora = rates(suite(tmp_path, monkeypatch)).values()
    # Both ranges span a factor of 100, from 1e-5 and from 1e-4 on.
    assert [10 * value for value in full] == pytest.approx(list(lora), rel=0.01)


def test_the_draw_is_of_the_search_seed_and_of_nothing_else(tmp_path, monkeypatch):
    first = rates(suite(tmp_path, monkeypatch))
    assert rates(suite(tmp_path, monkeypatch)) == first
    assert rates(suite(tmp_path, monkeypatch, tuning="tuning: {seeds: [100], search_seed: 1}")) != first


def test_every_slice_of_a_range_has_one_trial(tmp_path, monkeypatch):
    drawn = rates(suite(tmp_path, monkeypatch, budget="trials: 40, "))["lora"]
    # 20 slices a decade, from 1e-4 on: each rate lies in its own, but for the rounding to three digits.
    for index, rate in enumerate(drawn):
        assert index - 0.05 < 20 * math.log10(rate / 1e-4) < index + 1.05


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": METHODS.replace("1e-2}", "1e-3}")}, "must span the same factor"),
        ({"methods": METHODS.replace("low: 1e-4", "low: 1e-1")}, "low must be the smaller one"),
        ({"methods": METHODS.replace("low: 1e-4, ", "lwo: 1e-4, ")}, "learning_rate"),
        ({"budget": ""}, "from which `budget: {trials: N}` rates are drawn"),
        ({"tuning": ""}, "several learning rates make a search"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(tmp_path, monkeypatch, given, said):
    with pytest.raises(BadInput) as error:
        suite(tmp_path, monkeypatch, **given)
    assert said in str(error.value)
    assert "tickets.yaml" in str(error.value)
