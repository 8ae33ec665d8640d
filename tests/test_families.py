"""Every name a family declares exists in real models, in every layer and nowhere else."""

import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, T5Config, T5ForSequenceClassification, T5ForTokenClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lora_bench.errors import LoraBenchError
from lora_bench.families import FAMILIES, Family, family_of, hub_name, parts_of, roles_in_order
from lora_bench.models.loading import writes_on
from lora_bench.testing import tiny_model
from tests.tiny import CLASSIFIERS, HEAD_MODULES, HEADS, HIDDEN, LAYERS, MODELS, tiny_gpt2, tiny_roberta

PARTS = ("query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_out")


def matches(pattern: str, model) -> list[str]:
    return [path for path, _ in model.named_modules() if re.fullmatch(pattern, path)]


def family(model) -> Family:
    return family_of(model.config.model_type)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_one_module_with_a_weight_in_each_layer(name, part):
    model = MODELS[name]()
    found = matches(family(model).targets(part), model)
    assert len(found) == LAYERS
    assert all(hasattr(model.get_submodule(path), "weight") for path in found)


@pytest.mark.parametrize("name", MODELS)
def test_a_backbone_without_a_head_has_the_same_parts(name):
    model = AutoModel.from_config(MODELS[name]().config)
    assert len(matches(family(model).targets(*PARTS), model)) == LAYERS * (4 if family(model).fused else 6)


def test_query_and_value_are_two_modules_where_they_are_apart_and_one_where_they_are_fused():
    assert len(matches(family_of("roberta").targets("query", "value"), tiny_roberta())) == 2 * LAYERS
    assert len(matches(family_of("gpt2").targets("query", "value"), tiny_gpt2())) == LAYERS


@pytest.mark.parametrize(
    ("name", "fused"), [("roberta", False), ("deberta", True), ("deberta-v2", False), ("gpt2", True)]
)
def test_fused_modules_compute_three_times_the_width(name, fused):
    model = MODELS[name]()
    assert family(model).fused is fused
    query = model.get_submodule(matches(family(model).targets("query"), model)[0])
    assert sorted(query.weight.shape) == ([HIDDEN, 3 * HIDDEN] if fused else [HIDDEN, HIDDEN])


@pytest.mark.parametrize("name", MODELS)
def test_roles_name_every_part_and_a_module_knows_its_own(name):
    model = MODELS[name]()
    assert parts_of(["all"]) == parts_of(["query", "key", "value", "output", "ffn"])
    assert set(parts_of(["all"])) == {*PARTS, "feed_forward_gate"}
    for path in matches(family(model).targets(*PARTS), model):
        assert all(path in matches(family(model).targets(part), model) for part in family(model).parts_at(path))
        assert len(family(model).parts_at(path)) in ((1, 3) if family(model).fused else (1,))
    assert family(model).parts_at("classifier.dense") == ()
    assert (family(model).fused_layout is not None) == family(model).fused


def test_roles_are_written_in_one_way():
    assert roles_in_order(["value", "query"]) == roles_in_order(["query", "value"]) == ("query", "value")
    assert roles_in_order(["ffn", "output", "value", "key", "query"]) == roles_in_order(["all"]) == ("all",)
    for twice in (["key", "key"], ["all", "key"]):
        with pytest.raises(ValueError, match="names something twice"):
            roles_in_order(twice)


def test_the_feed_forward_projection_is_not_the_attention_projection_of_the_same_ending():
    found = matches(family_of("roberta").targets("feed_forward_out"), tiny_roberta())
    assert found == ["roberta.encoder.layer.0.output.dense", "roberta.encoder.layer.1.output.dense"]


@pytest.mark.parametrize("name", MODELS)
def test_every_bottleneck_site_and_the_attention_exist_in_each_layer(name):
    model = MODELS[name]()
    for site in family(model).bottleneck_sites.values():
        found = matches(family(model).pattern(*site.modules), model)
        assert len(found) == LAYERS * len(site.modules)
        assert matches(family(model).pattern(*site.modules, without_layers=[0]), model) == found[len(site.modules) :]
    assert len(matches(family(model).pattern(family(model).self_attention), model)) == LAYERS


@pytest.mark.parametrize("name", MODELS)
def test_config_keys_hold_width_heads_and_layers(name):
    config = MODELS[name]().config.to_dict()
    known = family_of(config["model_type"])
    sizes = (config[known.hidden_size_key], config[known.num_heads_key], config[known.num_layers_key])
    assert sizes == (HIDDEN, HEADS, LAYERS)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_heads_are_exactly_the_weights_that_the_backbone_lacks(name):
    model = CLASSIFIERS[name]()
    heads = family(model).head_modules(child for child, _ in model.named_children())
    assert heads == HEAD_MODULES[name]
    outside_backbone = {path for path, _ in model.named_parameters() if not path.startswith(model.base_model_prefix)}
    assert outside_backbone == {path for path, _ in model.named_parameters() if path.split(".")[0] in heads}


@pytest.mark.parametrize(
    ("projection", "feed_forward"), [("relu", ["wi", "wo"]), ("gated-gelu", ["wi_0", "wi_1", "wo"])]
)
@pytest.mark.parametrize("model_class", [T5ForSequenceClassification, T5ForTokenClassification])
def test_parts_of_t5_lie_in_encoder_and_decoder_in_both_versions_and_without_a_decoder(
    model_class, projection, feed_forward
):
    config = T5Config(
        vocab_size=50, d_model=16, num_layers=2, num_heads=2, d_kv=8, d_ff=24, feed_forward_proj=projection
    )
    model = model_class(config)
    halves = {"encoder": ["0.SelfAttention"], "decoder": ["0.SelfAttention", "1.EncDecAttention"]}
    if model_class is T5ForTokenClassification:
        del halves["decoder"]
    found = matches(family(model).targets(*PARTS, "feed_forward_gate"), model)
    assert found == [
        f"transformer.{stack}.block.{index}.layer.{name}"
        for stack, attentions in halves.items()
        for index in range(2)
        for name in [
            *(f"{attention}.{part}" for attention in attentions for part in "qkvo"),
            *(f"{len(attentions)}.DenseReluDense.{part}" for part in feed_forward),
        ]
    ]
    assert all(len(family(model).parts_at(path)) == 1 for path in found)
    heads = family(model).head_modules(child for child, _ in model.named_children())
    assert heads == ["classification_head" if model_class is T5ForSequenceClassification else "classifier"]


def test_a_language_model_has_no_head_of_its_own():
    assert family_of("gpt2").head_modules(child for child, _ in tiny_gpt2().named_children()) == []


@pytest.mark.parametrize("model_type", [model_type for known in FAMILIES for model_type in known.model_types])
def test_a_causal_family_is_one_that_transformers_has_write_and_not_fill_gaps(model_type):
    causal = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    assert family_of(model_type).causal == causal == writes_on(model_type)


@pytest.mark.parametrize("known", FAMILIES, ids=lambda known: known.name)
def test_the_tiny_model_of_a_family_is_of_its_type_and_size_without_dropout(known):
    model, head = tiny_model(known.name)
    config = model.config.to_dict()
    assert config["model_type"] == known.name and head and set(head) <= set(known.heads)
    assert [config[key] for key in (known.hidden_size_key, known.num_heads_key, known.num_layers_key)] == [32, 4, 2]
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert set(known.packed_types) <= set(known.model_types)


def test_a_name_from_before_repositories_had_owners_is_that_of_today():
    assert hub_name("roberta-base") == "FacebookAI/roberta-base"
    assert hub_name("gpt2-large") == "openai-community/gpt2-large"
    assert hub_name("my/own") == "my/own"


def test_no_two_families_claim_a_model_type():
    claimed = [model_type for known in FAMILIES for model_type in known.model_types]
    assert len(claimed) == len(set(claimed))


def test_an_unknown_model_type_is_named_beside_the_known_ones():
    with pytest.raises(
        LoraBenchError, match=r"unknown model type 'robertta'; did you mean 'roberta'\?.*deberta-v2.*gpt2"
    ):
        family_of("robertta")


def test_reading_families_loads_no_torch():
    code = "import sys, lora_bench.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
