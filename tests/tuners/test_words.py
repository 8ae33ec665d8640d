"""A prefix from words is the keys and values that the base model gives them."""

import pytest
import torch
from peft import get_peft_model

from lora_bench.errors import LoraBenchError
from lora_bench.tuners import PrefixConfig, PrefixLayer, prefix_from_words
from tests.tiny import HEADS, HIDDEN, MODELS, tiny_batch, tiny_gpt2, tiny_roberta

WORDS = torch.tensor([11, 42, 7])


def prefixed(model, **more):
    return get_peft_model(model, PrefixConfig(num_virtual_tokens=len(WORDS), **more)).eval()


def test_on_gpt2_an_untrained_prefix_of_words_answers_as_if_they_stood_before_the_text():
    text = tiny_batch((9, 9))["input_ids"]
    model = prefixed(tiny_gpt2())
    prefix_from_words(model, WORDS)
    with torch.no_grad():
        want = tiny_gpt2()(input_ids=torch.cat([WORDS.expand(2, -1), text], dim=1)).logits[:, len(WORDS) :]
        positions = torch.arange(len(WORDS), len(WORDS) + 9).expand(2, -1)
        got = model(input_ids=text, position_ids=positions).logits
    assert (got - want).abs().max() <= 5e-6


@pytest.mark.parametrize("name", MODELS)
def test_the_first_layer_has_the_keys_and_values_of_the_embedded_words(name):
    model = prefixed(MODELS[name]())
    prefix_from_words(model, WORDS)
    layer = next(module for module in model.modules() if isinstance(module, PrefixLayer))
    base = layer.base_layer
    seen = []
    handle = layer.register_forward_hook(lambda _, args, kwargs, output: seen.append(args[0]), with_kwargs=True)
    with torch.no_grad(), model.disable_adapter():
        model(input_ids=WORDS[None], attention_mask=torch.ones(1, len(WORDS), dtype=torch.long))
        handle.remove()
        x = seen[0][0]
        if name.startswith("gpt2"):
            _, key, value = base.c_attn(x).split(HIDDEN, dim=-1)
        elif name == "deberta":
            _, key, value = base.in_proj(x).unflatten(-1, (HEADS, 3, -1)).unbind(-2)
            key, value = key.flatten(1), value.flatten(1) + base.v_bias
        elif name.startswith("deberta"):
            key, value = base.key_proj(x), base.value_proj(x)
        else:
            key, value = base.key(x), base.value(x)
    assert (layer.prefix_key["default"] - key).abs().max() <= 1e-6
    assert (layer.prefix_value["default"] - value).abs().max() <= 1e-6
    assert layer.prefix_key["default"].requires_grad


def test_words_of_another_number_and_a_computed_prefix_are_refused():
    with pytest.raises(LoraBenchError, match=r"has 3 virtual tokens, the words have shape \(2,\)"):
        prefix_from_words(prefixed(tiny_roberta()), WORDS[:2])
    with pytest.raises(LoraBenchError, match="a reparameterised prefix is computed"):
        prefix_from_words(prefixed(tiny_roberta(), reparameterised=True), WORDS)
