"""Without bitsandbytes, `qlora` is refused by name before any run. With it: tests/tuners/test_four_bit.py."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.size_fitting import count_method
from lora_bench.records.budget import Budget
from lora_bench.tuners.four_bit import PackedShape, packed
from tests.tiny import CLASSIFIERS, tiny_roberta

WIDE = {"hidden_size": 64, "intermediate_size": 128}


def base_model(folder, family):
    """A base model of 2 layers of width 64: bitsandbytes packs 64 weights of a row at a time."""
    CLASSIFIERS[family](**({"n_embd": 64} if family == "gpt2" else WIDE)).save_pretrained(folder / "base")
    return find_model(str(folder / "base"), base=folder)


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_a_plan_says_that_bitsandbytes_is_missing(tmp_path, monkeypatch, family):
    monkeypatch.setattr("lora_bench.tuners.four_bit.is_installed", lambda: False)
    base = base_model(tmp_path, family)
    fit = count_method(known_methods()["qlora"](), base, "classification", 2, Budget(train_examples=1))
    assert fit.reason == "a base in four bits needs bitsandbytes: pip install 'lora_bench[qlora]'"


@pytest.mark.parametrize("family", ["roberta", "deberta-v3", "gpt2"])
def test_a_plan_counts_qlora_from_shapes(tmp_path, monkeypatch, family):
    """With bitsandbytes or without: on the meta device nothing is packed, and nothing of it is called."""
    monkeypatch.setattr("lora_bench.tuners.four_bit.is_installed", lambda: True)
    base = base_model(tmp_path, family)
    model, head = load_model(base, kind="classification", labels=2, on_meta=True)
    adapted = known_methods()["qlora"](rank=4).apply(model, head=list(head))
    assert sum(isinstance(module, PackedShape) for module in adapted.modules()) == 2 * (4 if family == "gpt2" else 6)
    assert not any(isinstance(module, Conv1D) for module in adapted.modules())
    qlora, lora = (
        count_method(
            known_methods()[name](rank=4, targets=("all",)), base, "classification", 2, Budget(train_examples=1)
        )
        for name in ("qlora", "lora")
    )
    assert qlora.parameters == lora.parameters and lora.saved_bytes == 0
    # 2 layers: 4 square weights, or GPT-2's fused one and another, and two of the feed-forward block.
    feed_forward = 256 if family == "gpt2" else 128
    shapes = [64 * 192, 64 * 64] if family == "gpt2" else [64 * 64] * 4
    weights = [*shapes, 64 * feed_forward, feed_forward * 64]
    assert qlora.saved_bytes == 2 * sum(4 * count - count // 2 - count // 64 - 4 for count in weights)


def test_rows_that_are_no_multiple_of_64_are_refused(monkeypatch):
    monkeypatch.setattr("lora_bench.tuners.four_bit.is_installed", lambda: True)
    with pytest.raises(UnsupportedPair, match=r"64 weights of a row at a time, and rows of \S+query have 32"):
        known_methods()["qlora"]().apply(tiny_roberta(), head=["classifier"])


def test_the_stand_in_of_a_packed_weight_has_the_shapes_of_its_module():
    module = torch.nn.Linear(6, 3, device="meta")
    stand_in = packed(module)
    assert stand_in(torch.empty(2, 6, device="meta")).shape == (2, 3) and stand_in.bias is module.bias
    # 18 weights: 9 bytes, one scale and the scale of that.
    assert (stand_in.weight.numel(), stand_in.scales.numel(), stand_in.outer_scales.numel()) == (9, 1, 1)
    turned = packed(Conv1D(3, 6).to("meta"))
    assert (turned.in_features, turned.out_features) == (6, 3)
