"""Bottleneck adapters compute the papers' formulas, at the papers' places, with the papers' number of weights."""

import dataclasses

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, RobertaConfig

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families.encoders import ROBERTA
from lora_bench.tuners import BottleneckConfig, BottleneckLayer, bottleneck
from tests.pairs import pairs
from tests.tiny import HIDDEN, LAYERS, MODELS, tiny_batch, tiny_gpt2, tiny_roberta

SIZE = 5
ENCODERS = [name for name in MODELS if not name.startswith("gpt2")]
VARIANTS = ("houlsby", "pfeiffer", "parallel", "lin")


def adapted(model: nn.Module, variant: str, **more) -> nn.Module:
    """*model* with an adapter whose weights are all random."""
    model = get_peft_model(model, BottleneckConfig(bottleneck_size=SIZE, variant=variant, **more)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def update(layer: BottleneckLayer, x: torch.Tensor, scaling: float = 1.0) -> torch.Tensor:
    """The adapter's formula with SiLU, from the layer's weights."""
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    hidden = x @ down.weight.T + down.bias
    return scaling * (hidden * torch.sigmoid(hidden) @ up.weight.T + up.bias)


def seen(model: nn.Module, **modules: nn.Module) -> dict[str, tuple[tuple, torch.Tensor]]:
    """Positional inputs and output of each module in one forward pass."""
    found, handles = {}, []
    for name, module in modules.items():

        def keep(_, inputs, output, name=name):
            found[name] = (inputs, output[0] if isinstance(output, tuple) else output)

        handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(**tiny_batch())
    for handle in handles:
        handle.remove()
    return found


def encoder_layer(model: nn.Module) -> nn.Module:
    return model.get_base_model().base_model.encoder.layer[0]


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert (got - want).abs().max() <= 2e-6


# --- the formula -----------------------------------------------------------------------------------------------------


def test_the_update_on_numbers_a_reader_can_follow():
    x = torch.tensor([[[1.0, -2.0]]])
    down_weight, down_bias = torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([0.5, 1.0])
    up_weight, up_bias = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([0.25, 0.0])
    # down: (1 - 2 + 0.5, 2 + 1) = (-0.5, 3); relu: (0, 3); up: (6 + 0.25, -3); times 2: (12.5, -6)
    got = bottleneck(x, down_weight, down_bias, up_weight, up_bias, F.relu, 2.0)
    assert torch.equal(got, torch.tensor([[[12.5, -6.0]]]))


@pytest.mark.parametrize("activation", [F.relu, F.gelu, F.silu, torch.tanh])
def test_stacked_members_are_each_member_alone(activation):
    generator = torch.Generator().manual_seed(0)
    members, batch, tokens, width, size = 3, 2, 4, 6, 5

    def draw(*shape):
        return torch.randn(members, *shape, generator=generator, dtype=torch.float64)

    x = draw(batch, tokens, width)
    weights = draw(size, width), draw(size), draw(width, size), draw(width)
    scaling = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    together = bottleneck(x, *weights, activation, scaling.view(-1, 1, 1, 1))
    for member in range(members):
        alone = bottleneck(x[member], *(weight[member] for weight in weights), activation, scaling[member].item())
        assert together[member].shape == (batch, tokens, width)
        assert (together[member] - alone).abs().max() <= 1e-12


def test_a_narrower_member_padded_with_zeros_stays_itself():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 6, generator=generator)
    down, up = torch.randn(3, 6, generator=generator), torch.randn(6, 3, generator=generator)
    down_bias, up_bias = torch.randn(3, generator=generator), torch.randn(6, generator=generator)
    padded = (F.pad(down, (0, 0, 0, 2)), F.pad(down_bias, (0, 2)), F.pad(up, (0, 2)), up_bias)
    together = bottleneck(x, *(weight[None] for weight in padded), F.gelu)
    assert_close(together[0], bottleneck(x[0], down, down_bias, up, up_bias, F.gelu))


# --- the places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_houlsby_in_an_encoder_is_norm_of_block_plus_update_plus_residual_in_both_halves(name):
    model = adapted(MODELS[name](), "houlsby")
    layer = encoder_layer(model)
    for half in (layer.attention.output, layer.output):
        (inputs, residual), output = seen(model, half=half)["half"]
        y = half.dense(inputs)
        assert_close(output, half.LayerNorm(y + update(half.dropout, y) + residual))


def test_houlsby_in_gpt2_adds_the_update_to_attention_and_feed_forward_before_the_residual_sum():
    model = adapted(tiny_gpt2(), "houlsby")
    block = model.get_base_model().transformer.h[0]
    found = seen(model, block=block, attention=block.attn.c_proj, feed_forward=block.mlp.c_proj)
    (x, *_), output = found["block"]
    attention, feed_forward = found["attention"][1], found["feed_forward"][1]
    want = x + attention + update(block.attn.resid_dropout, attention)
    want = want + feed_forward + update(block.mlp.dropout, feed_forward)
    assert_close(output, want)


@pytest.mark.parametrize("name", ENCODERS)
def test_pfeiffer_in_an_encoder_sits_between_two_uses_of_the_feed_forward_norm(name):
    model = adapted(MODELS[name](), "pfeiffer")
    layer = encoder_layer(model).output
    (inputs, residual), output = seen(model, layer=layer)["layer"]
    base = layer.base_layer
    h = base.dense(inputs)
    z = base.LayerNorm(h + residual)
    assert_close(output, base.LayerNorm(h + update(layer, z) + residual))


def test_pfeiffer_in_gpt2_is_the_feed_forward_half_of_houlsby():
    model = adapted(tiny_gpt2(), "pfeiffer")
    block = model.get_base_model().transformer.h[0]
    (y,), output = seen(model, site=block.mlp.dropout)["site"]
    assert_close(output, y + update(block.mlp.dropout, y))
    assert not isinstance(block.attn.resid_dropout, BottleneckLayer)


@pytest.mark.parametrize("name", ENCODERS)
def test_parallel_in_an_encoder_reads_what_the_feed_forward_block_reads(name):
    model = adapted(MODELS[name](), "parallel", scaling=4.0)
    layer = encoder_layer(model)
    found = seen(model, output=layer.output, intermediate=layer.intermediate)
    (inputs, residual), output = found["output"]
    (block_input,), _ = found["intermediate"]
    assert torch.equal(residual, block_input)
    base = layer.output.base_layer
    assert_close(output, base.LayerNorm(base.dense(inputs) + residual + update(layer.output, block_input, scaling=4.0)))


def test_parallel_in_gpt2_reads_what_the_feed_forward_block_reads():
    model = adapted(tiny_gpt2(), "parallel", scaling=4.0)
    block = model.get_base_model().transformer.h[0]
    (x,), output = seen(model, mlp=block.mlp)["mlp"]
    with torch.no_grad():
        want = block.mlp.base_layer(x) + update(block.mlp, x, scaling=4.0)
    assert_close(output, want)


@pytest.mark.parametrize("name", ENCODERS)
def test_lin_in_an_encoder_follows_the_whole_layer_with_a_norm_of_its_own(name):
    model = adapted(MODELS[name](), "lin")
    layer = encoder_layer(model).output
    (inputs, residual), output = seen(model, layer=layer)["layer"]
    with torch.no_grad():
        y = layer.base_layer(inputs, residual)
        assert_close(output, y + update(layer, layer.bottleneck_norm["default"](y)))


def test_lin_in_gpt2_follows_the_whole_layer_with_a_norm_of_its_own():
    model = adapted(tiny_gpt2(), "lin")
    layer, following = model.get_base_model().transformer.h
    found = seen(model, base=layer.base_layer, following=following)
    y, (handed_on, *_) = found["base"][1], found["following"][0]
    assert_close(handed_on, y + update(layer, layer.bottleneck_norm["default"](y)))


@pairs("name, variant", MODELS, VARIANTS)
def test_training_starts_from_the_base_model_to_the_last_bit(name, variant):
    base = MODELS[name]()
    with torch.no_grad():
        want = base(**tiny_batch()).logits
        model = get_peft_model(base, BottleneckConfig(bottleneck_size=SIZE, variant=variant)).eval()
        got = model(**tiny_batch()).logits
    if variant == "pfeiffer" and name in ENCODERS:
        assert_close(got, want)  # the sum is made in another order
    else:
        assert torch.equal(got, want)


def test_the_first_weights_are_drawn_in_an_order_that_never_changes():
    # Runs are repeated from their seed: down is made, up is made, then down is drawn.
    torch.manual_seed(7)
    down, _ = nn.Linear(HIDDEN, SIZE), nn.Linear(SIZE, HIDDEN)
    nn.init.normal_(down.weight, std=0.02)
    torch.manual_seed(7)
    layer = BottleneckLayer(nn.Dropout(), "after", HIDDEN)
    layer.update_layer("default", BottleneckConfig(bottleneck_size=SIZE), torch.device("cpu"))
    assert torch.equal(layer.bottleneck_down["default"].weight, down.weight)


@pytest.mark.parametrize(
    ("variant", "down_std", "up_std"),
    # A normal cut at two standard deviations has 0.8796 of its standard deviation; a uniform in +-1/sqrt(width) has
    # 1/sqrt(3 width).
    [("houlsby", 0.008796, 0.008796), ("pfeiffer", 0.02, 0.02), ("lin", 0.02, 0.02), ("parallel", 384**-0.5, 0.0)],
)
def test_the_papers_initialisation_has_the_papers_spread(variant, down_std, up_std):
    config = BottleneckConfig(bottleneck_size=64, variant=variant, initialisation="paper")
    model = get_peft_model(tiny_roberta(hidden_size=128), config)
    for path, parameter in model.named_parameters():
        if path.endswith(("bottleneck_down.default.weight", "bottleneck_up.default.weight")):
            std = down_std if "_down." in path else up_std
            assert abs(parameter.std().item() - std) <= 0.04 * std
        elif ".bottleneck_" in path and path.endswith("bias"):
            assert not parameter.any()


def test_the_up_weights_start_at_zero_and_the_down_weights_at_init_std():
    model = get_peft_model(tiny_roberta(hidden_size=128), BottleneckConfig(bottleneck_size=64, init_std=0.5))
    for path, parameter in model.named_parameters():
        if path.endswith("bottleneck_down.default.weight"):
            # 8,192 draws: the standard deviation of their standard deviation is 0.5 / sqrt(2 * 8192) = 0.004
            assert abs(parameter.std().item() - 0.5) < 0.02
        elif "bottleneck_" in path:
            assert not parameter.any()


# --- the layers ------------------------------------------------------------------------------------------------------


@pairs("name, variant", MODELS, VARIANTS, 1)
def test_a_skipped_layer_has_no_adapter(name, variant):
    whole = get_peft_model(MODELS[name](), BottleneckConfig(bottleneck_size=SIZE, variant=variant))
    model = get_peft_model(MODELS[name](), BottleneckConfig(bottleneck_size=SIZE, variant=variant, skip_layers=[0]))
    assert count(model) * LAYERS == count(whole) * (LAYERS - 1)
    paths = [path for path, module in model.named_modules() if isinstance(module, BottleneckLayer)]
    assert paths
    assert all(".1" in path and ".0" not in path for path in paths)


def test_skipping_layer_1_of_12_leaves_layers_10_and_11():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(RobertaConfig())
    model = get_peft_model(model, BottleneckConfig(bottleneck_size=SIZE, variant="lin", skip_layers=[1]))
    paths = [path for path, module in model.named_modules() if isinstance(module, BottleneckLayer)]
    assert [int(path.split(".")[-2]) for path in paths] == [0, *range(2, 12)]


@pytest.mark.parametrize("layers", [[0, 1], [2], [-1]])
def test_layers_that_cannot_be_skipped_are_refused(layers):
    with pytest.raises(UnsupportedPair, match="must leave a layer and name some of 0 to 1, got"):
        get_peft_model(tiny_roberta(), BottleneckConfig(bottleneck_size=SIZE, skip_layers=layers))


# --- the weights -----------------------------------------------------------------------------------------------------


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("variant", "sites", "norms"), [("houlsby", 2, 0), ("pfeiffer", 1, 0), ("parallel", 1, 0), ("lin", 1, 1)]
)
def test_a_site_has_two_matrices_and_two_biases_and_lins_a_norm(name, variant, sites, norms):
    model = get_peft_model(MODELS[name](), BottleneckConfig(bottleneck_size=SIZE, variant=variant))
    assert count(model) == LAYERS * (sites * (2 * HIDDEN * SIZE + SIZE + HIDDEN) + norms * 2 * HIDDEN)


@pytest.mark.parametrize(("variant", "weights"), [("houlsby", 1_789_056), ("pfeiffer", 894_528)])
def test_the_count_on_roberta_base_with_48_units(variant, weights):
    # houlsby: 2 * 12 * (2 * 768 * 48 + 48 + 768) = 24 * 74,544
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(RobertaConfig())
    assert model.roberta.encoder.layer[11].output.dense.weight.shape == (768, 3072)
    assert count(get_peft_model(model, BottleneckConfig(bottleneck_size=48, variant=variant))) == weights


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck_size": 0}, "bottleneck_size must be at least 1, got 0"),
        ({"bottleneck_size": 4, "variant": "houlsbi"}, "unknown bottleneck variant 'houlsbi'; did you mean 'houlsby'"),
        ({"bottleneck_size": 4, "initialisation": "papre"}, "unknown initialisation 'papre'; did you mean 'paper'"),
        ({"bottleneck_size": 4, "non_linearity": "rellu"}, "unknown non-linearity 'rellu'; did you mean 'relu'"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(LoraBenchError, match=message):
        BottleneckConfig(**settings)


def test_the_width_has_no_default():
    with pytest.raises(TypeError, match="bottleneck_size"):
        BottleneckConfig()


def test_two_variants_on_one_model_are_refused():
    model = get_peft_model(tiny_roberta(), BottleneckConfig(bottleneck_size=4, variant="parallel"))
    with pytest.raises(UnsupportedPair, match=r"share a variant, got \['houlsby', 'parallel'\]"):
        model.add_adapter("second", BottleneckConfig(bottleneck_size=4))
    model.add_adapter("second", BottleneckConfig(bottleneck_size=8, variant="parallel"))  # nothing is left behind


def test_a_family_without_the_variant_is_refused(monkeypatch):
    without = dataclasses.replace(ROBERTA, bottleneck_sites={"houlsby": ROBERTA.bottleneck_sites["houlsby"]})
    monkeypatch.setattr("lora_bench.families.FAMILIES", (without,))
    with pytest.raises(UnsupportedPair, match=r"roberta has no parallel adapter: \['houlsby'\]"):
        get_peft_model(tiny_roberta(), BottleneckConfig(bottleneck_size=4, variant="parallel"))


def test_two_active_adapters_are_refused():
    model = adapted(tiny_roberta(), "houlsby")
    model.add_adapter("second", BottleneckConfig(bottleneck_size=4))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(
        LoraBenchError, match=r"one bottleneck adapter can be active at a time, got \['default', 'second'\]"
    ):
        model(**tiny_batch())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_writes_what_generation_without_one_writes(variant, beams):
    model = adapted(tiny_gpt2(), variant)
    prompt = tiny_batch((7, 4), padding_side="left")
    how = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    assert torch.equal(model.generate(**prompt, **how), model.generate(**prompt, **how, use_cache=False))
