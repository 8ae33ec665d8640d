"""The names private to Python, PEFT and transformers that our tuners stand on, and what registering does.

When a release moves one of them, the first tests here say which.
"""

import copy
import inspect
import pickle
import subprocess
import sys

import peft
import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import PeftType
from peft.utils.other import set_additional_trainable_modules

from lora_bench.tuners import (
    BottleneckConfig,
    BottleneckModel,
    FusedLoraConfig,
    FusedLoraModel,
    PrefixActivationConfig,
    PrefixActivationModel,
    PrefixConfig,
    PrefixEmbeddingConfig,
    PrefixEmbeddingModel,
    PrefixModel,
    SelectedConfig,
    SelectedModel,
)
from lora_bench.tuners.attention import CACHE_ARGUMENTS
from lora_bench.tuners.registration import register
from tests.tiny import tiny_bert, tiny_deberta, tiny_deberta_v2, tiny_gpt2, tiny_roberta

OURS = {
    "BOTTLENECK_ADAPTER": (BottleneckConfig, BottleneckModel),
    "LORA_BENCH_FUSED_LORA": (FusedLoraConfig, FusedLoraModel),
    "LORA_BENCH_PREFIX": (PrefixConfig, PrefixModel),
    "LORA_BENCH_PREFIX_EMBEDDING": (PrefixEmbeddingConfig, PrefixEmbeddingModel),
    "LORA_BENCH_PREFIX_LAYER": (PrefixActivationConfig, PrefixActivationModel),
    "LORA_BENCH_SELECTED": (SelectedConfig, SelectedModel),
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("attribute", ["_member_names_", "_member_map_", "_value2member_map_"])
def test_python_keeps_enum_members_where_we_add_ours(attribute):
    assert "LORA" in getattr(PeftType, attribute)


@pytest.mark.parametrize("attribute", ["_name_", "_value_", "_sort_order_"])
def test_an_enum_member_has_the_attributes_we_set(attribute):
    assert hasattr(PeftType.LORA, attribute)


def test_our_members_have_every_attribute_that_peft_members_have():
    assert vars(PeftType.BOTTLENECK_ADAPTER).keys() >= vars(PeftType.LORA).keys() - {"__objclass__"}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_prepare_adapter_config", ["peft_config", "model_config"]),
        (
            "_create_and_replace",
            ["peft_config", "adapter_name", "target", "target_name", "parent", "current_key", "parameter_name"],
        ),
        ("_replace_module", ["parent", "child_name", "new_module", "child"]),
        ("_check_merge_allowed", []),
        ("get_model_config", ["model"]),
        (
            "_get_adapter_state_dict",
            ["model", "config", "adapter_name", "state_dict", "unwanted_adapter_names"],
        ),
        ("_remap_adapter_state_dict_for_load", ["model", "config", "adapter_name", "state_dict"]),
        ("_unload_and_optionally_merge", ["merge", "progressbar", "safe_merge", "adapter_names"]),
        ("inject_adapter", ["model", "adapter_name", "autocast_adapter_dtype", "low_cpu_mem_usage", "state_dict"]),
        ("disable_adapter_layers", []),
    ],
)
def test_peft_calls_the_tuner_hooks_we_override(method, parameters):
    found = list(inspect.signature(getattr(BaseTuner, method)).parameters)
    assert [name for name in found if name != "self"] == parameters
    assert found[0] == "self" or isinstance(inspect.getattr_static(BaseTuner, method), staticmethod | classmethod)


def test_peft_frees_the_head_and_picks_what_to_merge_by_the_functions_we_call():
    assert list(inspect.signature(set_additional_trainable_modules).parameters)[:4] == [
        "model",
        "peft_config",
        "model_config",
        "adapter_name",
    ]
    assert list(inspect.signature(check_adapters_to_merge).parameters) == ["module", "adapter_names"]


@pytest.mark.parametrize(
    "attribute",
    [
        "adapter_layer_names",
        "other_param_names",
        "merged_adapters",
        "disable_adapters",
        "active_adapters",
        "_disable_adapters",
        "_get_available_adapters",
        "merged",
        "get_base_layer",
        "_cast_input_dtype",
        "set_adapter",
        "delete_adapter",
    ],
)
def test_peft_layers_have_what_ours_use(attribute):
    assert hasattr(BaseTunerLayer, attribute)


def test_peft_models_ask_the_tuner_for_hooks_around_each_call():
    assert "self.base_model._enable_peft_forward_hooks(" in inspect.getsource(peft.PeftModel._enable_peft_forward_hooks)


@pytest.mark.parametrize("make", [tiny_roberta, tiny_bert, tiny_gpt2])
def test_attention_modules_of_the_cache_kind_have_what_a_prefix_uses(make):
    model = make()
    attentions = [module for module in model.modules() if hasattr(module, "is_causal") and hasattr(module, "layer_idx")]
    assert len(attentions) == 2
    for attention in attentions:
        arguments = inspect.signature(type(attention).forward).parameters
        assert "attention_mask" in arguments
        assert len(arguments.keys() & set(CACHE_ARGUMENTS)) == 1
        assert attention.config._attn_implementation == "sdpa"


def test_deberta_attention_has_what_a_prefix_uses():
    attention = tiny_deberta().deberta.encoder.layer[0].attention.self
    used = {"in_proj", "q_bias", "v_bias", "transpose_for_scores", "disentangled_att_bias", "dropout", "pos_dropout"}
    assert used | {"pos_att_type", "relative_attention"} <= set(dir(attention))


def test_deberta_v2_attention_has_what_a_prefix_uses():
    attention = tiny_deberta_v2().deberta.encoder.layer[0].attention.self
    used = {"query_proj", "key_proj", "value_proj", "num_attention_heads", "transpose_for_scores", "dropout"}
    used |= {"disentangled_attention_bias", "pos_dropout", "pos_att_type", "relative_attention"}
    assert used <= set(dir(attention))


@pytest.mark.parametrize("make", [tiny_deberta, tiny_deberta_v2])
def test_deberta_attention_is_called_with_the_arguments_we_take(make):
    attention = make().deberta.encoder.layer[0].attention.self
    assert list(inspect.signature(attention.forward).parameters) == [
        "hidden_states",
        "attention_mask",
        "output_attentions",
        "query_states",
        "relative_pos",
        "rel_embeddings",
    ]


@pytest.mark.parametrize("name", OURS)
def test_a_registered_type_behaves_like_a_member_of_the_enum(name):
    member = getattr(PeftType, name)
    assert PeftType(name) is member
    assert PeftType[name] is member
    assert member in list(PeftType)
    assert name in PeftType.__members__
    assert (member.name, member.value, member == name) == (name, name, True)
    assert isinstance(member, PeftType)
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert [other for other in PeftType if other == name] == [member]


@pytest.mark.parametrize("name", OURS)
def test_peft_finds_config_and_tuner_by_the_type(name):
    config, tuner = OURS[name]
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)] is config
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType(name)] is tuner
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType(name)] == tuner.prefix


def test_every_container_of_adapter_weights_starts_with_the_prefix_of_its_tuner():
    for _, tuner in OURS.values():
        assert all(name.startswith(tuner.prefix) for name in tuner.tuner_layer_cls.adapter_layer_names)


@pytest.mark.parametrize("name", ["LORA", "BOTTLENECK_ADAPTER"])
def test_a_name_that_is_taken_is_refused_and_stays_what_it_was(name):
    before = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)]
    with pytest.raises(KeyError, match=f"already PEFT method called '{name.lower()}'"):
        register(name, BottleneckConfig, BottleneckModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)] is before


def test_importing_the_tuners_registers_its_types_and_does_nothing_else():
    done = python(
        "import os, random, sys, torch, peft\n"
        "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known\n"
        "before = set(known), dict(os.environ), random.getstate(), torch.get_rng_state(), torch.get_num_threads()\n"
        "import lora_bench.tuners\n"
        f"assert sorted(t.value for t in set(known) - before[0]) == {sorted([*OURS, 'LORA_BENCH_COMBINED'])}\n"
        "assert dict(os.environ) == before[1] and random.getstate() == before[2]\n"
        "assert torch.equal(torch.get_rng_state(), before[3]) and torch.get_num_threads() == before[4]\n"
        "ours = {name for name in sys.modules if name.startswith('lora_bench.')}\n"
        "allowed = ('lora_bench.tuners', 'lora_bench.families', 'lora_bench.errors', 'lora_bench.version')\n"
        "assert all(name.startswith(allowed) for name in ours), ours\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_the_import_peft_names_the_type_it_does_not_know(tmp_path):
    BottleneckConfig(bottleneck_size=4).save_pretrained(tmp_path)
    done = python(f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path)!r})")
    assert "KeyError: 'BOTTLENECK_ADAPTER'" in done.stderr


@pytest.mark.parametrize(
    "config",
    [
        BottleneckConfig(bottleneck_size=4, variant="parallel", non_linearity="relu", scaling=4.0, init_std=0.01),
        FusedLoraConfig(r=3, lora_alpha=6, use_dora=True, roles=["key", "ffn"]),
        PrefixActivationConfig(num_virtual_tokens=5, init_std=0.1),
        PrefixEmbeddingConfig(num_virtual_tokens=5, init_std=0.1),
        SelectedConfig(weights=".*bias", modules_to_save=["classifier"]),
        PrefixConfig(num_virtual_tokens=5, init_std=0.1, modules_to_save=["classifier"], task_type="SEQ_CLS"),
    ],
)
def test_a_config_survives_its_file(config, tmp_path):
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert loaded.to_dict() == config.to_dict()
