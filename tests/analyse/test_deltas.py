"""ΔW from kept weights is the difference of the merged and the base model's weights, for every way to get it."""

import copy

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lora_bench.analyse.deltas import NoDelta, deltas_of, weights_of
from lora_bench.methods import known_methods
from tests.tiny import tiny_deberta, tiny_gpt2_classifier, tiny_phi4, tiny_roberta

FAMILIES = {"roberta": tiny_roberta, "gpt2": tiny_gpt2_classifier, "deberta": tiny_deberta, "phi4": tiny_phi4}
HEADS = {"roberta": ["classifier"], "gpt2": ["score"], "phi4": ["score"], "deberta": ["pooler", "classifier"]}

FUSED = {
    "gpt2": "transformer.h.1.attn.c_attn",
    "deberta": "deberta.encoder.layer.1.attention.self.in_proj",
    "phi4": "model.layers.1.self_attn.qkv_proj",
}


def trained(family, method, options):
    """A model whose trained weights are moved, as a run moves them."""
    torch.manual_seed(0)
    model = known_methods()[method](**options).apply(FAMILIES[family](), head=HEADS[family])
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    return model


def dense(merged, base):
    """The difference of each linear module's weight, (out_features, in_features), by its path."""
    found = {}
    for path, module in merged.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            difference = (module.weight - base.get_submodule(path).weight).detach()
            found[path] = difference.T if isinstance(module, Conv1D) else difference
    return found


def found_in(family, model, folder):
    model.save_pretrained(folder)
    return deltas_of(FAMILIES[family](), folder, FAMILIES[family])


@pytest.mark.parametrize(
    ("method", "options", "factors"),
    [
        ("lora", {"rank": 3}, True),
        ("lora", {"rank": 4, "use_rslora": True, "scaling": 3.0}, True),
        ("lora", {"rank": 2, "targets": ["all"], "initialisation": "gaussian"}, True),
        ("lora", {"rank": 3, "use_dora": True}, False),
        ("lora", {"rank": 2, "initialisation": "pissa"}, False),
        ("full", {}, False),
        ("full", {"top_layers": 1}, False),
    ],
)
def test_it_is_the_difference_of_the_weights(method, options, factors, tmp_path):
    model = trained("roberta", method, options)
    found = found_in("roberta", model, tmp_path)
    merged = copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model
    expected = dense(merged, tiny_roberta())
    paths = {"query": "attention.self.query", "value": "attention.self.value", "feed_forward_out": "output.dense"}
    assert found
    for (layer, part), delta in found.items():
        if part not in paths:
            continue
        matrix = expected[f"roberta.encoder.layer.{layer}.{paths[part]}"].double()
        if factors:
            assert delta.matrix is None and delta.A is not None
            assert len(delta.delta.values) == options["rank"]
        assert torch.allclose((delta.delta.left * delta.delta.values) @ delta.delta.right.T, matrix, atol=1e-6)
        assert delta.delta.norm == pytest.approx(float(torch.linalg.matrix_norm(matrix)), rel=1e-4)
    changed = {part for _, part in found}
    assert changed == {"query", "value"} or len(changed) == 6


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "deberta", "phi4"])
def test_what_one_module_computes_together_is_taken_apart(family, use_dora, tmp_path):
    model = trained(family, "lora", {"rank": 2, "use_dora": use_dora})
    found = found_in(family, model, tmp_path)
    assert {part for _, part in found} == {"query", "value"}
    base, merged = FAMILIES[family](), copy.deepcopy(model).merge_and_unload()
    matrix = dense(merged, base)[FUSED[family]]
    if family == "gpt2":
        query, key, value = matrix.chunk(3)
    elif family == "phi4":  # two heads share a key
        query, key, value = matrix.split([32, 16, 16])
    else:  # query, key and value of one head after the other
        query, key, value = (part.flatten(0, 1) for part in matrix.reshape(4, 3, 8, 32).unbind(1))
    assert key.abs().max() < 1e-6
    for part, expected in (("query", query), ("value", value)):
        delta = found[1, part].delta
        assert torch.allclose((delta.left * delta.values) @ delta.right.T, expected.double(), atol=1e-6)


def test_pefts_update_of_a_weight_of_unequal_parts_is_taken_apart(tmp_path):
    model = trained("phi4", "peft", {"type": "LORA", "options": {"r": 2}, "targets": ("query",)})
    found = found_in("phi4", model, tmp_path)
    matrix = dense(copy.deepcopy(model).merge_and_unload(), tiny_phi4())[FUSED["phi4"]]
    for part, rows in zip(("query", "key", "value"), matrix.split([32, 16, 16]), strict=True):
        delta = found[1, part].delta
        assert torch.allclose((delta.left * delta.values) @ delta.right.T, rows.double(), atol=1e-6)


def test_the_base_model_is_the_same_afterwards(tmp_path):
    trained("roberta", "lora", {"rank": 2}).save_pretrained(tmp_path)
    base = tiny_roberta()
    deltas_of(base, tmp_path, tiny_roberta)
    for (place, weight), (_, before) in zip(weights_of(base), weights_of(tiny_roberta()), strict=True):
        assert torch.equal(weight, before), place


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("bitfit", "no weight matrix"),
        ("prefix_tuning", "cannot be merged"),
        ("bottleneck_adapter", "cannot be merged"),
    ],
)
def test_a_method_without_a_delta_says_so(method, said, tmp_path):
    with pytest.raises(NoDelta, match=said):
        found_in("roberta", trained("roberta", method, {}), tmp_path)
