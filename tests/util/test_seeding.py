"""Randomness is a pure function of what it is for."""

import copy

import pytest
import torch

from lora_bench.methods import known_methods
from lora_bench.util.seeding import adapters_drawn_from, distinct_rows, draw_head, epoch_order, seed_for
from tests.tiny import tiny_roberta


def test_seeds_differ_with_every_part_and_are_never_joined_by_accident():
    assert seed_for("order", 1, 23) != seed_for("order", 12, 3)
    assert seed_for("a", "b") == seed_for("a", "b")
    assert 0 <= seed_for("x") < 2**63


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own():
    first, second = (epoch_order(7, epoch, examples=10) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == epoch_order(7, 0, examples=10)
    assert first != epoch_order(8, 0, examples=10)


def test_the_order_is_the_same_with_every_version_of_every_library():
    # From the sha256 of "order", 0, 0 and each index; another order would change every score.
    assert epoch_order(0, 0, examples=6) == [0, 3, 4, 2, 1, 5]


def test_distinct_rows_are_the_first_of_one_permutation_that_never_changes():
    assert sorted(distinct_rows(0, 6, 6)) == list(range(6))
    assert distinct_rows(0, 6, 2) == distinct_rows(0, 6, 6)[:2] == [2, 3]


def test_heads_start_equal_across_methods_and_differ_between_seeds():
    def head_after(method, seed):
        model = tiny_roberta()
        draw_head(model, ["classifier"], seed)
        with adapters_drawn_from(seed):
            adapted = known_methods()[method]().apply(model, head=["classifier"])
        return {
            name.split("classifier.")[1].replace("modules_to_save.default.", ""): weight.detach().clone()
            for name, weight in adapted.named_parameters()
            if "classifier" in name and weight.requires_grad
        }

    reference = head_after("full", 0)
    assert set(reference) == {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
    for method in ("lora", "bottleneck_adapter", "prefix_tuning"):
        assert all(torch.equal(weight, reference[name]) for name, weight in head_after(method, 0).items())
    assert not torch.equal(head_after("lora", 1)["dense.weight"], reference["dense.weight"])


@pytest.mark.parametrize(
    ("method", "drawn", "sites"),
    [("lora", "lora_A", 4), ("bottleneck_adapter", "bottleneck_down", 4), ("prefix_tuning", "prefix_key", 2)],
)
def test_adapter_weights_depend_on_the_seed_and_the_site_and_on_nothing_before(method, drawn, sites):
    base = tiny_roberta()

    def adapters(seed, disturb, layers=2):
        model = copy.deepcopy(base)
        del model.roberta.encoder.layer[layers:]
        torch.manual_seed(disturb)
        torch.rand(disturb)
        with adapters_drawn_from(seed):
            adapted = known_methods()[method]().apply(model, head=["classifier"])
        return {
            name: weight.detach()
            for name, weight in adapted.named_parameters()
            if drawn in name and name.endswith(("weight", "default"))
        }

    first, again, other, lower = adapters(0, 1), adapters(0, 5), adapters(1, 1), adapters(0, 1, layers=1)
    assert len(first) == sites and len(lower) == sites // 2
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], lower[name]) for name in lower)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    values = list(first.values())
    assert not torch.equal(values[0], values[1])


def test_peft_still_creates_adapters_where_we_seed_them():
    # The canary for the private name that `adapters_drawn_from` relies on.
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    import lora_bench.tuners  # noqa: F401

    for name in ("LORA", "ADALORA", "VERA", "BOTTLENECK_ADAPTER", "LORA_BENCH_PREFIX"):
        assert any("_create_and_replace" in vars(cls) for cls in PEFT_TYPE_TO_TUNER_MAPPING[name].__mro__)
