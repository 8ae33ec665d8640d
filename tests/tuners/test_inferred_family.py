"""The family of a type that no family names is worked out from the model's structure."""

import dataclasses

import pytest
import torch
from peft import get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3MoeConfig,
    RoFormerConfig,
    Starcoder2Config,
)

from lora_bench.errors import UnsupportedPair
from lora_bench.families import Family, declared_family, family_of, forget
from lora_bench.methods import known_methods
from lora_bench.tuners import FusedLoraConfig, inferred_family
from lora_bench.tuners.inferred_family import family_of_model, infer_family
from lora_bench.tuners.trial import fault_of

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64, "pad_token_id": 0}
ENDS = {"bos_token_id": 1, "eos_token_id": 1}
ROFORMER = RoFormerConfig(**SIZES, intermediate_size=48, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
STARCODER2 = Starcoder2Config(**SIZES, **ENDS, intermediate_size=48, num_key_value_heads=2, residual_dropout=0.0)
BLOOM = BloomConfig(
    hidden_size=32, n_layer=2, n_head=4, vocab_size=64, pad_token_id=0, **ENDS, hidden_dropout=0.0, attention_dropout=0.0
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_declared():
    yield
    forget("roformer", "starcoder2", "bloom", "bert", "gpt2", "llama", "phi3", "qwen3_moe", "mixtral", "falcon")


def classifier(config):
    torch.manual_seed(0)
    config.num_labels = 3
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (BertConfig(**SIZES, intermediate_size=48), "bert"),
        (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, pad_token_id=0, **ENDS), "gpt2"),
        (LlamaConfig(**SIZES, **ENDS, intermediate_size=48, num_key_value_heads=2), "llama"),
        (Phi3Config(**SIZES, **ENDS, intermediate_size=48), "phi3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_worked_out_of_a_known_model_is_what_its_family_declares(config, parts):
    found, known = infer_family(classifier(config)), family_of(parts)
    same = ("query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_gate", "feed_forward_out",
            "self_attention", "attention_norm", "fused_layout", "prefix_kind", "hidden_size_key", "num_heads_key",
            "num_layers_key", "causal")  # fmt: skip
    assert {name: getattr(found, name) for name in same} == {name: getattr(known, name) for name in same}


@pytest.mark.parametrize("config", [ROFORMER, STARCODER2, BLOOM], ids=lambda config: config.model_type)
@pytest.mark.parametrize(
    "options",
    [{"name": "lora", "targets": ("all",)}, {"name": "bottleneck_adapter"}, {"name": "full", "top_layers": 1}],
    ids=lambda options: options["name"],
)
def test_methods_work_on_a_type_that_no_family_names(config, options):
    assert declared_family(config.model_type) is None
    model = classifier(config)
    head = list(family_of_model(model).heads)
    method = known_methods()[options["name"]](**{key: value for key, value in options.items() if key != "name"})
    assert fault_of(method.apply(model, head=head), method.name, head) is None


def test_models_of_one_structure_and_other_sizes_have_one_family():
    smaller = Starcoder2Config(**{**STARCODER2.to_dict(), "intermediate_size": 40})
    assert infer_family(classifier(STARCODER2)) == infer_family(classifier(smaller))


def test_counts_of_a_type_that_no_family_names():
    # 2 layers of width 32, keys and values 16 wide
    model = get_peft_model(classifier(STARCODER2), FusedLoraConfig(r=4, roles=["query", "value"]))
    assert model.get_nb_trainable_parameters()[0] == 2 * 4 * ((32 + 32) + (32 + 16))
    # Bloom's query, key and value of a head lie together in one weight
    model = get_peft_model(classifier(BLOOM), FusedLoraConfig(r=4, roles=["query"]))
    assert model.get_nb_trainable_parameters()[0] == 2 * 4 * (32 + 32)
    layer = model.get_base_model().transformer.h[1].self_attention.query_key_value
    with torch.no_grad():
        layer.fused_lora_B["default"].normal_()
        x = torch.randn(2, 5, 32)
        moved = (layer(x) - layer.base_layer(x)).view(2, 5, 4, 3, 8)  # as in BloomAttention
    assert [bool(moved[..., part, :].any()) for part in range(3)] == [True, False, False]


def test_a_prefix_is_claimed_where_it_was_tried():
    method = known_methods()["prefix_tuning"](num_virtual_tokens=3)
    assert fault_of(method.apply(classifier(STARCODER2), head=["score"]), method.name, ["score"]) is None
    for config in (BLOOM, ROFORMER):
        with pytest.raises(UnsupportedPair, match="no key/value prefix"):
            method.apply(classifier(config), head=[])


QWEN3_MOE = Qwen3MoeConfig(
    **SIZES, **ENDS, intermediate_size=48, moe_intermediate_size=24, num_key_value_heads=2, num_experts=4,
    num_experts_per_tok=2, head_dim=12,
)  # fmt: skip
MIXTRAL = MixtralConfig(**SIZES, **ENDS, intermediate_size=48, num_key_value_heads=2, num_local_experts=2)
# Its first layer has a feed-forward block, the second one experts.
MIXED = Qwen3MoeConfig(**{**QWEN3_MOE.to_dict(), "mlp_only_layers": [0]})
# Its last layer has a feed-forward block, the first one experts.
MIXED_BEFORE = Qwen3MoeConfig(**{**QWEN3_MOE.to_dict(), "mlp_only_layers": [1]})


@pytest.mark.parametrize(
    "config", [QWEN3_MOE, MIXTRAL, MIXED, MIXED_BEFORE], ids=["qwen3", "mixtral", "mixed", "before"]
)
def test_attention_of_a_mixture_of_experts_is_adapted_and_its_experts_are_not(config):
    query, key = (48, 24) if config.model_type == "qwen3_moe" else (32, 16)
    model = known_methods()["lora"](rank=4).apply(classifier(config), head=["score"])
    trained = [weight.numel() for path, weight in model.named_parameters() if "lora_" in path and weight.requires_grad]
    assert sum(trained) == 2 * 4 * ((32 + query) + (32 + key))
    assert fault_of(model, "lora", ["score"]) is None
    for method in (
        known_methods()["lora"](targets=("all",)),
        known_methods()["lora"](targets=("ffn",)),
        known_methods()["peft"](type="LORA", targets=("all",)),
    ):
        with pytest.raises(
            UnsupportedPair, match=r"feed-forward block of .*leave `ffn` and `all` out .*target_parameters"
        ):
            method.apply(classifier(config), head=["score"])
    with pytest.raises(UnsupportedPair, match="has no houlsby adapter"):
        known_methods()["bottleneck_adapter"]().apply(classifier(config), head=["score"])


@pytest.mark.parametrize("config", [QWEN3_MOE, MIXTRAL], ids=["qwen3", "mixtral"])
def test_tensors_of_experts_are_adapted_by_pefts_own_option(config):
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    options = {"r": 3, "target_modules": ["q_proj"], "target_parameters": experts}
    method = known_methods()["peft"](type="LORA", options=options)
    model = method.apply(classifier(config), head=["score"])
    assert fault_of(model, "peft", ["score"]) is None  # after a few steps
    merged, fresh = model.merge_and_unload().state_dict(), classifier(config).state_dict()
    tensors = [path for path in fresh if path.endswith(tuple(experts))]
    assert len(tensors) == 4
    for path in tensors:
        # Each expert has an update of its own; one to which no token was sent stays.
        ranks = torch.linalg.matrix_rank(merged[path] - fresh[path], rtol=1e-3).tolist()
        assert max(ranks) == 3 and sum(rank > 0 for rank in ranks) > 1, path


def test_what_cannot_be_told_is_named_with_the_way_to_name_it():
    config = FalconConfig(**SIZES, **ENDS, multi_query=True, new_decoder_architecture=False)
    with pytest.raises(UnsupportedPair, match=r"falcon.*query.*`family:`.*list models"):
        known_methods()["lora"]().apply(classifier(config), head=["score"])


def test_a_layer_without_the_modules_of_the_last_one_is_named(monkeypatch):
    monkeypatch.setattr(inferred_family, "_FOUND", {})
    model = classifier(STARCODER2)
    del model.model.layers[0].self_attn.k_proj
    with pytest.raises(UnsupportedPair, match="not every layer has the key"):
        infer_family(model)


def test_a_family_says_which_of_its_modules_are_not_there():
    family = dataclasses.replace(family_of("llama"), query="self_attn.query", attention_norm="norm")
    model = classifier(LlamaConfig(**SIZES, **ENDS, intermediate_size=48))
    paths = [path for path, _ in model.named_modules()]
    assert family_of("llama").lacks(paths) == []
    assert family.lacks(paths) == ["query", "attention_norm"]
    assert isinstance(family, Family) and dataclasses.replace(family, layer=r"blocks\.\d+").lacks(paths) == ["layer"]
