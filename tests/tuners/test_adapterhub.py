"""Our tuners compute what AdapterHub's `adapters` 1.3.0 computes with the same weights, outputs and gradients alike.

The values were written by tests/golden/make_adapterhub.py in an environment of its own. DeBERTa v1, and Pfeiffer and
parallel adapters on GPT-2, are not there: AdapterHub's own DeBERTa v1 differs from transformers' with no adapter at all,
and it puts those two adapters at another place of GPT-2. They are held against the formula in test_bottleneck.py.
"""

import copy
from pathlib import Path

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    BartConfig,
    BartModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

from lora_bench.tuners import BottleneckConfig, PrefixConfig

GOLDEN = Path(__file__).parents[1] / "golden"
WIDTH, SIZE, PREFIX, UNITS = 16, 4, 3, 5
ENCODER = {
    "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 24, "pad_token_id": 1,
}  # fmt: skip
V3 = {
    "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
    "position_buckets": 4, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
}  # fmt: skip
BART = {
    "vocab_size": 40, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 24,
    "pad_token_id": 1,
}  # fmt: skip
GPT2 = {"vocab_size": 40, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 24}
MODELS = {
    "roberta": (RobertaModel, lambda attn: RobertaConfig(**ENCODER, attn_implementation=attn)),
    "deberta-v3": (DebertaV2Model, lambda attn: DebertaV2Config(**ENCODER, **V3)),
    "gpt2": (GPT2Model, lambda attn: GPT2Config(**GPT2, attn_implementation=attn)),
    "bart": (BartModel, lambda attn: BartConfig(**BART, attn_implementation=attn)),
}
KINDS = {
    "houlsby": BottleneckConfig(bottleneck_size=SIZE),
    "pfeiffer": BottleneckConfig(bottleneck_size=SIZE, variant="pfeiffer", non_linearity="relu"),
    "parallel": BottleneckConfig(bottleneck_size=SIZE, variant="parallel", non_linearity="relu", scaling=4.0),
    "prefix": PrefixConfig(num_virtual_tokens=PREFIX),
    "computed_prefix": PrefixConfig(num_virtual_tokens=PREFIX, reparameterised=True, reparameterisation_width=UNITS),
}
CONTENT = {name: load_file(GOLDEN / f"{name}.safetensors") for name in MODELS}
PAIRS = [(name, kind) for name in MODELS for kind in KINDS if f"{kind}.states" in CONTENT[name]]


def part(content, name):
    return {path.removeprefix(f"{name}."): tensor for path, tensor in content.items() if path.startswith(f"{name}.")}


def base_model(name, attn):
    model_class, config = MODELS[name]
    model = model_class(config(attn))
    missing, unexpected = model.load_state_dict(part(CONTENT[name], "base"), strict=False)
    assert not missing
    assert all("bias" in path or "masked_bias" in path for path in unexpected)  # GPT-2's old causal masks
    return model


def assert_near(got, want):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


def test_every_pair_is_there():
    assert len(PAIRS) == 15


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_states_and_gradients_are_adapterhubs(name, kind, attn):
    content = part(CONTENT[name], kind)
    model = get_peft_model(base_model(name, attn), copy.deepcopy(KINDS[kind])).eval()
    weights = {f"base_model.model.{path}": tensor for path, tensor in part(content, "adapter").items()}
    set_peft_model_state_dict(model, weights)
    trained = {path: weight for path, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == len(weights)
    states = model(input_ids=content["input_ids"], attention_mask=content["attention_mask"]).last_hidden_state
    real = content["attention_mask"].bool()
    assert_near(states[real], content["states"][real])
    (states * content["weighting"]).sum().backward()
    gradients = part(content, "gradient")
    assert len(gradients) == len(trained)
    for path, weight in trained.items():
        assert_near(weight.grad, gradients[path.removeprefix("base_model.model.").replace(".default", "")])
        assert weight.grad.abs().max() > 0


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_adapters_matter(name, kind):
    content = part(CONTENT[name], kind)
    real = content["attention_mask"].bool()
    with torch.no_grad():
        states = (
            base_model(name, "eager")
            .eval()(input_ids=content["input_ids"], attention_mask=content["attention_mask"])
            .last_hidden_state
        )
    assert (states - content["states"])[real].abs().max() > 0.05


@pytest.mark.parametrize("name", MODELS)
def test_each_file_says_what_made_it(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        assert file.metadata() == {"adapters": "1.3.0", "transformers": "4.57.6", "torch": "2.13.0+cpu"}
