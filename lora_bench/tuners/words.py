"""Start of a prefix from real words: the keys and values that the base model computes for them.

Li and Liang 2021 (https://arxiv.org/abs/2101.00190) find this better than random numbers if data are few. The base model reads
the words once, and each layer's keys and values of them become the prefix, which is then trained. On GPT-2 the untrained model
answers as if the words stood in front of the text.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError
from lora_bench.tuners.attention import key_value_of, key_value_projections
from lora_bench.tuners.inferred_family import family_of_model
from lora_bench.tuners.layer_probe import hooked
from lora_bench.tuners.prefix import prefix_layers
from lora_bench.tuners.trial import decoder_inputs


@torch.no_grad()
def prefix_from_words(model: PeftModel, input_ids: Tensor, adapter_name: str = "default") -> None:
    """Set a prefix, in place, to the keys and values of words.

    *input_ids* are the tokens of the words, one for each virtual token, shape (prefix_tokens,). Raise LoraBenchError if the
    prefix has another length, or is reparameterised.
    """
    config = model.peft_config[adapter_name]
    if config.reparameterised:
        raise LoraBenchError("a reparameterised prefix is computed and cannot be set to words: fold it first")
    if input_ids.shape != (config.num_virtual_tokens,):
        raise LoraBenchError(
            f"the prefix has {config.num_virtual_tokens} virtual tokens, the words have shape {tuple(input_ids.shape)}"
        )
    base_config = model.get_base_model().config.to_dict()
    family = family_of_model(model.get_base_model())
    layers = [layer for _, layer in prefix_layers(model) if layer.has(adapter_name)]
    training = model.training
    model.eval()
    with model.disable_adapter():
        outputs = _outputs(
            model, [part for layer in layers for part in key_value_projections(layer.base_layer, family)], input_ids
        )
    model.train(training)
    for layer in layers:
        of_key, of_value = (outputs[part][0] for part in key_value_projections(layer.base_layer, family))
        key, value = key_value_of(layer.base_layer, family, base_config, of_key, of_value)
        layer.prefix_key[adapter_name].copy_(key)
        layer.prefix_value[adapter_name].copy_(value)


def _outputs(model: nn.Module, modules: list[nn.Module], input_ids: Tensor) -> dict[nn.Module, Tensor]:
    """Return each module's output for one text; for a module called again, for relative positions, the first one."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.setdefault(module, output)

    row = input_ids[None]
    with hooked(modules, keep):
        model(input_ids=row, attention_mask=torch.ones_like(row), **decoder_inputs(model, row))
    return found
