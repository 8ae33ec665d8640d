"""A family is one declaration: Llama and ModernBERT show that every method which their layers have a site for works."""

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lora_bench.errors import UnsupportedPair
from lora_bench.families import LLAMA, MODERNBERT
from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_model
from lora_bench.tuners import FusedLoraConfig, PrefixConfig

METHODS = [
    {"name": "full"},
    {"name": "full", "top_layers": 1},
    {"name": "lora"},
    {"name": "lora", "targets": ("all",)},
    {"name": "lora", "use_dora": True},
    {"name": "bottleneck_adapter", "variant": "houlsby"},
    {"name": "bottleneck_adapter", "variant": "pfeiffer"},
    {"name": "bottleneck_adapter", "variant": "parallel"},
    {"name": "bottleneck_adapter", "variant": "lin"},
    {"name": "prefix_tuning"},
    {"name": "prefix_tuning", "reparameterised": True},
    {"name": "prefix_layer"},
    {"name": "bitfit"},
    {"name": "peft", "type": "HRA", "targets": ("output",)},
]
WITHOUT = {
    ("llama", "bitfit"): "has no biases outside of its head",
    ("modernbert", "bitfit"): "has no biases outside of its head",
    ("modernbert", "lin"): "modernbert has no lin adapter",
    ("modernbert", "prefix_tuning"): "no key/value prefix is written for the attention of modernbert",
    ("modernbert", "prefix_layer"): "no key/value prefix is written for the attention of modernbert",
}


def method_of(options):
    return known_methods()[options["name"]](**{key: value for key, value in options.items() if key != "name"})


@pytest.mark.parametrize("family", ["llama", "modernbert"])
@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_contract(family, options):
    reasons = [WITHOUT[family, str(value)] for value in options.values() if (family, str(value)) in WITHOUT]
    if reasons:
        model, head = tiny_model(family)
        with pytest.raises(UnsupportedPair, match=reasons[0]):
            method_of(options).apply(model, head=head)
    else:
        check_method(method_of(options), families=[family])


def count(family, **options):
    model, head = tiny_model(family)
    model = method_of(options).apply(model, head=head)
    return sum(w.numel() for path, w in model.named_parameters() if w.requires_grad and "modules_to_save" not in path)


def test_counts_on_llama_with_keys_shared_by_two_heads_and_a_gate():
    # 2 layers of width 32, feed-forward width 48, keys and values 16 wide
    assert count("llama", name="lora", rank=4) == 2 * 4 * ((32 + 32) + (32 + 16))
    assert count("llama", name="lora", rank=4, targets=("ffn",)) == 2 * 4 * 3 * (32 + 48)
    assert count("llama", name="prefix_tuning", num_virtual_tokens=5) == 2 * 5 * 2 * 16
    assert count("llama", name="prefix_layer", num_virtual_tokens=5) == 2 * 5 * 32


def test_counts_on_modernbert_with_one_weight_for_query_key_and_value():
    assert count("modernbert", name="lora", rank=4) == 2 * 2 * (4 * 32 + 32 * 4)
    # its first feed-forward projection computes the gate too
    assert count("modernbert", name="lora", rank=4, targets=("ffn",)) == 2 * 4 * ((32 + 96) + (48 + 32))


def test_modernberts_slices_are_query_key_and_value():
    model, _ = tiny_model("modernbert")
    model = get_peft_model(model, FusedLoraConfig(roles=["value"]))
    layer = model.get_base_model().model.layers[1].attn.Wqkv
    with torch.no_grad():
        layer.fused_lora_B["default"].normal_()
        x = torch.randn(2, 5, 32)
        # ModernBertAttention: qkv.view(*input_shape, 3, -1, self.head_dim).unbind(dim=-3)
        moved = (layer(x) - layer.base_layer(x)).view(2, 5, 3, 4, 8).unbind(dim=-3)
    assert [bool(part.any()) for part in moved] == [False, False, True]


@pytest.mark.parametrize("beams", [1, 3])
def test_llama_writes_with_a_prefix_and_a_cache_what_it_writes_without_the_cache(beams):
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(config), PrefixConfig(num_virtual_tokens=3, init_std=1.0)).eval()
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    written = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how)
    assert torch.equal(written, model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how, use_cache=False))


@pytest.mark.parametrize(("name", "family"), [("llama", LLAMA), ("modernbert", MODERNBERT)])
def test_every_part_and_site_that_is_declared_exists(name, family):
    model, _ = tiny_model(name)
    for layer in range(2):
        block = model.get_submodule(f"model.layers.{layer}")
        parts = (
            "query",
            "key",
            "value",
            "attention_output",
            "feed_forward_in",
            "feed_forward_gate",
            "feed_forward_out",
        )
        for part in (*parts, "self_attention", "attention_norm"):
            path = getattr(family, part)
            assert path is None or block.get_submodule(path) is not None
        for site in family.bottleneck_sites.values():
            assert all(block.get_submodule(path) is not None for path in site.modules)
