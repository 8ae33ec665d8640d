"""Prefixes of PEFT's own prefix tuning as those of our tuner.

PEFT saves keys and values of all layers as one tensor, `prompt_embeddings`, already computed from its reparameterisation. It
puts them into the cache, so a text starts at the position behind them: `first_position` of our config.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PreTrainedModel

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.exchange.adapters import portable_adapter as portable
from lora_bench.exchange.adapters.portable_adapter import PortableAdapter
from lora_bench.tuners import PrefixConfig
from lora_bench.tuners.prefix import position_table


def from_peft_prefix(
    folder: Path, settings: Mapping[str, Any], model: PreTrainedModel, base: str, *, allow_pickle: bool
) -> PortableAdapter:
    """Return a prefix that PEFT's prefix tuning saved; the arguments are those of `from_adapterhub`.

    Raise UnsupportedPair if the model has an encoder and a decoder, or no table of positions to shift; LoraBenchError if it
    cannot be read, or has other layers than the model.
    """
    if model.config.is_encoder_decoder:
        raise UnsupportedPair(
            f"PEFT's prefix on {model.config.model_type} stands in the decoder alone; ours stands where the family has it"
        )
    try:
        position_table(model)
    except UnsupportedPair as error:
        raise UnsupportedPair(
            f"behind PEFT's prefix a text starts at the position of its length, not at 0: {error}"
        ) from error
    tensors = portable.read_weights(folder, SAFETENSORS_WEIGHTS_NAME, "adapter_model.bin", allow_pickle=allow_pickle)
    if "prompt_embeddings" not in tensors:
        raise LoraBenchError(f"{folder} has no prompt_embeddings among its weights, as PEFT's prefix tuning saves")
    table = tensors.pop("prompt_embeddings")
    # PEFT's prefix of a base model's names where it wraps no module.
    head = {name.removeprefix("base_model."): tensor for name, tensor in tensors.items()}
    task_type, mapping = settings.get("task_type"), settings.get("auto_mapping")
    named = (mapping or {}).get("base_model_class")
    bare = task_type in (None, "FEATURE_EXTRACTION") and named in (None, type(model).__name__)
    inside = "" if bare else f"{model.base_model_prefix}."
    model_class = portable.class_name(model, inside, mapping, task_type)
    config = PrefixConfig(
        num_virtual_tokens=len(table),
        first_position=len(table),
        task_type=task_type,
        **portable.settings_of(head, base, model, model_class),
    )
    weights = portable.prefix_weights(table, model)
    return PortableAdapter(config=config, weights=weights, inside=inside, head=head, model_class=model_class)
