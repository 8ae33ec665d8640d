"""A family is one declaration: every method that its layers have a site for works on it."""

import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import T5EncoderModel

from lora_bench.errors import UnsupportedPair
from lora_bench.families import FAMILIES, ROLES, family_of
from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_model
from lora_bench.tuners import BottleneckConfig, FusedLoraConfig, PrefixConfig, prefix_from_words
from lora_bench.tuners.attention import ATTENTIONS, Prefix, attend_mpnet, attend_t5
from lora_bench.tuners.prefix import fold
from lora_bench.tuners.trial import fault_of
from tests.tiny import tiny_phi4

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
# What differs between families is where their layers have sites, and how they attend: these reach all of it. Each of the other
# methods is fast in every sixth family, and slow in the rest.
REACHING = [
    options for options in METHODS
    if options["name"] in ("bottleneck_adapter", "prefix_layer", "bitfit") or options == {"name": "prefix_tuning"}
    or options == {"name": "lora", "targets": ("all",)}
]  # fmt: skip
OTHERS = [options for options in METHODS if options not in REACHING]
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
    "t5": {"bitfit": NO_BIASES},
    "bart": {"parallel": "bart has no parallel adapter"},
}  # fmt: skip
"""A row for each family without a model in `tests.tiny`: what it refuses, by a word of `METHODS`, and why."""


BEHIND = [name for name in WITHOUT if family_of(name).cross_attention is not None]
"""Families with a decoder behind an encoder."""


def each_method_in(families):
    """Every family with every method, of which some are slow; see `REACHING`."""
    families = [*families]
    table = [(family, options) for family in families for options in METHODS]
    fast = [(family, OTHERS[place % len(OTHERS)]) for place, family in enumerate(families)]
    return pytest.mark.parametrize(
        ("family", "options"),
        [
            pytest.param(
                family, options, id="-".join([family, *map(str, options.values())]),
                marks=() if options in REACHING or (family, options) in fast else pytest.mark.slow,
            )
            for family, options in table
        ],
    )  # fmt: skip


def method_of(options):
    return known_methods()[options["name"]](**{key: value for key, value in options.items() if key != "name"})


def test_every_family_has_a_row_here_or_a_model_among_the_tiny_ones():
    assert {family.name for family in FAMILIES} == WITHOUT.keys() | {"roberta", "deberta", "deberta-v2", "gpt2"}


@each_method_in(WITHOUT)
def test_contract(family, options):
    reasons = [WITHOUT[family][str(value)] for value in options.values() if str(value) in WITHOUT[family]]
    if reasons:
        model, head = tiny_model(family)
        with pytest.raises(UnsupportedPair, match=reasons[0]):
            method_of(options).apply(model, head=head)
    else:
        check_method(method_of(options), families=[family])


@each_method_in(BEHIND)
def test_contract_of_models_that_write_behind_an_encoder(family, options):
    if any(str(value) in WITHOUT[family] for value in options.values()):
        with pytest.raises(UnsupportedPair):
            method_of(options).apply(tiny_model(family, "generation")[0], head=[])
    else:
        check_method(method_of(options), families=[family], kind="generation")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_contract_of_models_that_continue_a_text(family):
    check_method(method_of({"name": "lora"}), families=[family], kind="generation")


@pytest.mark.parametrize("family", [name for name in WITHOUT if family_of(name).encoder is not None])
def test_embeddings_of_virtual_tokens_work_where_layers_are_called_as_one(family):
    check_method(method_of({"name": "prefix_embedding"}), families=[family])


def count(family, kind="classification", **options):
    model, head = tiny_model(family, kind)
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


# Width of the keys of all heads, and projections of a feed-forward block of width 48; hidden states are 32 wide.
OF_BOTH = {"bart": (32, 2), "t5": (48, 3)}


@pytest.mark.parametrize("kind", ["classification", "generation"])
@pytest.mark.parametrize("family", OF_BOTH)
def test_counts_are_of_encoder_decoder_and_the_attention_between_them(family, kind):
    key, projections = OF_BOTH[family]
    layers, attentions = 2 + 2, 2 + 2 * 2
    assert count(family, kind, name="lora", rank=4) == attentions * 2 * 4 * (32 + key)
    assert count(family, kind, name="lora", rank=4, targets=("ffn",)) == layers * projections * 4 * (32 + 48)
    assert count(family, kind, name="prefix_tuning", num_virtual_tokens=5) == attentions * 2 * 5 * key
    # No adapter stands behind the attention between them, and no activations of a layer's input are in front of its keys.
    assert count(family, kind, name="bottleneck_adapter", bottleneck_size=3) == layers * 2 * (2 * 32 * 3 + 3 + 32)
    assert count(family, kind, name="prefix_layer", num_virtual_tokens=5) == layers * 5 * 32
    # Encoder, decoder and the attention between them have a network each, of 6 units.
    of_each = 5 * key + 6 * key + 6 + 2 * (2 * key * 6 + 2 * key)
    options = {"num_virtual_tokens": 5, "reparameterised": True, "reparameterisation_width": 6}
    assert count(family, kind, name="prefix_tuning", **options) == 3 * of_each


@pytest.mark.parametrize("family", BEHIND)
def test_folding_three_networks_changes_no_answer(family):
    base, _ = tiny_model(family, "generation")
    config = PrefixConfig(num_virtual_tokens=3, reparameterised=True, reparameterisation_width=6)
    model = get_peft_model(base, config).eval()
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        before = model(input_ids=ids, labels=ids).logits
        fold(model)
        after = model(input_ids=ids, labels=ids).logits
    assert torch.allclose(after, before, atol=1e-6)
    assert sum(".prefix_key." in path for path, _ in model.named_parameters()) == 6


@pytest.mark.parametrize(
    ("family", "path", "key", "value", "name"),
    [
        ("t5", "decoder.block.1.layer.1.EncDecAttention", "k", "v", "mask"),
        ("bart", "model.decoder.layers.1.encoder_attn", "k_proj", "v_proj", "attention_mask"),
    ],
)
def test_a_prefix_before_an_encoders_keys_is_more_tokens_of_the_encoder(family, path, key, value, name):
    attention = tiny_model(family, "generation")[0].get_submodule(path)
    x, encoded = torch.randn(2, 4, 32), torch.randn(2, 8, 32)
    mask = torch.ones(2, 1, 4, 8, dtype=torch.bool)
    mask[1, ..., 6:] = False
    with torch.no_grad():
        want = attention(x, key_value_states=encoded, **{name: mask})[0]
        # The first three of eight tokens of each row are its prefix.
        for row in range(2):
            first = encoded[row, :3]
            prefix = Prefix(getattr(attention, key)(first), getattr(attention, value)(first))
            one = slice(row, row + 1)
            got = ATTENTIONS[family_of(family).prefix_kind](
                attention, prefix, x[one], key_value_states=encoded[one, 3:], **{name: mask[one, ..., 3:]}
            )[0]
            assert (got - want[one]).abs().max() < 1e-6


def test_t5s_prefix_has_no_position_and_leaves_the_bias_to_the_next_layer():
    model, _ = tiny_model("t5", "generation")
    attention = model.encoder.block[0].layer[0].SelfAttention
    x = torch.randn(2, 8, 32)
    with torch.no_grad():
        bias = attention.compute_bias(8, 8)
        bias[..., :3] = 0
        want = attention(x, position_bias=bias)[0][:, 3:]
        for row in range(2):
            prefix = Prefix(attention.k(x[row, :3]), attention.v(x[row, :3]))
            got, seen, *_ = attend_t5(attention, prefix, x[row : row + 1, 3:])
            assert torch.equal(seen, attention.compute_bias(5, 5))
            assert (got - want[row : row + 1]).abs().max() < 1e-6


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


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel", "lin"])
def test_the_feed_forward_half_of_t5_is_what_the_formula_says(variant):
    model, _ = tiny_model("t5")
    config = BottleneckConfig(bottleneck_size=3, variant=variant, non_linearity="tanh")
    model = get_peft_model(T5EncoderModel(model.config), config).eval()
    block = model.get_base_model().encoder.block[1]
    base = getattr(block, "base_layer", block).layer[1]  # `lin` wraps the layer
    site = block if variant == "lin" else base.DenseReluDense
    down, up = site.bottleneck_down["default"], site.bottleneck_up["default"]
    network = getattr(base.DenseReluDense, "base_layer", base.DenseReluDense)

    def update(z):
        return torch.tanh(z @ down.weight.T + down.bias) @ up.weight.T + up.bias

    with torch.no_grad():
        up.weight.normal_()
        up.bias.normal_()
        x = torch.randn(2, 5, 32)
        if variant == "lin":
            whole, *bias = block(x)
            plain, *same = block.base_layer(x)
            assert (whole - plain - update(torch.nn.functional.layer_norm(plain, (32,)))).abs().max() < 1e-5
            assert torch.equal(bias[0], same[0]) and (whole - plain).abs().max() > 0.1
            return
        z = base.layer_norm(x)
        y = network(z)
        want = {
            "houlsby": x + y + update(y),
            "pfeiffer": x + y + update(y),
            "parallel": x + y + update(z),
        }[variant]
        assert (base(x) - want).abs().max() < 1e-5
        assert (base(x) - x - y).abs().max() > 0.1


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


@pytest.mark.parametrize("use_dora", [False, True])
def test_queries_wider_than_keys_have_one_update_of_their_own(use_dora, tmp_path):
    base = tiny_phi4()
    plain = {path: module.weight.detach().clone() for path, module in base.named_modules() if path.endswith("qkv_proj")}
    model = get_peft_model(base, FusedLoraConfig(r=4, lora_alpha=8, roles=["query", "value"], use_dora=use_dora)).eval()
    lengths = 2 * (32 + 16) if use_dora else 0
    assert model.get_nb_trainable_parameters()[0] == 2 * 4 * ((32 + 32) + (32 + 16)) + lengths
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "lora_B" in path:
                weight.normal_()
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        beside = model(input_ids=ids).logits
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_phi4(), tmp_path).eval()
        assert torch.allclose(loaded(input_ids=ids).logits, beside, atol=1e-6)
        updates = {}
        for path, layer in model.get_base_model().named_modules():
            if path in plain:
                A, B = layer.fused_lora_A["default"], layer.fused_lora_B["default"].flatten(0, 1)
                # Phi3Attention: queries are the first 32 rows, values the last 16
                rows = torch.cat([plain[path][:32] + 2 * B[:32] @ A[0], plain[path][48:] + 2 * B[32:] @ A[1]])
                if use_dora:
                    old = torch.cat([plain[path][:32], plain[path][48:]]).norm(dim=1, keepdim=True)
                    rows = rows * old / rows.norm(dim=1, keepdim=True)
                updates[path] = torch.cat([rows[:32], plain[path][32:48], rows[32:]])
        merged = model.merge_and_unload()
        for path, weight in updates.items():
            assert torch.allclose(merged.get_submodule(path).weight, weight, atol=1e-5)
        assert torch.allclose(merged(input_ids=ids).logits, beside, atol=1e-5)


@pytest.mark.parametrize("options", [{"name": "lora"}, {"name": "lora", "targets": ("all",)}, {"name": "prefix_layer"}])
def test_phi4_trains(options):
    model = method_of(options).apply(tiny_phi4(), head=["score"])
    assert fault_of(model, options["name"], ["score"]) is None


def test_the_words_of_a_prefix_are_the_keys_and_values_of_shared_heads():
    base = tiny_phi4(writes=True)
    model = get_peft_model(base, PrefixConfig(num_virtual_tokens=3)).eval()
    prefix_from_words(model, torch.tensor([5, 6, 7]))
    layer = model.get_base_model().model.layers[0]
    with torch.no_grad():
        found = layer.self_attn.base_layer.qkv_proj(
            layer.input_layernorm(base.model.embed_tokens(torch.tensor([5, 6, 7])))
        )
    assert torch.allclose(layer.self_attn.prefix_key["default"], found[:, 32:48], atol=1e-6)
    assert torch.allclose(layer.self_attn.prefix_value["default"], found[:, 48:], atol=1e-6)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", [*BEHIND, *(name for name in WITHOUT if family_of(name).causal)])
def test_a_model_writes_with_a_prefix_and_a_cache_what_it_writes_without_the_cache(family, beams):
    base, _ = tiny_model(family, "generation")
    model = get_peft_model(base, PrefixConfig(num_virtual_tokens=3, init_std=1.0)).eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0] if family in BEHIND else [0, 0, 9, 10]])
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    written = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how)
    assert torch.equal(written, model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how, use_cache=False))


@pytest.mark.parametrize("name", WITHOUT)
def test_every_part_and_site_that_is_declared_exists(name):
    model, _ = tiny_model(name)
    family = family_of(name)
    blocks = [module for path, module in model.named_modules() if re.fullmatch(family.pattern(""), path)]
    assert len(blocks) == (4 if name in BEHIND else 2)  # of encoder and decoder
    for block in blocks:
        modules = dict(block.named_modules())
        across = family.cross_attention in modules
        for part in ROLES["all"]:
            paths = family.paths(part)
            twice = across and any(path.startswith(f"{family.cross_attention}.") for path in paths)
            assert sum(path in modules for path in paths) == (1 + twice if paths else 0)
        for path in (family.self_attention, family.attention_norm):
            assert path is None or path in modules
        for site in family.bottleneck_sites.values():
            # The feed-forward block of T5 has another place in its decoder.
            assert all(path in modules or "DenseReluDense" in path for path in site.modules)
    if name in BEHIND:
        assert sum(family.cross_attention in dict(block.named_modules()) for block in blocks) == 2
