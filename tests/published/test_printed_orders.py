"""Orders of a published table are judged by what is printed, as by hand."""

import dataclasses
import math

import pytest
import scipy.stats

from lora_bench.published import PublishedTable, known_tables, load_table
from lora_bench.published.printed_orders import not_judged, printed_orders
from lora_bench.published.table_section import orders_blocks
from lora_bench.published.table_terminal import orders_listing
from lora_bench.report.blocks import to_markdown


def table(*numbers, score="accuracy", statistic="mean", seeds=5) -> PublishedTable:
    """A column with a row for each value and spread, as printed."""
    whole = load_table("lora-table2")
    like = dataclasses.replace(whole.cells[0], score=score, statistic=statistic, seeds=seeds, derived=(), step=0.0005)
    cells = [
        dataclasses.replace(
            like, row=f"row {at}", printed=str(value), value=value / 100, printed_spread=spread,
            spread=None if spread is None else float(spread) / 100,
        )
        for at, (value, spread) in enumerate(numbers)
    ]  # fmt: skip
    return dataclasses.replace(whole, cells=tuple(cells))


def by_hand(gap: float, sd: float) -> float:
    return scipy.stats.ttest_ind_from_stats(gap, sd, 5, 0.0, sd, 5, equal_var=False).pvalue


def test_an_order_is_judged_by_welchs_test_with_rounding_against_it():
    # 90.0 ± 0.5 and 89.0 ± 0.5 of five runs: a gap of 0.9 at least, standard deviations of 0.55 at most.
    assert by_hand(0.9, 0.55) < 0.05 < by_hand(0.8, 0.55)
    found = printed_orders(table((90.0, "0.5"), (89.0, "0.5")))
    assert (found.printed, found.judged, found.supported) == (1, 1, 1)
    assert by_hand(0.9, 0.5) < 0.05
    rounded = printed_orders(table((90.0, "0.5"), (89.1, "0.5")))
    assert rounded.supported == 0


def test_a_median_varies_more_than_a_mean():
    assert by_hand(0.9, 0.55) < 0.05 < by_hand(0.9, 0.55 * math.sqrt(math.pi / 2))
    means, medians = (printed_orders(table((90.0, "0.5"), (89.0, "0.5"), statistic=of)) for of in ("mean", "median"))
    assert (means.supported, medians.supported) == (1, 0)


def test_all_pairs_of_a_table_share_the_error_level():
    alone, among = table((90.0, "0.5"), (88.7, "0.5")), table((90.0, "0.5"), (88.7, "0.5"), *[(89.4, "0.5")] * 6)
    assert printed_orders(alone).supported == 1
    assert printed_orders(among).supported == 0


@pytest.mark.parametrize("score, best", [("accuracy", "row 1"), ("ter", "row 0")])
def test_the_best_row_is_that_of_the_metrics_direction(score, best):
    (first,) = printed_orders(table((80.0, "0.2"), (90.0, "0.2"), (85.0, None), score=score)).firsts
    assert (first.cell.row, first.ahead, first.level) == (best, ["row 0" if best == "row 1" else "row 1"], [])


@pytest.mark.parametrize(
    "numbers, seeds, said",
    [
        ([(90.0, None), (80.0, None)], 5, "2 numbers without a printed standard deviation"),
        ([(90.0, "0.1"), (80.0, "0.1")], None, "2 numbers without a number of runs"),
        ([(90.0, "0.1"), (80.0, "0.1")], 3, "2 numbers of fewer than 4 runs"),
    ],
)
def test_what_is_not_printed_judges_no_order(numbers, seeds, said):
    assert orders_blocks(table(*numbers, seeds=seeds)) == [
        f"None of its 1 order of two rows can be judged. Not judged: {said}."
    ]


def test_a_printed_spread_of_zero_is_a_rounded_one():
    assert printed_orders(table((90.0, "0.0"), (90.1, "0.0"))).supported == 0
    assert printed_orders(table((90.0, "0.0"), (90.5, "0.0"))).supported == 1


@pytest.mark.parametrize("name", known_tables())
def test_every_table_has_a_card_on_its_page_and_on_a_terminal(name):
    found, blocks = printed_orders(load_table(name)), orders_blocks(load_table(name))
    said = to_markdown(blocks)
    assert ("None of its" in said) == (not found.judged)
    assert f"{found.judged:,} can be judged" in said or not found.judged
    assert len(orders_listing(load_table(name))) == (2 + len(found.firsts) if found.judged else 1)


def test_of_the_orders_of_lora_on_glue_its_deviations_support_one():
    found = printed_orders(load_table("lora-table2"))
    assert (found.judged, found.supported) == (109, 1)
    (first,) = (one for one in found.firsts if one.ahead)
    assert (first.cell.row, first.cell.task, first.ahead) == ("LoRA", "rte", ["Adapter H 0.8M, restricted"])
    assert {not_judged(cell) for cell in load_table("lora-table3").cells} == {
        "without a printed standard deviation",
        "of fewer than 4 runs",
    }
