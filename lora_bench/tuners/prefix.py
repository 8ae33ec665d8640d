"""Key/value prefixes: learned keys and values in front of every layer's own.

Li and Liang 2021, https://arxiv.org/abs/2101.00190, without the reparameterisation. 2 L P width weights for P virtual
tokens in L layers, drawn from a normal distribution: unlike an update that starts at zero, a prefix changes the model
from the first step.

PEFT has the method for models with a cache, and puts the prefix into it: real tokens then start at position P, and
DeBERTa, which has no cache, is out of reach. Here the prefix meets the keys inside attention (`tuners.attention`), so
positions, masks and caches are those of the base model, RoBERTa and DeBERTa and GPT-2 work alike, and so do gradient
checkpointing and generation. On GPT-2 the two agree once ours is given position ids that start at P. Several active
prefixes are joined one after the other. A prefix cannot be merged into the base weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import Family, PrefixKind
from lora_bench.tuners.attention import ATTENTIONS, Prefix, refuse_kernel
from lora_bench.tuners.base import Tuner, TunerConfig, TunerLayer, check_rows
from lora_bench.tuners.registration import register


@dataclass(kw_only=True)
class PrefixConfig(TunerConfig):
    """A key/value prefix in every layer.

    Args:
        num_virtual_tokens: Length of the prefix, at least 1.
        init_std: Standard deviation of the initial keys and values.
    """

    num_virtual_tokens: int
    init_std: float = field(default=0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_PREFIX
        if self.num_virtual_tokens < 1:
            raise LoraBenchError(f"num_virtual_tokens must be at least 1, got {self.num_virtual_tokens}")


class PrefixLayer(TunerLayer):
    """An attention module and the prefixes its queries see.

    Args:
        base_layer: The attention module.
        kind: How keys and values get into it.
        width: Width of its keys, all heads together.
    """

    adapter_layer_names = ("prefix_key", "prefix_value")

    def __init__(self, base_layer: nn.Module, kind: PrefixKind, width: int) -> None:
        super().__init__(base_layer)
        self.kind = kind
        self.width = width
        self.prefix_key = nn.ParameterDict()
        self.prefix_value = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: PrefixConfig, device: torch.device) -> None:
        """Add a prefix of fresh keys and values, drawn on *device*."""
        for container in (self.prefix_key, self.prefix_value):
            fresh = torch.empty(config.num_virtual_tokens, self.width, device=device)
            container[adapter_name] = nn.Parameter(nn.init.normal_(fresh, std=config.init_std))

    def key_value(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Key and value of one prefix, each of shape (prefix_tokens, width).

        Everything reads a prefix here, so this is where one that is computed rather than stored would come in.
        """
        return self.prefix_key[adapter_name], self.prefix_value[adapter_name]

    def joined(self, adapter_names: Sequence[str]) -> Prefix:
        """The prefixes of all these adapters, one after the other."""
        keys, values = zip(*(self.key_value(name) for name in adapter_names), strict=True)
        return Prefix(torch.cat(keys), torch.cat(values))

    def mixed(self, adapter_names: Sequence[str]) -> Prefix:
        """A prefix for each row of a batch, that of `adapter_names[i]` for row i, padded to the longest.

        A name without a prefix here, such as PEFT's `__base__`, gives a row that sees none.
        """
        none = next(iter(self.prefix_key.values())).new_zeros(0, self.width)
        rows = [self.key_value(name) if name in self.prefix_key else (none, none) for name in adapter_names]
        longest = max(len(key) for key, _ in rows)
        keys, values = ([F.pad(row[part], (0, 0, 0, longest - len(row[part]))) for row in rows] for part in (0, 1))
        lengths = torch.tensor([len(key) for key, _ in rows], device=none.device)
        mask = torch.arange(longest, device=none.device) < lengths[:, None]
        return Prefix(torch.stack(keys), torch.stack(values), mask)

    def forward(
        self, hidden_states: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """The attention module's own result with the active prefixes, or each row's own, in front of the keys."""
        attend = ATTENTIONS[self.kind]
        if adapter_names is not None and self.prefix_key and not self.disable_adapters:
            check_rows(adapter_names, hidden_states)
            return attend(self.base_layer, self.mixed(adapter_names), hidden_states, *args, **kwargs)
        live = self.live_adapters()
        if not live:
            return self.base_layer(hidden_states, *args, **kwargs)
        return attend(self.base_layer, self.joined(live), hidden_states, *args, **kwargs)


class PrefixModel(Tuner):
    """A base model with key/value prefixes; made by `get_peft_model(model, PrefixConfig(...))`."""

    prefix = "prefix_"
    tuner_layer_cls = PrefixLayer
    title = "a key/value prefix"

    def site_pattern(self, config: PrefixConfig, family: Family, model_config: dict[str, Any]) -> str:
        """Regular expression of the self-attention modules of *family*."""
        if _kind(family) == "cache":
            refuse_kernel(getattr(self.model.config, "_attn_implementation", None))
        if model_config.get("talking_head"):
            # Talking heads (a DeBERTa v1 option) mix the heads before and after the softmax that a prefix joins.
            raise UnsupportedPair("no key/value prefix is written for attention with talking heads")
        return family.pattern(family.self_attention)

    def new_layer(
        self, base_layer: nn.Module, config: PrefixConfig, family: Family, model_config: dict[str, Any], path: str
    ) -> PrefixLayer:
        """Wrap one attention module of the base model."""
        return PrefixLayer(base_layer, _kind(family), model_config[family.hidden_size_key])


def _kind(family: Family) -> PrefixKind:
    if family.prefix_kind is None:
        raise UnsupportedPair(f"no key/value prefix is written for the attention of {family.name}")
    return family.prefix_kind


LORA_BENCH_PREFIX = register("LORA_BENCH_PREFIX", PrefixConfig, PrefixModel)
