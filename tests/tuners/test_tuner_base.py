"""What our tuners promise as PEFT methods, on every family: training, saving, switching, refusing.

`disturbed` adapters have random weights in place of their first ones, so that an adapter which starts as the identity
shows up in the output too.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn
from transformers import FalconConfig, FalconForSequenceClassification

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.tuners import (
    BottleneckConfig,
    FusedLoraConfig,
    PrefixActivationConfig,
    PrefixConfig,
    PrefixEmbeddingConfig,
)
from lora_bench.tuners.sites import TunerLayer
from tests.pairs import pairs
from tests.tiny import CLASSIFIERS, HEAD_MODULES, LAYERS, MODELS, tiny_batch, tiny_gpt2, tiny_roberta

CONFIGS = {
    "houlsby": lambda **more: BottleneckConfig(bottleneck_size=4, **more),
    "pfeiffer": lambda **more: BottleneckConfig(bottleneck_size=4, variant="pfeiffer", **more),
    "parallel": lambda **more: BottleneckConfig(bottleneck_size=4, variant="parallel", **more),
    "lin": lambda **more: BottleneckConfig(bottleneck_size=4, variant="lin", **more),
    "prefix": lambda **more: PrefixConfig(num_virtual_tokens=3, **more),
    "computed_prefix": lambda **more: PrefixConfig(
        num_virtual_tokens=3, reparameterised=True, reparameterisation_width=5, **more
    ),
    "prefix_layer": lambda **more: PrefixActivationConfig(num_virtual_tokens=3, **more),
    "prefix_embedding": lambda **more: PrefixEmbeddingConfig(num_virtual_tokens=3, **more),
    "lora": lambda **more: FusedLoraConfig(r=3, **more),
}
OTHER_SIZE = {
    "houlsby": lambda **more: BottleneckConfig(bottleneck_size=7, **more),
    "lin": lambda **more: BottleneckConfig(bottleneck_size=7, variant="lin", **more),
    "prefix": lambda **more: PrefixConfig(num_virtual_tokens=5, **more),
    "prefix_layer": lambda **more: PrefixActivationConfig(num_virtual_tokens=5, **more),
    "prefix_embedding": lambda **more: PrefixEmbeddingConfig(num_virtual_tokens=5, **more),
    "lora": lambda **more: FusedLoraConfig(r=5, **more),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_method = pytest.mark.parametrize("method", CONFIGS)
each_tuner = pytest.mark.parametrize("method", OTHER_SIZE)
# Gradients, saving and padding are tried on every model with every method, and the rest on `pairs` of them.


def adapter_weights(model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}": parameter
        for path, layer in model.named_modules()
        if isinstance(layer, TunerLayer)
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.") and adapter in name.split(".")
    }


def disturb(model: nn.Module, adapter: str = "default", seed: int = 1, std: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_weights(model, adapter).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def skip_a_pair_that_is_refused(name: str, method: str) -> None:
    if method == "prefix_embedding" and name == "gpt2-lm":
        pytest.skip("no model that writes, which test_embeddings.py says")


def disturbed(name: str, method: str, **more) -> PeftModel:
    skip_a_pair_that_is_refused(name, method)
    heads = HEAD_MODULES[name] or None
    return disturb(get_peft_model(MODELS[name](), CONFIGS[method](modules_to_save=heads, **more))).eval()


def logits(model: nn.Module, **batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**(batch or tiny_batch())).logits


def loss_of(model: nn.Module, name: str) -> torch.Tensor:
    batch = tiny_batch(labels=True)
    if name == "gpt2-lm":
        batch["labels"] = batch["input_ids"]
    return model(**batch).loss


@every_model
@every_method
def test_every_adapter_and_head_weight_gets_a_gradient_and_no_other_weight_does(name, method):
    model = disturbed(name, method)
    loss_of(model, name).backward()
    trained = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    with_gradient = {path for path, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert with_gradient == trained
    heads = {path for path, _ in model.named_parameters() if ".modules_to_save." in path}
    assert trained == adapter_weights(model).keys() | heads
    # A fused weight keeps the matrices of its query and its value stacked in one A and one B.
    lora = 2 if name in ("deberta", "gpt2", "gpt2-lm") else 4
    per_layer = {
        "houlsby": 8,
        "pfeiffer": 4,
        "parallel": 4,
        "lin": 6,
        "prefix": 2,
        "computed_prefix": 2,
        "prefix_layer": 1,
        "lora": lora,
    }
    shared = 3 if method == "computed_prefix" else 0
    if method == "prefix_embedding":
        assert len(adapter_weights(model)) == 1
        return
    assert len(adapter_weights(model)) == LAYERS * per_layer[method] + shared


@pairs("name, method", MODELS, CONFIGS, 0)
def test_a_disabled_adapter_leaves_the_base_model_to_the_last_bit(name, method):
    base = logits(MODELS[name]())
    model = disturbed(name, method)
    assert (logits(model) - base).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert (logits(model) - base).abs().max() > 1e-3


@every_model
@every_method
def test_a_saved_adapter_gives_the_same_logits_on_a_fresh_base(name, method, tmp_path):
    model = disturbed(name, method)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if ".modules_to_save." in path:
                parameter.add_(0.1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(MODELS[name](), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))


@each_tuner
def test_the_file_holds_the_adapter_and_the_head_and_nothing_of_the_base(method, tmp_path):
    model = disturbed("roberta", method)
    model.save_pretrained(tmp_path)
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert stored == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    assert (tmp_path / "README.md").read_text().count("import lora_bench.tuners\n") == 1
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text().count("import lora_bench.tuners\n") == 1


def test_a_new_process_loads_what_was_saved_once_it_has_imported_the_tuners(tmp_path):
    models = {method: disturbed("deberta-v3", method) for method in OTHER_SIZE}
    for method, model in models.items():
        model.save_pretrained(tmp_path / method)
    code = (
        "import pathlib, sys, torch, lora_bench.tuners\n"
        "from peft import PeftModel\n"
        "from tests.tiny import tiny_batch, tiny_deberta_v2\n"
        "for folder in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    model = PeftModel.from_pretrained(tiny_deberta_v2(), folder).eval()\n"
        "    torch.save(model(**tiny_batch()).logits.detach(), folder / 'logits.pt')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for method, model in models.items():
        assert torch.equal(torch.load(tmp_path / method / "logits.pt"), logits(model)), method


@pairs("name, method", CLASSIFIERS, OTHER_SIZE, 0)
def test_transformers_loads_the_adapter_without_a_peft_model(name, method, tmp_path):
    model = disturbed(name, method)
    model.save_pretrained(tmp_path)
    plain = MODELS[name]()
    plain.load_adapter(str(tmp_path))
    assert torch.equal(logits(plain.eval()), logits(model))


@pairs("name, method", MODELS, OTHER_SIZE, 0)
def test_a_second_adapter_of_another_size_lives_beside_the_first(name, method):
    heads = HEAD_MODULES[name] or None
    model = disturbed(name, method)
    first = logits(model)
    model.add_adapter("second", OTHER_SIZE[method](modules_to_save=heads))
    assert torch.equal(logits(model), first)
    assert not any(parameter.requires_grad for parameter in adapter_weights(model, "second").values())
    disturb(model, "second", seed=2)
    model.set_adapter("second")
    second = logits(model)
    assert (second - first).abs().max() > 1e-3
    assert all(parameter.requires_grad for parameter in adapter_weights(model, "second").values())
    assert not any(parameter.requires_grad for parameter in adapter_weights(model).values())
    alone = disturb(get_peft_model(MODELS[name](), OTHER_SIZE[method]()), seed=2).eval()
    assert torch.equal(logits(alone), second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


@pairs("name, method", MODELS, OTHER_SIZE, 1)
def test_a_deleted_adapter_is_gone_and_the_other_acts(name, method):
    model = disturbed(name, method)
    model.add_adapter("second", OTHER_SIZE[method]())
    disturb(model, "second", seed=2)
    model.set_adapter("second")
    second = logits(model)
    model.delete_adapter("default")
    assert adapter_weights(model) == {}
    assert torch.equal(logits(model), second)


@each_tuner
def test_several_adapters_are_saved_and_loaded_by_name(method, tmp_path):
    model = disturbed("roberta", method)
    model.add_adapter("second", OTHER_SIZE[method](modules_to_save=["classifier"]))
    disturb(model, "second", seed=2)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_roberta(), tmp_path)
    loaded.load_adapter(tmp_path / "second", "second")
    for adapter in ("default", "second"):
        model.set_adapter(adapter)
        loaded.set_adapter(adapter)
        assert torch.equal(logits(loaded.eval()), logits(model))


@pairs("name, method", MODELS, CONFIGS, 3)
def test_unload_gives_the_base_model_back(name, method):
    base = MODELS[name]()
    want, modules = logits(base), [path for path, _ in base.named_modules()]
    back = disturbed(name, method).unload()
    assert torch.equal(logits(back), want)
    assert [path for path, _ in back.named_modules()] == modules


@pairs("name, method", CLASSIFIERS, [method for method in OTHER_SIZE if method != "lora"], 0)
def test_merging_is_refused_with_the_way_out(name, method):
    model = disturbed(name, method)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(LoraBenchError, match=r"is no change of a weight and cannot be merged.*unload\(\)"):
            merge()


# Encoders are padded on the right only: their head reads the first position.
PADDED = [(name, "right") for name in MODELS] + [("gpt2", "left"), ("gpt2-lm", "left")]


@pytest.mark.parametrize(("name", "padding_side"), PADDED)
@every_method
def test_a_padded_row_has_the_logits_of_the_row_alone(name, method, padding_side):
    model = disturbed(name, method)
    batch = tiny_batch((9, 6), padding_side=padding_side)
    real = slice(0, 6) if padding_side == "right" else slice(3, 9)
    alone = {key: rows[1:, real] for key, rows in batch.items()}
    if padding_side == "left":
        batch["position_ids"] = torch.stack([torch.arange(9), (torch.arange(9) - 3).clamp(min=0)])
    padded = logits(model, **batch)[1]
    if name == "gpt2-lm":
        padded = padded[real]
    assert (padded - logits(model, **alone)[0]).abs().max() <= 1e-6


@every_method
def test_on_a_deberta_with_a_convolution_beside_its_first_layer(method, tmp_path):
    """As deberta-v2-xxlarge has: it reads the embeddings and the mask, and adds to the first layer's output."""

    def base() -> nn.Module:
        return MODELS["deberta-v3"](conv_kernel_size=3, conv_act="gelu").eval()

    plain = logits(base())
    assert (plain - logits(MODELS["deberta-v3"]())).abs().max() > 1e-4
    model = disturb(get_peft_model(base(), CONFIGS[method](modules_to_save=["pooler", "classifier"]))).eval()
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    loss_of(model, "deberta-v3").backward()
    assert all(weight.grad.abs().max() > 0 for weight in adapter_weights(model).values())
    batch = tiny_batch()
    alone = {key: rows[1:, :6] for key, rows in batch.items()}
    assert (logits(model, **batch)[1] - logits(model, **alone)[0]).abs().max() <= 1e-6
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path).eval()), logits(model))


@each_tuner
def test_counting_on_the_meta_device_allocates_nothing(method):
    with torch.device("meta"):
        model = tiny_roberta()
    model = get_peft_model(model, CONFIGS[method](modules_to_save=["classifier"]))
    assert all(parameter.is_meta for parameter in model.parameters())
    counted = sum(parameter.numel() for parameter in adapter_weights(model).values())
    assert counted == sum(parameter.numel() for parameter in adapter_weights(disturbed("roberta", method)).values())


@each_tuner
def test_low_cpu_mem_usage_creates_weights_on_the_meta_device_and_loading_fills_them(method, tmp_path):
    model = disturbed("roberta", method)
    model.save_pretrained(tmp_path)
    empty = get_peft_model(tiny_roberta(), CONFIGS[method](), low_cpu_mem_usage=True)
    assert all(parameter.is_meta for parameter in adapter_weights(empty).values())
    loaded = PeftModel.from_pretrained(tiny_roberta(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(logits(loaded), logits(model))


@pairs("name, method", MODELS, OTHER_SIZE, 2)
def test_on_a_bfloat16_base_the_adapter_is_float32_as_loras_is_unless_told_otherwise(name, method):
    skip_a_pair_that_is_refused(name, method)
    for autocast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        base = MODELS[name]().bfloat16()
        want = logits(base)
        model = get_peft_model(base, CONFIGS[method](), autocast_adapter_dtype=autocast).eval()
        assert {parameter.dtype for parameter in adapter_weights(model).values()} == {dtype}
        assert logits(disturb(model)).dtype == torch.bfloat16
        assert (logits(model) - want).abs().max() > 1e-3
        loss_of(model, name).backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in adapter_weights(model).values())
    lora = get_peft_model(tiny_roberta().bfloat16(), LoraConfig(target_modules=["query"]))
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}


def test_transformers_deberta_v1_itself_fails_under_autocast():
    # It masks bfloat16 scores with the least float32. When this passes, "deberta" belongs in the next test.
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="without overflow"):
        logits(MODELS["deberta"]())


@pairs("name, method", CLASSIFIERS, OTHER_SIZE, 3)
def test_a_second_adapter_takes_its_type_from_the_base_and_not_from_the_first_adapter(name, method):
    skip_a_pair_that_is_refused(name, method)
    model = get_peft_model(MODELS[name]().bfloat16(), CONFIGS[method]())
    model.add_adapter("second", OTHER_SIZE[method](), autocast_adapter_dtype=False)
    assert {parameter.dtype for parameter in adapter_weights(model).values()} == {torch.float32}
    assert {parameter.dtype for parameter in adapter_weights(model, "second").values()} == {torch.bfloat16}


@pairs("name, method", [name for name in MODELS if name != "deberta"], CONFIGS, 6)
def test_under_autocast_outputs_stay_near_those_of_float32_and_gradients_flow(name, method):
    model = disturbed(name, method)
    want = logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = logits(model)
        loss = loss_of(model, name)
    loss.backward()
    # bfloat16 keeps 8 bits: 2**-8 of the largest logit for each of a few roundings
    assert (got.float() - want).abs().max() < 0.05 * want.abs().max()
    assert all(parameter.grad.dtype == torch.float32 for parameter in adapter_weights(model).values())


@pairs("name, method", MODELS, CONFIGS, 7)
def test_gradient_checkpointing_changes_no_gradient(name, method):
    gradients = []
    for checkpointing in (False, True):
        model = disturbed(name, method).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if name.startswith("gpt2"):
            model.config.use_cache = False
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss_of(model, name).backward()
        gradients.append([parameter.grad for parameter in adapter_weights(model).values()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@each_tuner
@pytest.mark.parametrize("name", ["roberta", "deberta-v3", "gpt2-lm"])
def test_reentrant_checkpointing_reaches_every_weight_too(name, method):
    model = disturbed(name, method).train()
    model.config.use_cache = False
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()  # reentrant checkpointing needs an input with a gradient, as with LoRA
    loss_of(model, name).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapter_weights(model).values())


@each_tuner
def test_naming_the_task_to_peft_changes_no_result(method):
    classifier = disturb(get_peft_model(tiny_roberta(), CONFIGS[method](task_type="SEQ_CLS"))).eval()
    assert torch.equal(logits(classifier), logits(disturb(get_peft_model(tiny_roberta(), CONFIGS[method]())).eval()))
    assert any(".modules_to_save." in path for path, _ in classifier.named_parameters())
    skip_a_pair_that_is_refused("gpt2-lm", method)
    writers = [disturb(get_peft_model(tiny_gpt2(), CONFIGS[method](task_type=task))) for task in (None, "CAUSAL_LM")]
    prompt = tiny_batch((7, 4), padding_side="left")
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 2}
    plain, named = (writer.eval().generate(**prompt, **how) for writer in writers)
    assert torch.equal(plain, named)


@each_tuner
def test_equal_seeds_draw_equal_weights_and_none_from_another_generator(method):
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(get_peft_model(tiny_roberta(), CONFIGS[method]()))
    first, again, other = (torch.cat([p.flatten() for p in adapter_weights(m).values()]) for m in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pairs("name, method", CLASSIFIERS, OTHER_SIZE, 4)
def test_each_row_of_a_mixed_batch_is_its_adapters_own(name, method):
    skip_a_pair_that_is_refused(name, method)
    heads = HEAD_MODULES[name]
    model = disturb(get_peft_model(CLASSIFIERS[name](), CONFIGS[method](modules_to_save=heads)))
    model.add_adapter("second", OTHER_SIZE[method](modules_to_save=heads))
    disturb(model, "second", seed=2).eval()
    batch = tiny_batch((9, 6, 7, 9))
    mixed = logits(model, **batch, adapter_names=["second", "default", "__base__", "second"])
    by_adapter = {}
    for adapter in ("default", "second"):
        model.set_adapter(adapter)
        by_adapter[adapter] = logits(model, **batch)
    with model.disable_adapter():
        by_adapter["__base__"] = logits(model, **batch)
    want = [by_adapter["second"][0], by_adapter["default"][1], by_adapter["__base__"][2], by_adapter["second"][3]]
    assert (mixed - torch.stack(want)).abs().max() <= 1e-6
    assert torch.equal(logits(model, **batch), by_adapter["second"])


@each_tuner
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_mixed_batch_needs_no_attention_mask(method, attn):
    model = disturb(get_peft_model(tiny_roberta(attn=attn), CONFIGS[method]())).eval()
    input_ids = tiny_batch((9, 9))["input_ids"]
    mixed = logits(model, input_ids=input_ids, adapter_names=["default", "__base__"])
    assert (mixed[0] - logits(model, input_ids=input_ids)[0]).abs().max() <= 1e-6
    with model.disable_adapter():
        assert (mixed[1] - logits(model, input_ids=input_ids)[1]).abs().max() <= 1e-6


@each_tuner
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_mixes_adapters_by_row(method, beams):
    model = disturbed("gpt2-lm", method)
    model.add_adapter("second", OTHER_SIZE[method]())
    disturb(model, "second", seed=2).eval()
    prompt = tiny_batch((6, 6))
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    mixed = model.generate(**prompt, **how, adapter_names=["second", "default"])
    for row, adapter in enumerate(["second", "default"]):
        model.set_adapter(adapter)
        assert torch.equal(mixed[row], model.generate(**prompt, **how)[row])


@each_tuner
def test_adapter_names_that_cannot_be_meant_are_refused(method):
    model = disturbed("roberta", method)
    with pytest.raises(LoraBenchError, match=r"has \['third'\], the model has \['default'\]"):
        model(**tiny_batch(), adapter_names=["default", "third"])
    with pytest.raises((LoraBenchError, ValueError), match="1 "):
        model(**tiny_batch(), adapter_names=["default"])
    with pytest.raises(LoraBenchError, match="inference"):
        model.train()(**tiny_batch(), adapter_names=["default", "default"])


@each_tuner
def test_a_model_of_no_family_is_refused_before_anything_is_wrapped(method):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = FalconForSequenceClassification(FalconConfig(**sizes, multi_query=True))
    with pytest.raises(UnsupportedPair, match=r"no family names falcon.*query, key, value"):
        get_peft_model(model, CONFIGS[method]())
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())


@each_tuner
def test_target_modules_narrow_the_sites(method):
    last, weights = {
        "houlsby": (r".*layer\.1\.output\.dropout", 4),
        "lin": (r".*layer\.1\.output", 6),
        "prefix": (r".*layer\.1\.attention\.self", 2),
        "prefix_layer": (r".*layer\.1\.attention\.self", 1),
        "prefix_embedding": (r".*encoder", 1),
        "lora": (r".*layer\.1\..*query", 2),
    }[method]
    model = get_peft_model(tiny_roberta(), CONFIGS[method](target_modules=last))
    assert method == "prefix_embedding" or all(".layer.1." in path for path in adapter_weights(model))
    assert len(adapter_weights(model)) == weights


@each_tuner
def test_print_trainable_parameters_counts_adapter_and_head(method, capsys):
    disturbed("roberta", method).print_trainable_parameters()
    # roberta's head: 32*32 + 32 and 3*32 + 3; houlsby: 2 layers * 2 sites * (32*4 + 4 + 4*32 + 32), and lin with one site
    # and a norm of 2*32; prefix: 2 layers * 2 * 3 * 32; lora: 2 layers * 2 weights * 2 matrices * 3 * 32
    adapter = {
        "houlsby": 4 * (128 + 4 + 128 + 32),
        "lin": 2 * (128 + 4 + 128 + 32 + 64),
        "prefix": 2 * 2 * 3 * 32,
        "prefix_layer": 2 * 3 * 32,
        "prefix_embedding": 3 * 32,
        "lora": 2 * 2 * 2 * 3 * 32,
    }[method]
    assert f"trainable params: {adapter + 1056 + 99:,} " in capsys.readouterr().out


@each_tuner
def test_the_saved_config_names_the_type_and_the_sites(method, tmp_path):
    disturbed("gpt2-lm", method).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    types = {
        "houlsby": "BOTTLENECK_ADAPTER",
        "lin": "BOTTLENECK_ADAPTER",
        "prefix": "LORA_BENCH_PREFIX",
        "prefix_layer": "LORA_BENCH_PREFIX_LAYER",
        "lora": "LORA_BENCH_FUSED_LORA",
    }
    assert saved["peft_type"] == types[method]
    assert saved["target_modules"].startswith(r"(?:.*\.)?h\.\d+")


def test_peft_refuses_to_put_two_methods_of_ours_on_one_model():
    model = get_peft_model(tiny_gpt2(), CONFIGS["houlsby"]())
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        model.add_adapter("prefix", CONFIGS["prefix"]())
