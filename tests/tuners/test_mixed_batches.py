"""Rows of one batch with an adapter each: every row has the answer of its adapter alone, as PEFT's `set_adapter` gives it."""

import copy
import gc
from importlib.metadata import version

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.utils.other import ModulesToSaveWrapper

from lora_bench.errors import LoraBenchError
from lora_bench.tuners import BottleneckConfig, FusedLoraConfig, SelectedConfig, mix_adapters
from tests.tiny import CLASSIFIERS, HEAD_MODULES, tiny_batch, tiny_bert, tiny_gpt2, tiny_roberta, tiny_t5

TARGETS = {
    "roberta": ["query", "key", "value", "dense"],
    "bert": ["query", "value"],
    "deberta": ["in_proj", "dense"],
    "deberta-v2": ["query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj"],
    "deberta-v3": ["query_proj", "key_proj", "value_proj"],
    "gpt2": ["c_attn", "c_fc"],
}
ROWS = ("two", "one", "__base__", "three", "two", "one")


def disturb(model, seed=1):
    """Give all trainable weights, heads included, random values that no adapter has by itself."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "bottleneck_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.eval()


def with_lora(model, ranks, task_type=None, **options):
    """The model with a LoRA of each rank, by the names of the adapters."""
    names = iter(ranks.items())
    name, rank = next(names)
    adapted = get_peft_model(model, LoraConfig(r=rank, task_type=task_type, **options), adapter_name=name)
    for name, rank in names:
        adapted.add_adapter(name, LoraConfig(r=rank, task_type=task_type, **options))
    return disturb(adapted)


@torch.no_grad()
def one_by_one(model, batch, names):
    """Each row's logits, from the adapter of its name alone."""
    found = {}
    for name in sorted(set(names) - {"__base__"}):
        model.set_adapter(name)
        found[name] = model(**batch).logits
    with model.disable_adapter():
        found["__base__"] = model(**batch).logits
    return torch.stack([found[name][row] for row, name in enumerate(names)])


@torch.no_grad()
def difference(model, batch, names):
    """The greatest difference of a mixed batch from the lone adapters, which must differ themselves."""
    want = one_by_one(model, batch, names)
    assert (want[0] - one_by_one(model, batch, [names[1]] * len(names))[0]).abs().max() > 1e-2
    return float((mix_adapters(model)(**batch, adapter_names=list(names)).logits - want).abs().max())


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_row_has_the_answer_of_its_adapter_alone_also_with_unequal_ranks_and_heads(name, side):
    ranks = {"one": 2, "two": 5, "three": 3}
    options = {"target_modules": TARGETS[name], "modules_to_save": HEAD_MODULES[name], "fan_in_fan_out": name == "gpt2"}
    model = with_lora(CLASSIFIERS[name](), ranks, "SEQ_CLS", **options)
    batch = tiny_batch((9, 6, 7, 9, 3, 8), padding_side=side)
    assert difference(model, batch, ROWS) <= 1e-5


def test_factors_that_differ_are_each_rows_own():
    model = get_peft_model(tiny_roberta(), LoraConfig(r=4, lora_alpha=1), adapter_name="one")
    model.add_adapter("two", LoraConfig(r=4, lora_alpha=16, use_rslora=True))
    assert difference(disturb(model), tiny_batch((9, 6)), ("one", "two")) <= 1e-5


def test_a_layer_that_only_some_adapters_have_is_the_base_models_for_the_others():
    model = get_peft_model(tiny_roberta(), LoraConfig(target_modules=["query"]), adapter_name="one")
    model.add_adapter("two", LoraConfig(target_modules=["value"]))
    assert difference(disturb(model), tiny_batch((9, 6)), ("one", "two")) <= 1e-5


@pytest.mark.parametrize("options", [{"lora_bias": True}, {"target_modules": ["word_embeddings", "query"]}])
def test_what_has_no_batched_product_here_is_left_to_peft(options):
    model = with_lora(tiny_roberta(), {"one": 2, "two": 4}, **options)
    assert difference(model, tiny_batch((9, 6)), ("one", "two")) <= 1e-5


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        tiny_gpt2,
        pytest.param(
            tiny_t5,
            marks=pytest.mark.skipif(
                version("peft") == "0.21.0", reason="PEFT 0.21 refuses transformers' encoder-decoders"
            ),
        ),
    ],
)
def test_texts_are_written_by_each_rows_adapter(make, beams):
    options = (
        {"target_modules": ["c_attn"], "fan_in_fan_out": True} if make is tiny_gpt2 else {"target_modules": ["q", "v"]}
    )
    model = with_lora(make(), {"one": 2, "two": 3}, "CAUSAL_LM" if make is tiny_gpt2 else "SEQ_2_SEQ_LM", **options)
    prompt, how = tiny_batch((6, 6)), {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    mixed = mix_adapters(model).generate(**prompt, **how, adapter_names=["two", "one"])
    for row, name in enumerate(["two", "one"]):
        model.set_adapter(name)
        assert torch.equal(mixed[row], model.generate(**prompt, **how)[row])


def test_adapters_may_be_changed_loaded_and_deleted_between_two_calls(tmp_path):
    model = mix_adapters(with_lora(tiny_bert(), {"one": 2, "two": 3}, "SEQ_CLS"))
    batch = tiny_batch((9, 6, 7))
    disturb(model, seed=2)
    assert difference(model, batch, ("two", "one", "two")) <= 1e-5
    model.save_pretrained(tmp_path)
    model.delete_adapter("one")
    model.load_adapter(tmp_path / "two", "one")
    model.load_adapter(tmp_path / "one", "three")
    assert difference(model, batch, ("three", "two", "three")) <= 1e-5
    model.set_adapter("two")
    with torch.no_grad():
        assert torch.equal(
            model(**batch, adapter_names=["one"] * 3).logits, model(**batch, adapter_names=["two"] * 3).logits
        )


def test_a_call_leaves_nothing_behind_also_when_it_fails():
    model = mix_adapters(with_lora(tiny_roberta(), {"one": 2, "two": 3}))
    batch = tiny_batch((9, 6))
    before = model(**batch).logits
    held = sum(isinstance(one, torch.Tensor) for one in gc.get_objects())
    model(**batch, adapter_names=["one", "two"])
    with pytest.raises(LoraBenchError, match="adapter_names has 3 names for a batch of 2 rows"):
        model(**batch, adapter_names=["one", "two", "one"])
    assert sum(isinstance(one, torch.Tensor) for one in gc.get_objects()) == held
    assert torch.equal(model(**batch).logits, before)


def test_a_copy_answers_by_itself():
    model = mix_adapters(with_lora(tiny_roberta(), {"one": 2, "two": 3}))
    other = copy.deepcopy(model)
    want = one_by_one(model, tiny_batch((9, 6)), ("one", "two"))
    disturb(model, seed=2)
    assert (other(**tiny_batch((9, 6)), adapter_names=["one", "two"]).logits - want).abs().max() <= 1e-5


def test_an_adapter_without_a_head_of_its_own_has_the_base_models():
    # PEFT would give every row the base model's head if the active adapter had none.
    model = get_peft_model(tiny_bert(), LoraConfig(), adapter_name="one")
    model.add_adapter("two", LoraConfig(modules_to_save=["classifier"]))
    assert difference(disturb(model), tiny_batch((9, 6, 7)), ("one", "two", "__base__")) <= 1e-5


def test_one_row_for_two_names_is_a_mistake():
    model = mix_adapters(with_lora(tiny_roberta(), {"one": 2, "two": 3}))
    with pytest.raises(LoraBenchError, match="2 names for a batch of 1 rows"):
        model(**tiny_batch((9,)), adapter_names=["one", "two"])


@pytest.mark.parametrize(
    "config",
    [lambda: BottleneckConfig(bottleneck_size=4), lambda: FusedLoraConfig(r=3, roles=["query", "value"])],
    ids=["bottleneck", "lora by role"],
)
def test_our_own_tuners_mix_by_themselves(config):
    model = get_peft_model(tiny_roberta(), config(), adapter_name="one")
    model.add_adapter("two", config())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".one" in name or ".two" in name:
                weight.normal_(std=0.3)
    assert difference(model.eval(), tiny_batch((9, 6, 7)), ("two", "one", "__base__")) <= 1e-5


def test_bottlenecks_of_other_non_linearities_and_slices_of_other_roles_are_mixed():
    model = get_peft_model(tiny_roberta(), BottleneckConfig(bottleneck_size=4), adapter_name="one")
    model.add_adapter("two", BottleneckConfig(bottleneck_size=6, non_linearity="tanh", scaling=3.0))
    assert difference(disturb(model), tiny_batch((9, 6, 7)), ("two", "one", "__base__")) <= 1e-5
    model = get_peft_model(CLASSIFIERS["gpt2"](), FusedLoraConfig(roles=["query"]), adapter_name="one")
    model.add_adapter("two", FusedLoraConfig(roles=["key", "value"]))
    assert difference(disturb(model), tiny_batch((9, 6, 7)), ("two", "one", "__base__")) <= 1e-5


@pytest.mark.parametrize(
    "config",
    [
        lambda: IA3Config(target_modules=["query"], feedforward_modules=[]),
        lambda: PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
        lambda: SelectedConfig(weights=".*bias"),
    ],
    ids=["ia3", "prompt", "bitfit"],
)
def test_a_method_that_peft_does_not_mix_is_refused(config):
    with pytest.raises(LoraBenchError, match=r"adapters cannot be mixed in a batch: call set_adapter\(name\)"):
        mix_adapters(get_peft_model(tiny_roberta(), config()))


def test_what_cannot_be_meant_is_refused_in_a_line():
    model = mix_adapters(with_lora(tiny_roberta(), {"one": 2}))
    with pytest.raises(LoraBenchError, match=r"adapter_names has \['z'\], the model has \['one'\]"):
        model(**tiny_batch(), adapter_names=["one", "z"])
    with pytest.raises(LoraBenchError, match="call eval"):
        model.train()(**tiny_batch(), adapter_names=["one", "one"])
    model.eval().add_adapter("four", LoraConfig(use_dora=True))
    with pytest.raises(LoraBenchError, match=r"'four' is a variant of LoRA .* set_adapter\('four'\)"):
        model(**tiny_batch(), adapter_names=["one", "four"])
    model.merge_adapter(["one"])
    with pytest.raises(ValueError, match="unmerge_adapter"):
        model(**tiny_batch(), adapter_names=["one", "one"])


def test_heads_of_other_sizes_are_refused():
    model = with_lora(tiny_bert(), {"one": 2, "two": 3}, "SEQ_CLS")
    model.base_model.model.classifier.modules_to_save["two"] = torch.nn.Linear(32, 5)
    with pytest.raises(LoraBenchError, match="heads of other sizes"):
        mix_adapters(model)(**tiny_batch(), adapter_names=["one", "two"])


def test_the_names_of_peft_that_this_relies_on_are_there():
    assert callable(LoraModel._enable_peft_forward_hooks)
    layer = next(one for one in with_lora(tiny_roberta(), {"one": 2}).modules() if isinstance(one, LoraLayer))
    assert isinstance(layer, Linear)
    assert {"one"} == layer.lora_A.keys() == layer.lora_B.keys() == layer.scaling.keys()
    assert (layer.lora_variant, layer.merged, layer.disable_adapters) == ({}, False, False)
    assert ModulesToSaveWrapper.adapter_layer_names == ("modules_to_save",)
