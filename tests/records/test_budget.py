"""A size is found by counting, and a budget that no size meets says so with the nearest count."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lora_bench.errors import BudgetUnreachable
from lora_bench.records.budget import AXES, PARAMETER_AXES, WORK, Axis, Budget, Work, fit_size
from lora_bench.records.record import CountedParameters, Speed
from lora_bench.records.spec import TrainingSpec
from lora_bench.suite.schema import SuiteBudget


def test_lora_on_minilm_meets_the_target_exactly():
    # 6 layers, query and value, A (r x 384) and B (384 x r): 9,216 weights a rank.
    assert fit_size(lambda rank: 6 * 2 * 2 * 384 * rank, 147_456, 0.05) == 16


def test_houlsby_on_minilm_takes_the_nearer_of_two_widths():
    # 2 adapters in 6 layers, each 2 * 384 * b + b + 384: b = 15 gives 143,028 (3.0 % under), b = 16 gives 152,256 (3.3 % over).
    assert fit_size(lambda width: 12 * (769 * width + 384), 147_456, 0.05) == 15


def test_a_target_between_two_sizes_is_out_of_reach_with_the_nearest_count():
    with pytest.raises(BudgetUnreachable, match=r"the nearest is size 1 with 500"):
        fit_size(lambda size: 500 * size, 100, 0.05)


@given(slope=st.integers(1, 10_000), offset=st.integers(0, 10_000), target=st.integers(1, 1_000_000))
def test_no_other_size_is_nearer(slope, offset, target):
    size = fit_size(lambda size: slope * size + offset, target, 1e9)
    for other in (size - 1, size + 1):
        if other >= 1:
            assert abs(slope * size + offset - target) <= abs(slope * other + offset - target)


def test_a_budget_has_exactly_one_measure_of_work():
    for work in ({}, {"train_examples": 10, "epochs": 1.0}, {"train_tokens": 10, "epochs": 1.0}):
        with pytest.raises(ValidationError, match="exactly one of train_examples, epochs"):
            Budget(**work)


def test_a_target_is_of_adapter_or_of_stored_parameters():
    assert Budget(train_examples=1).parameter_target is None
    assert Budget(stored_parameters=500, train_examples=1).parameter_target == ("stored_parameters", 500)
    with pytest.raises(
        BudgetUnreachable, match=r"no size meets 100 stored parameters within 5%: the nearest is size 1"
    ):
        fit_size(lambda size: 500 * size, 100, 0.05, "stored_parameters")


def test_within_is_the_tolerance_on_both_sides():
    budget = Budget(adapter_parameters=1000, tolerance=0.05, train_examples=1)
    assert budget.within(950) and budget.within(1050)
    assert not budget.within(949) and not budget.within(1051)


def test_the_example_of_the_page_on_budgets_is_one():
    page = (Path(__file__).parents[2] / "docs" / "budgets.md").read_text(encoding="utf-8")
    example, *_ = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    budget = SuiteBudget.model_validate_json(json.dumps(yaml.safe_load(example)["budget"]))
    (only,) = budget.budgets(sized=True)
    assert (only.parameter_target, only.given) == (("adapter_parameters", 147_456), ["train_tokens"])
    assert budget.budgets(sized=False) == (only,)
    for axis in (*AXES, *PARAMETER_AXES):
        assert f"`{axis}`" in page


def test_every_axis_is_a_field_of_all_that_has_work_or_parameters():
    assert get_args(Axis) == AXES
    for axis in AXES:
        assert axis in Work.model_fields and axis in TrainingSpec.model_fields
        assert WORK[axis].used in Speed.model_fields
    for axis in PARAMETER_AXES:
        assert axis in Budget.model_fields and axis in SuiteBudget.model_fields
    assert CountedParameters(total=9, adapter=1, head=2, trained=3, stored=4).on("stored_parameters") == 4


def test_the_cost_of_a_batch_is_counted_by_its_axis():
    batch = [{"input_ids": [1, 2, 3]}, {"input_ids": [4]}]
    axes = ("train_examples", "train_tokens", "train_flops")
    assert [WORK[axis].of_batch(batch, lambda _: 700) for axis in axes] == [2, 4, 700]
