"""Prefix-embedding tuning: trained embeddings of virtual tokens in front of an encoder's text.

PreEmbed of Hu et al. 2021 (https://arxiv.org/abs/2106.09685, section 5.1): P width weights for P tokens. They pass every layer
like those of the text and are dropped at the end, so the head reads its usual token. They are inserted behind the embedding
layer, so its positions and LayerNorm are part of what is learned. The text keeps its positions; in a DeBERTa virtual tokens
stand at negative ones. If a mask lets queries see different tokens, such as those of several packed texts, virtual tokens see
what all of them see, so that nothing passes between texts.

A causal model would also need its cache and the positions of all later tokens moved: PEFT's prompt tuning does that for text
generation. `tuners.activations` has the stronger relative of this method, in every family.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import Family
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import Tuner, TunerConfig, TunerLayer, check_rows


def insert_tokens(tokens: Tensor, states: Tensor) -> Tensor:
    """Return hidden states with virtual tokens in front.

    Args:
        tokens: Shape (prefix_tokens, width), or (batch, prefix_tokens, width) with others for each row.
        states: Shape (batch, tokens, width).

    Returns:
        Shape (batch, prefix_tokens + tokens, width), of the type of *states*.
    """
    return torch.cat([tokens.to(states.dtype).expand(len(states), -1, -1), states], dim=1)


def insert_in_mask(mask: Tensor | None, visible: Tensor) -> Tensor | None:
    """Return an encoder's mask with virtual tokens in front; None if all is visible.

    Args:
        mask: Real tokens, shape (batch, tokens), or what each query may see, shape (batch, heads or 1, tokens or 1, tokens),
            bool or added to the scores; None if all is visible.
        visible: Virtual tokens of each row, shape (batch, prefix_tokens), bool.
    """
    if mask is None:
        return None
    if mask.dim() == 2:
        return torch.cat([visible.to(mask.dtype), mask], dim=1)
    columns = visible[:, None, None, :]
    if mask.dtype == torch.bool:
        seen_by_all = mask.all(dim=2, keepdim=True)
    else:
        seen_by_all = mask.amin(dim=2, keepdim=True)
        columns = torch.zeros_like(columns, dtype=mask.dtype).masked_fill(~columns, torch.finfo(mask.dtype).min)
    (batch, virtual), tokens = visible.shape, mask.shape[-1]
    of_virtual, of_text = seen_by_all.expand(batch, -1, virtual, -1), mask.expand(batch, -1, tokens, -1)
    rows = torch.cat([of_virtual, of_text], dim=2)
    return torch.cat([columns.expand(-1, rows.shape[1], virtual + tokens, -1), rows], dim=-1)


@dataclass(kw_only=True)
class PrefixEmbeddingConfig(TunerConfig):
    """Config of trained embeddings of virtual tokens in front of the text.

    Args:
        num_virtual_tokens: Number of tokens, at least 1.
        init_std: Standard deviation of the initial embeddings.
    """

    num_virtual_tokens: int
    init_std: float = field(default=0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_PREFIX_EMBEDDING
        if self.num_virtual_tokens < 1:
            raise LoraBenchError(f"num_virtual_tokens must be at least 1, got {self.num_virtual_tokens}")


class PrefixEmbeddingLayer(TunerLayer):
    """An encoder's stack of layers with the virtual tokens that it reads before the text.

    Args:
        base_layer: The stack, from hidden states and a mask to an output with hidden states.
        width: Width of the hidden states.
    """

    adapter_layer_names = ("virtual_embedding",)

    def __init__(self, base_layer: nn.Module, width: int) -> None:
        super().__init__(base_layer)
        self.width = width
        self.virtual_embedding = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: PrefixEmbeddingConfig, device: torch.device) -> None:
        """Add embeddings, drawn on *device*."""
        fresh = torch.empty(config.num_virtual_tokens, self.width, device=device)
        self.virtual_embedding[adapter_name] = nn.Parameter(nn.init.normal_(fresh, std=config.init_std))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *args: Any,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the stack's output for the text behind the active virtual tokens, or behind each row's own."""
        if adapter_names is not None and self.virtual_embedding and not self.disable_adapters:
            check_rows(adapter_names, hidden_states)
            tokens, visible = self.mixed(adapter_names)
            if attention_mask is None:  # all of the text is seen, and not all of the virtual tokens
                attention_mask = hidden_states.new_zeros(len(hidden_states), 1, 1, hidden_states.shape[1])
        else:
            live = self.live_adapters()
            if not live:
                return self.base_layer(hidden_states, attention_mask, *args, **kwargs)
            tokens = torch.cat([self.virtual_embedding[name] for name in live])
            visible = torch.ones(len(hidden_states), len(tokens), dtype=torch.bool, device=tokens.device)
        output = self.base_layer(
            insert_tokens(tokens, hidden_states), insert_in_mask(attention_mask, visible), *args, **kwargs
        )
        return _without_first(output, tokens.shape[-2])

    def mixed(self, adapter_names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return each row's virtual tokens, shape (batch, longest, width), at the end of theirs, and which of them are real."""
        none = next(iter(self.virtual_embedding.values())).new_zeros(0, self.width)
        rows = [self.virtual_embedding.get(name, none) for name in adapter_names]
        longest = max(len(row) for row in rows)
        lengths = torch.tensor([len(row) for row in rows], device=none.device)
        visible = torch.arange(longest, device=none.device) >= longest - lengths[:, None]
        return torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows]), visible


def _without_first(output: Any, count: int) -> Any:
    """Return an encoder's output without the first *count* tokens of its hidden states; attention probabilities keep them."""
    for name in ("last_hidden_state", "hidden_states"):
        states = output.get(name)
        if isinstance(states, Tensor):
            output[name] = states[:, count:]
        elif states is not None:
            output[name] = type(states)(layer[:, count:] for layer in states)
    return output


class PrefixEmbeddingModel(Tuner):
    """An encoder with virtual tokens, from `get_peft_model(model, PrefixEmbeddingConfig(...))`."""

    prefix = "virtual_"
    tuner_layer_cls = PrefixEmbeddingLayer
    title = "prefix-embedding tuning"

    def site_pattern(self, config: PrefixEmbeddingConfig, family: Family, model_config: dict[str, Any]) -> str:
        """Return a regular expression of the stack of layers of *family*.

        Raises:
            UnsupportedPair: If the model is a decoder, or its layers are not called as one module.
        """
        if family.encoder is None:
            raise UnsupportedPair(
                f"{self.title} is written for encoders whose layers are called as one, and {family.name} is none: "
                "prefix_layer works there, or PEFT's PROMPT_TUNING for text generation"
            )
        if model_config.get("is_decoder"):
            raise UnsupportedPair(f"{self.title} is written for encoders, and this model is a decoder (is_decoder)")
        return family.encoder

    def new_layer(
        self,
        base_layer: nn.Module,
        config: PrefixEmbeddingConfig,
        family: Family,
        model_config: dict[str, Any],
        path: str,
    ) -> PrefixEmbeddingLayer:
        """Wrap the stack of layers of the base model."""
        return PrefixEmbeddingLayer(base_layer, model_config[family.hidden_size_key])


LORA_BENCH_PREFIX_EMBEDDING = register("LORA_BENCH_PREFIX_EMBEDDING", PrefixEmbeddingConfig, PrefixEmbeddingModel)
