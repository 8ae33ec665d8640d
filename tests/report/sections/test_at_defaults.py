"""A report of tuned methods says what single runs at the defaults say of them, from the report beside it."""

import re

import numpy as np
import pytest
from scipy.linalg import hadamard
from scipy.stats import kendalltau

from lora_bench.report.blocks import to_markdown
from lora_bench.report.model.report import Report
from lora_bench.report.sections.at_defaults import defaults_section, rank_correlation
from tests.report.sections.test_headline import RULES
from tests.sample_records import BUDGET, record

# On the mean over seeds: .80, .75, .70 and .60.
TUNED = {"full": 0.0, "lora": -0.05, "bottleneck_adapter": -0.10, "prefix_tuning": -0.20}
DEFAULT = {"full": 0.70, "lora": 0.60, "bottleneck_adapter": 0.75, "prefix_tuning": 0.50}


def page(default, name="zoo-default", lost=(), **changes):
    """The section of TUNED over eight seeds, without the *lost* runs, each a method and a seed."""
    tuned = [
        record(method, seed=seed, score=0.8 + by + 0.001 * chance[seed], changes={"analysis": RULES}, budget=BUDGET)
        for (method, by), chance in zip(TUNED.items(), hadamard(8)[1:5], strict=True)
        for seed in range(8)
        if (method, seed) not in lost
    ]
    single = [record(method, score=score, budget=BUDGET, **changes) for method, score in default.items()]
    return to_markdown(defaults_section(Report(tuned, name="zoo", beside={name: Report(single, name=name)})))


def cells(page, line):
    row = next(row for row in page.splitlines() if line in row)
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_two_orders_agree_as_their_pairs_of_methods_do():
    found = page(DEFAULT)
    assert "[`zoo-default`](zoo-default.md) has 4 methods of this page" in found
    assert "is among the best here in 0 of 1 table; its own rate and size give the median method +10.0 points" in found
    row = cells(found, "to 1.00)")
    # The adapters have changed places with two of three methods: 4 of 6 pairs have the same order, and 2 the reverse.
    assert row[0] == "`vader_film`" and row[2] == "4" and row[3].startswith("0.33 (")
    assert row[4:] == ["`bottleneck_adapter`", "3 of 4", "1", "+6.3, +10.0, +11.3"]
    assert re.search(r"\| `prefix_tuning` \| [^|]+\| 0\.60\d* \| 4 of 4 \| 0\.5000? \| 4 of 4 \| \+10\.0 \|", found)


def test_each_seed_is_a_ranking_of_its_own():
    row = cells(page(DEFAULT), "of 8 |")
    assert row[2] == ", ".join(["`full`"] * 8) and row[3:] == ["8 of 8", "1.00 (1.00 to 1.00)"]


def test_of_too_few_seeds_for_a_test_every_method_is_among_the_best():
    found = page(DEFAULT, lost=[(method, seed) for method in TUNED for seed in range(2, 8)])
    assert "is among the best here in 1 of 1 table" in found
    assert cells(found, "to 1.00)")[5:7] == ["–", "4"]


def test_a_method_without_the_seeds_of_the_others_is_left_out():
    assert page(DEFAULT, lost=[("full", 3)]) == "", "three methods are left"


@pytest.mark.parametrize(
    "given",
    [{"name": "other-default"}, {"task": "another"}, {"default": {"full": 0.7, "lora": 0.6}}],
    ids=["another name", "another task", "two methods"],
)
def test_nothing_is_said_without_the_same_methods_on_the_same_data(given):
    assert page(**{"default": DEFAULT, **given}) == ""


def test_the_rank_correlation_is_that_of_scipy_and_its_interval_holds():
    generator = np.random.default_rng(0)
    truth, hits = 2 / np.pi * np.arcsin(0.5), 0
    for _ in range(300):
        one, noise = generator.normal(size=(2, 40))
        other = 0.5 * one + np.sqrt(0.75) * noise
        found = rank_correlation(one, other)
        assert found.tau == pytest.approx(kendalltau(one, other).statistic)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def test_methods_with_one_score_have_no_order():
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([5.0, 5, 5, 5])) == (0, 0, 0)
