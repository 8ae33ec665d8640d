"""LoRA by role adapts the named slices of a fused weight and nothing else, and merges like PEFT's."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.tuners import FusedLoraConfig, FusedLoraLayer
from lora_bench.tuners.fused_lora import sliced_update
from lora_bench.tuners.slices import joined_slices, slices_of
from tests.tiny import CLASSIFIERS, HIDDEN, LAYERS, MODELS, tiny_batch, tiny_deberta, tiny_gpt2, tiny_roberta

FUSED = ["deberta", "gpt2", "gpt2-lm"]


def adapted(model: nn.Module, std: float = 0.3, **more) -> PeftModel:
    """*model* with an adapter whose weights are all random; DoRA's lengths are moved from where they start."""
    model = get_peft_model(model, FusedLoraConfig(r=2, lora_alpha=4, **more)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * std
                parameter.copy_(noise if parameter.dim() == 3 else parameter * (1 + noise))
    return model


def layers(model: nn.Module) -> list[FusedLoraLayer]:
    return [module for module in model.modules() if isinstance(module, FusedLoraLayer)]


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny_batch()).logits


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# --- the formula -----------------------------------------------------------------------------------------------------


def test_slices_in_blocks_and_in_heads_on_numbers_a_reader_can_follow():
    y = torch.arange(12)
    assert [part.tolist() for part in slices_of(y, 3, 1)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [part.tolist() for part in slices_of(y, 3, 2)] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(joined_slices(slices_of(y, 3, 2), 2), y)


def test_the_update_on_numbers_a_reader_can_follow():
    x = torch.tensor([[1.0, -2.0]])
    A = torch.tensor([[[1.0, 1.0]], [[2.0, 0.0]]])
    B = torch.tensor([[[3.0], [1.0]], [[1.0], [0.5]]])
    # slice 0: A x = -1, B (-1) = (-3, -1); slice 1: A x = 2, B 2 = (2, 1)
    assert sliced_update(x, A, B).tolist() == [[[-3.0, -1.0]], [[2.0, 1.0]]]


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_deberta])
def test_queries_and_values_as_attention_sees_them_move_and_keys_do_not(make):
    base, model = make(), adapted(make())
    x = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    for found in layers(model):
        with torch.no_grad():
            y, y_base = found(x), found.base_layer(x)
        if make is tiny_gpt2:  # GPT2Attention: self.c_attn(hidden_states).split(self.split_size, dim=2)
            parts, base_parts = y.split(HIDDEN, dim=2), y_base.split(HIDDEN, dim=2)
        else:  # DisentangledSelfAttention: self.transpose_for_scores(qp).chunk(3, dim=-1)
            heads = base.deberta.encoder.layer[0].attention.self.transpose_for_scores
            parts, base_parts = heads(y).chunk(3, dim=-1), heads(y_base).chunk(3, dim=-1)
        moved = [float((part - old).abs().max()) for part, old in zip(parts, base_parts, strict=True)]
        assert moved[0] > 0.1
        assert moved[1] == 0.0
        assert moved[2] > 0.1


def test_each_slice_is_its_own_low_rank_product_of_the_input():
    model = adapted(tiny_gpt2())
    x = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    for layer in layers(model):
        A, B = layer.fused_lora_A["default"], layer.fused_lora_B["default"]
        with torch.no_grad():
            moved = layer(x) - layer.base_layer(x)
            # lora_alpha / r = 2
            query, value = 2 * x @ A[0].T @ B[0].T, 2 * x @ A[1].T @ B[1].T
        want = torch.cat([query, torch.zeros_like(query), value], dim=-1)
        assert (moved - want).abs().max() < 1e-5


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_on_weights_that_are_not_fused_it_is_pefts_lora(use_dora, use_rslora):
    # GPT-2's c_proj and c_fc (transposed weights) and RoBERTa's six, with equal weights on both sides
    for make, transposed in ((tiny_gpt2, True), (tiny_roberta, False)):
        roles = ["output", "ffn"] if transposed else ["all"]
        how = {"use_dora": use_dora, "use_rslora": use_rslora}
        ours = adapted(make(), roles=roles, **how)
        where = next(iter(ours.peft_config.values())).target_modules
        theirs = get_peft_model(
            make(), LoraConfig(r=2, lora_alpha=4, target_modules=where, fan_in_fan_out=transposed, **how)
        ).eval()
        modules = dict(theirs.named_modules())
        with torch.no_grad():
            for path, layer in ours.named_modules():
                if isinstance(layer, FusedLoraLayer):
                    modules[path].lora_A["default"].weight.copy_(layer.fused_lora_A["default"][0])
                    modules[path].lora_B["default"].weight.copy_(layer.fused_lora_B["default"][0])
                    if use_dora:
                        lengths = modules[path].lora_magnitude_vector["default"].weight
                        lengths.copy_(layer.fused_lora_magnitude["default"][0])
        assert (logits(ours) - logits(make())).abs().max() > 0.1
        assert (logits(ours) - logits(theirs)).abs().max() < 2e-5
        for model in (ours, theirs):
            model(**tiny_batch()).logits.pow(2).sum().backward()
        for path, layer in ours.named_modules():
            if isinstance(layer, FusedLoraLayer):
                want = modules[path].lora_A["default"].weight.grad
                got = layer.fused_lora_A["default"].grad[0]
                assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_dora", [False, True])
def test_training_starts_from_the_base_model(name, use_dora):
    model = get_peft_model(MODELS[name](), FusedLoraConfig(roles=["all"], use_dora=use_dora)).eval()
    difference = (logits(model) - logits(MODELS[name]())).abs().max()
    # DoRA divides a length by itself, and the two come from different kernels
    assert difference <= 2e-5 if use_dora else difference == 0


def test_dropout_is_in_training_only_and_shared_by_the_slices_of_a_weight():
    model = adapted(tiny_gpt2(), lora_dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    layer = layers(model.train())[0]
    with torch.no_grad():
        layer.fused_lora_A["default"].copy_(layer.fused_lora_A["default"][:1].expand(2, -1, -1))
        layer.fused_lora_B["default"].copy_(layer.fused_lora_B["default"][:1].expand(2, -1, -1))
        x = torch.randn(2, 5, HIDDEN)
        query, _, value = (layer(x) - layer.base_layer(x)).chunk(3, dim=-1)
    assert (query - value).abs().max() < 1e-5


# --- the weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("r", [1, 4])
def test_query_and_value_are_two_matrices_each_in_every_layer(name, r):
    model = get_peft_model(MODELS[name](), FusedLoraConfig(r=r))
    assert count(model) == LAYERS * 2 * (r * HIDDEN + HIDDEN * r)


@pytest.mark.parametrize("name", FUSED)
def test_pefts_lora_on_the_fused_weight_has_as_many(name):
    target = "in_proj" if name == "deberta" else "c_attn"
    theirs = get_peft_model(MODELS[name](), LoraConfig(r=4, target_modules=[target], fan_in_fan_out=name != "deberta"))
    assert count(theirs) == count(get_peft_model(MODELS[name](), FusedLoraConfig(r=4))) == LAYERS * 16 * HIDDEN


@pytest.mark.parametrize(("role", "slices"), [("query", 1), ("key", 1), ("value", 1)])
def test_one_role_of_a_fused_weight_is_one_slice_and_dora_adds_its_rows(role, slices):
    for use_dora in (False, True):
        model = get_peft_model(tiny_gpt2(), FusedLoraConfig(r=4, roles=[role], use_dora=use_dora))
        assert count(model) == LAYERS * slices * (8 * HIDDEN + use_dora * HIDDEN)


# --- merging ---------------------------------------------------------------------------------------------------------

MERGING = [(name, roles, use_dora) for name in MODELS for roles in (["query", "value"], ["all"]) for use_dora in (0, 1)]


@pytest.mark.parametrize(("name", "roles", "use_dora"), MERGING)
def test_merged_weights_answer_like_the_adapter_and_unmerging_gives_the_old_ones_back(name, roles, use_dora):
    model = adapted(MODELS[name](), roles=roles, use_dora=bool(use_dora))
    want = logits(model)
    before = [layer.base_layer.weight.detach().clone() for layer in layers(model)]
    model.merge_adapter()
    assert (logits(model) - want).abs().max() < 1e-4 * max(1.0, float(want.abs().max()))
    assert all(not torch.equal(layer.base_layer.weight, old) for layer, old in zip(layers(model), before, strict=True))
    model.unmerge_adapter()
    for layer, old in zip(layers(model), before, strict=True):
        # One rounding when the update is added and one when it is taken off (DoRA: two more), each at most half a unit
        # in the last place of the largest number in sight.
        largest = max(float(old.abs().max()), float(layer.delta("default").detach().abs().max()), 1.0)
        assert (layer.base_layer.weight - old).abs().max() <= 8 * torch.finfo(torch.float32).eps * largest
    assert (logits(model) - want).abs().max() < 1e-4 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_merge_and_unload_gives_a_plain_model_with_a_head_of_two_layers_kept(name):
    model = adapted(MODELS[name]())
    want, modules = logits(model), [path for path, _ in MODELS[name]().named_modules()]
    plain = model.merge_and_unload(safe_merge=True)
    assert [path for path, _ in plain.named_modules()] == modules
    assert (logits(plain) - want).abs().max() < 1e-4


def test_merging_moves_no_slice_that_is_not_adapted():
    base = tiny_deberta()
    heads, width = 4, HIDDEN // 4
    plain = adapted(tiny_deberta()).merge_and_unload()
    old = base.deberta.encoder.layer[0].attention.self.in_proj.weight.view(heads, 3, width, HIDDEN)
    new = plain.deberta.encoder.layer[0].attention.self.in_proj.weight.view(heads, 3, width, HIDDEN)
    assert torch.equal(new[:, 1], old[:, 1])
    assert (new[:, 0] != old[:, 0]).any()
    assert (new[:, 2] != old[:, 2]).any()


def test_a_merge_that_is_not_finite_leaves_the_weight_alone():
    model = adapted(tiny_gpt2())
    old = [copy.deepcopy(layer.base_layer.weight) for layer in layers(model)]
    with torch.no_grad():
        layers(model)[0].fused_lora_A["default"][0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="merging 'default' gives weights that are not finite"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layers(model)[0].base_layer.weight, old[0])


def test_a_disabled_adapter_that_was_merged_is_taken_out_first():
    base, model = logits(tiny_gpt2()), adapted(tiny_gpt2())
    model.merge_adapter()
    with model.disable_adapter():
        assert (logits(model) - base).abs().max() < 1e-4


# --- several adapters ------------------------------------------------------------------------------------------------


def test_two_active_adapters_add_up():
    model = adapted(tiny_gpt2())
    model.add_adapter("second", FusedLoraConfig(r=3, roles=["key", "value"]))
    layer = layers(model)[0]
    x = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.fused_lora_B["second"].normal_()
        alone = []
        for name in ("default", "second"):
            model.set_adapter(name)
            alone.append(layer(x) - layer.base_layer(x))
        model.base_model.set_adapter(["default", "second"])
        assert (layer(x) - layer.base_layer(x) - sum(alone)).abs().max() < 1e-5


def test_two_active_adapters_of_which_one_is_dora_are_refused():
    model = adapted(tiny_gpt2(), use_dora=True)
    model.add_adapter("second", FusedLoraConfig(r=3))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(LoraBenchError, match=r"a DoRA adapter is active alone, got \['default', 'second'\]"):
        logits(model)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"roles": []}, "roles must name something to adapt, got none"),
        ({"roles": ["valeu"]}, "unknown role 'valeu'; did you mean 'value'"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(LoraBenchError, match=message):
        FusedLoraConfig(**settings)


def test_target_modules_that_have_none_of_the_roles_are_refused():
    with pytest.raises(UnsupportedPair, match=r"on query, value has nothing to adapt in transformer\.h\.0\.mlp\.c_fc"):
        get_peft_model(tiny_gpt2(), FusedLoraConfig(target_modules=["c_fc"]))


def test_rows_of_several_adapters_are_refused_while_adapters_are_merged():
    model = adapted(tiny_gpt2())
    batch = tiny_batch([4, 4])
    model.merge_adapter()
    with pytest.raises(LoraBenchError, match="while adapters are merged"):
        model.eval()(**batch, adapter_names=["default", "__base__"])
    model.unmerge_adapter()
    model(**batch, adapter_names=["default", "__base__"])
