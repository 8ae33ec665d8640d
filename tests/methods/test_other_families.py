"""A family is one declaration: every method that its layers have a site for works on it."""

import re

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, T5EncoderModel

from lora_bench.errors import UnsupportedPair
from lora_bench.families import FAMILIES, ROLES, family_of
from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_model
from lora_bench.tuners import BottleneckConfig, FusedLoraConfig, PrefixActivationConfig, PrefixConfig
from lora_bench.tuners.attention import Prefix, attend_mpnet

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
NO_PREFIX = "no key/value prefix is written for the attention of"
NO_BIASES = "has no biases outside of its head"
NO_CACHE = {"prefix_tuning": NO_PREFIX, "prefix_layer": NO_PREFIX}
WITHOUT = {
    "mpnet": {},
    "distilbert": {**NO_CACHE, "pfeiffer": "distilbert has no pfeiffer adapter"},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {},
    "albert": {**NO_CACHE, "parallel": "albert has no parallel adapter", "pfeiffer": "albert has no pfeiffer adapter"},
    "llama": {"bitfit": NO_BIASES},
    "mistral": {"bitfit": NO_BIASES},
    "qwen2": {},
    "qwen3": {"bitfit": NO_BIASES},
    "gemma2": {"bitfit": NO_BIASES},
    "gemma3_text": {"bitfit": NO_BIASES},
    "phi3": {"bitfit": NO_BIASES},
    "gpt_neox": {},
    "opt": {"parallel": "opt has no parallel adapter"},
    "modernbert": {"bitfit": NO_BIASES, "lin": "modernbert has no lin adapter", **NO_CACHE},
    "t5": {"bitfit": NO_BIASES, **NO_CACHE},
    "bart": {"parallel": "bart has no parallel adapter"},
}  # fmt: skip
"""A row for each family without a model in `tests.tiny`: what it refuses, by a word of `METHODS`, and why."""


def method_of(options):
    return known_methods()[options["name"]](**{key: value for key, value in options.items() if key != "name"})


def test_every_family_has_a_row_here_or_a_model_among_the_tiny_ones():
    assert {family.name for family in FAMILIES} == WITHOUT.keys() | {"roberta", "deberta", "deberta-v2", "gpt2"}


@pytest.mark.parametrize("family", WITHOUT)
@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
def test_contract(family, options):
    reasons = [WITHOUT[family][str(value)] for value in options.values() if str(value) in WITHOUT[family]]
    if reasons:
        model, head = tiny_model(family)
        with pytest.raises(UnsupportedPair, match=reasons[0]):
            method_of(options).apply(model, head=head)
    else:
        check_method(method_of(options), families=[family])


@pytest.mark.parametrize("family", [name for name in WITHOUT if family_of(name).encoder is not None])
def test_embeddings_of_virtual_tokens_work_where_layers_are_called_as_one(family):
    check_method(method_of({"name": "prefix_embedding"}), families=[family])


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


def test_counts_on_mpnet():
    # 2 layers of width 32, feed-forward width 48
    assert count("mpnet", name="lora", rank=4) == 2 * 2 * 4 * (32 + 32)
    assert count("mpnet", name="lora", rank=4, targets=("ffn",)) == 2 * 2 * 4 * (32 + 48)
    assert count("mpnet", name="bottleneck_adapter", bottleneck_size=3) == 2 * 2 * (2 * 32 * 3 + 3 + 32)
    assert count("mpnet", name="prefix_tuning", num_virtual_tokens=5) == 2 * 5 * 2 * 32
    assert count("mpnet", name="prefix_layer", num_virtual_tokens=5) == 2 * 5 * 32
    assert count("mpnet", name="prefix_embedding", num_virtual_tokens=5) == 5 * 32


def test_counts_on_bart_are_of_encoder_and_decoder():
    # 2 layers in each, of width 32, feed-forward width 48
    assert count("bart", name="lora", rank=4) == 2 * 2 * 2 * 4 * (32 + 32)
    assert count("bart", name="lora", rank=4, targets=("ffn",)) == 2 * 2 * 2 * 4 * (32 + 48)
    assert count("bart", name="bottleneck_adapter", bottleneck_size=3) == 2 * 2 * 2 * (2 * 32 * 3 + 3 + 32)
    assert count("bart", name="prefix_tuning", num_virtual_tokens=5) == 2 * 2 * 5 * 2 * 32


def test_mpnets_prefix_is_more_keys_and_values_without_a_position_bias():
    model, _ = tiny_model("mpnet")
    attention = model.mpnet.encoder.layer[1].attention.attn
    x, bias = torch.randn(2, 8, 32), torch.randn(2, 4, 8, 8)
    bias[..., :3] = 0
    mask = torch.zeros(2, 1, 1, 8)
    mask[1, ..., 6:] = torch.finfo(torch.float32).min
    prefix = Prefix(attention.k(x[:, :3]), attention.v(x[:, :3]))
    with torch.no_grad():
        # The first three of eight tokens serve as the prefix of the other five.
        want = attention(x, mask, bias, output_attentions=True)
        got = attend_mpnet(attention, prefix, x[:, 3:], mask[..., 3:], bias[..., 3:, 3:], output_attentions=True)
    assert (got[0] - want[0][:, 3:]).abs().max() < 1e-6
    assert (got[1] - want[1][:, :, 3:]).abs().max() < 1e-6


def test_counts_on_modernbert_with_one_weight_for_query_key_and_value():
    assert count("modernbert", name="lora", rank=4) == 2 * 2 * (4 * 32 + 32 * 4)
    # its first feed-forward projection computes the gate too
    assert count("modernbert", name="lora", rank=4, targets=("ffn",)) == 2 * 4 * ((32 + 96) + (48 + 32))


def test_counts_on_t5_are_those_of_its_encoder():
    # 2 layers of width 32, feed-forward width 48 with a gate; the decoder's 2 layers get nothing
    assert count("t5", name="lora", rank=4) == 2 * 2 * 4 * (32 + 32)
    assert count("t5", name="lora", rank=4, targets=("ffn",)) == 2 * 4 * 3 * (32 + 48)
    assert count("t5", name="bottleneck_adapter", bottleneck_size=3) == 2 * 2 * (2 * 32 * 3 + 3 + 32)


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel", "lin"])
def test_the_feed_forward_half_of_t5_is_what_the_formula_says(variant):
    model, _ = tiny_model("t5")
    config = BottleneckConfig(bottleneck_size=3, variant=variant, non_linearity="tanh")
    model = get_peft_model(T5EncoderModel(model.config), config).eval()
    half = model.get_base_model().encoder.block[1].layer[1]
    [site] = [module for module in half.modules() if hasattr(module, "bottleneck_down")]
    down, up = site.bottleneck_down["default"], site.bottleneck_up["default"]
    base = getattr(half, "base_layer", half)  # of `lin`, which wraps the half itself
    network = getattr(base.DenseReluDense, "base_layer", base.DenseReluDense)  # of `parallel`

    def update(z):
        return torch.tanh(z @ down.weight.T + down.bias) @ up.weight.T + up.bias

    with torch.no_grad():
        up.weight.normal_()
        up.bias.normal_()
        x = torch.randn(2, 5, 32)
        z = base.layer_norm(x)
        y = network(z)
        want = {
            "houlsby": x + y + update(y),
            "pfeiffer": x + y + update(y),
            "parallel": x + y + update(z),
            "lin": x + y + update(torch.nn.functional.layer_norm(x + y, (32,))),
        }[variant]
        assert (half(x) - want).abs().max() < 1e-5
        assert (half(x) - x - y).abs().max() > 0.1


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


# Width of the queries and of the keys and values of a layer, all heads together; hidden states are 32 wide.
WIDTHS = {
    "distilbert": (32, 32), "xlm-roberta": (32, 32), "camembert": (32, 32), "electra": (32, 32), "albert": (32, 32),
    "mistral": (32, 16), "qwen2": (32, 16), "qwen3": (48, 24), "gemma2": (48, 24), "gemma3_text": (48, 24),
    "phi3": (32, 32), "gpt_neox": (32, 32), "opt": (32, 32),
}  # fmt: skip
GATED = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")


@pytest.mark.parametrize("family", WIDTHS)
def test_counts_are_those_of_two_layers_with_a_feed_forward_block_of_48(family):
    query, key = WIDTHS[family]
    # ALBERT's two groups of weights serve two layers each, and are counted once
    assert count(family, name="lora", rank=4) == 2 * 4 * ((32 + query) + (32 + key))
    # Phi-3's first projection computes the gate too
    block = (32 + 96) + (48 + 32) if family == "phi3" else (3 if family in GATED else 2) * (32 + 48)
    assert count(family, name="lora", rank=4, targets=("ffn",)) == 2 * 4 * block
    assert count(family, name="bottleneck_adapter", bottleneck_size=3) == 2 * 2 * (2 * 32 * 3 + 3 + 32)
    if "prefix_tuning" not in WITHOUT[family]:
        assert count(family, name="prefix_tuning", num_virtual_tokens=5) == 2 * 5 * 2 * key


@pytest.mark.parametrize("family", WITHOUT)
def test_a_merged_update_answers_as_it_did_beside_the_weights(family):
    base, head = tiny_model(family)
    model = method_of({"name": "lora", "rank": 4, "targets": ("all",)}).apply(base, head=head).eval()
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        for path, weight in model.named_parameters():
            if "lora" in path:
                weight.normal_(std=0.2)
        beside = model(input_ids=ids).logits
        merged = model.merge_and_unload()(input_ids=ids).logits
    assert (beside - plain).abs().max() > 1e-3
    assert torch.allclose(merged, beside, atol=1e-5)


@pytest.mark.parametrize("config", [FusedLoraConfig(roles=["query"]), PrefixActivationConfig(num_virtual_tokens=2)])
def test_slices_of_unequal_widths_are_refused(config):
    base, _ = tiny_model("phi3")
    base.config.num_key_value_heads = 2
    base = type(base)(base.config)
    with pytest.raises(UnsupportedPair, match=r"queries and narrower keys in one weight.*peft"):
        get_peft_model(base, config)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", [name for name in WITHOUT if family_of(name).causal])
def test_a_model_writes_with_a_prefix_and_a_cache_what_it_writes_without_the_cache(family, beams):
    config = tiny_model(family)[0].config
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    model = get_peft_model(base, PrefixConfig(num_virtual_tokens=3, init_std=1.0)).eval()
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    written = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how)
    assert torch.equal(written, model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how, use_cache=False))


@pytest.mark.parametrize("name", WITHOUT)
def test_every_part_and_site_that_is_declared_exists(name):
    model, _ = tiny_model(name)
    family = family_of(name)
    blocks = [module for path, module in model.named_modules() if re.fullmatch(family.pattern(""), path)]
    assert len(blocks) == (4 if name == "bart" else 2)  # of encoder and decoder
    for block in blocks:
        modules = dict(block.named_modules())
        for part in ROLES["all"]:
            paths = family.paths(part)
            assert sum(path in modules for path in paths) == (1 if paths else 0)
        for path in (family.self_attention, family.attention_norm):
            assert path is None or path in modules
        for site in family.bottleneck_sites.values():
            assert all(path in modules for path in site.modules)
