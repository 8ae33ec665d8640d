"""Trained activations act as virtual tokens whose path through the layers is replaced, layer by layer."""

import pytest
import torch
from peft import get_peft_model

from lora_bench.errors import LoraBenchError
from lora_bench.tuners import PrefixActivationConfig, PrefixActivationLayer
from tests.tiny import HIDDEN, LAYERS, MODELS, tiny_batch, tiny_gpt2, tiny_roberta

LENGTH = 3


def adapted(model, std=1.0):
    torch.manual_seed(5)
    return get_peft_model(model, PrefixActivationConfig(num_virtual_tokens=LENGTH, init_std=std)).eval()


def activations(model):
    return [m.activation_prefix["default"] for m in model.modules() if isinstance(m, PrefixActivationLayer)]


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_has_one_activation_for_each_virtual_token(name):
    model = adapted(MODELS[name]())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == LAYERS * LENGTH * HIDDEN


def replaced(base, blocks, embed, batch, prefix):
    """The hidden states of a model run on [virtual tokens; text], the first ones overwritten before every layer."""

    def overwrite(number):
        def hook(module, args, kwargs):
            states = args[0] if args else kwargs["hidden_states"]
            states = torch.cat([prefix[number].expand(len(states), -1, -1), states[:, LENGTH:]], dim=1)
            return (states, *args[1:]), {key: value for key, value in kwargs.items() if key != "hidden_states"}

        return hook

    handles = [
        block.register_forward_pre_hook(overwrite(number), with_kwargs=True) for number, block in enumerate(blocks)
    ]
    with torch.no_grad():
        states = base(**embed(batch)).last_hidden_state[:, LENGTH:]
    for handle in handles:
        handle.remove()
    return states


def test_on_gpt2_it_is_inserted_tokens_overwritten_before_every_layer():
    model = adapted(tiny_gpt2())
    base = tiny_gpt2().transformer
    batch = tiny_batch((9, 9))
    ids = torch.cat([torch.zeros(2, LENGTH, dtype=torch.long), batch["input_ids"]], dim=1)
    # The text keeps its positions; those of the virtual tokens are overwritten.
    positions = torch.cat([torch.zeros(LENGTH, dtype=torch.long), torch.arange(9)]).expand(2, -1)
    want = replaced(base, base.h, lambda _: {"input_ids": ids, "position_ids": positions}, batch, activations(model))
    with torch.no_grad():
        got = model.get_base_model().transformer(**batch).last_hidden_state
    assert (got - want).abs().max() <= 1e-5


def test_on_roberta_it_is_inserted_tokens_overwritten_before_every_layer():
    model = adapted(tiny_roberta())
    base = tiny_roberta().roberta
    batch = tiny_batch((9, 6))
    rows = len(batch["input_ids"])
    ids = torch.cat([torch.full((rows, LENGTH), 5), batch["input_ids"]], dim=1)
    mask = torch.cat([torch.ones(rows, LENGTH, dtype=torch.long), batch["attention_mask"]], dim=1)
    own = base.embeddings.create_position_ids_from_input_ids(batch["input_ids"], 1, 0)
    positions = torch.cat([torch.zeros(rows, LENGTH, dtype=torch.long), own], dim=1)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    want = replaced(base, base.encoder.layer, lambda _: inputs, batch, activations(model))
    with torch.no_grad():
        got = model.get_base_model().roberta(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert (got - want)[real].abs().max() <= 1e-5


def test_no_tokens_are_refused():
    with pytest.raises(LoraBenchError, match="num_virtual_tokens must be at least 1, got 0"):
        PrefixActivationConfig(num_virtual_tokens=0)
