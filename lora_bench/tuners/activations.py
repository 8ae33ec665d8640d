"""Prefix-layer tuning: trained activations of virtual tokens at the input of every layer.

`lora_bench.methods.prefix_layer` tells the method. Real tokens meet virtual ones only in attention, as keys and values from the
layer's frozen projections. This is a key/value prefix with the base model's projections in front, and it is computed as one.
Nothing is inserted; positions, masks, caches and generation are those of the base model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.families import Family, PrefixKind
from lora_bench.tuners.attention import key_value_of, key_value_projections
from lora_bench.tuners.prefix import PrefixLayer, PrefixModel, prefix_kind
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import TunerConfig


@dataclass(kw_only=True)
class PrefixActivationConfig(TunerConfig):
    """Config of trained activations of virtual tokens at the input of every layer; `methods.prefix_layer` tells the options."""

    num_virtual_tokens: int
    init_std: float = field(default=0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_PREFIX_LAYER
        self.refuse_below(1, "num_virtual_tokens")


class PrefixActivationLayer(PrefixLayer):
    """An attention module with the activations that its queries see through its own projections.

    The model's *family* names the projections. A *norm* before the module stays a part of its layer.
    """

    adapter_layer_names: tuple[str, ...] = ("activation_prefix",)

    def __init__(
        self, base_layer: nn.Module, kind: PrefixKind, family: Family, config: Mapping[str, Any], norm: nn.Module | None
    ) -> None:
        super().__init__(base_layer, kind, config[family.hidden_size_key], [])
        self.family = family
        self.config = config
        self.before = [norm] if norm is not None else []  # a plain list, so that the norm is no part of this layer
        self.activation_prefix = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: Any, device: torch.device) -> None:
        """Add activations, drawn on *device*."""
        fresh = torch.empty(config.num_virtual_tokens, self.width, device=device)
        self.activation_prefix[adapter_name] = nn.Parameter(nn.init.normal_(fresh, std=config.init_std))

    def has(self, adapter_name: str) -> bool:
        """Return True if this layer has activations of this name."""
        return adapter_name in self.activation_prefix

    def key_value(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return key and value of the activations, each of shape (prefix_tokens, width)."""
        # A copy: loaded activations lie where their file has them, and products of unaligned numbers add in another order.
        x: Tensor = self.activation_prefix[adapter_name].clone()
        key_projection, value_projection = key_value_projections(self.base_layer, self.family)
        if key_projection.weight.is_floating_point():  # a quantised one takes any type
            x = x.to(key_projection.weight.dtype)
        for norm in self.before:
            x = norm(x)
        key = key_projection(x)
        value = key if self.family.fused else value_projection(x)
        return key_value_of(self.base_layer, self.family, self.config, key, value)


class PrefixActivationModel(PrefixModel):
    """A base model with activations of virtual tokens, from `get_peft_model(model, PrefixActivationConfig(...))`."""

    prefix = "activation_"
    tuner_layer_cls: type[PrefixLayer] = PrefixActivationLayer
    title = "prefix-layer tuning"

    def attentions(self, family: Family) -> tuple[str, ...]:
        """Return the self-attention: the encoder's outputs, which a decoder attends to, are the input of none of its layers."""
        return (family.self_attention,)

    def new_layer(
        self, base_layer: nn.Module, config: Any, family: Family, model_config: dict[str, Any], path: str
    ) -> PrefixActivationLayer:
        """Wrap one attention module of the base model. Raise as `Family.fused_slices` does."""
        layer = self.model.get_submodule(path.removesuffix(f".{family.self_attention}"))
        norm = layer.get_submodule(family.attention_norm) if family.attention_norm else None
        return PrefixActivationLayer(base_layer, prefix_kind(family), family, model_config, norm)


LORA_BENCH_PREFIX_LAYER = register("LORA_BENCH_PREFIX_LAYER", PrefixActivationConfig, PrefixActivationModel)
