"""Attention with a prefix: extra keys and values in front of those of the real tokens.

softmax(q [P_k; K]^T / scale) [P_v; V] in every layer, with P_k and P_v learned and shared by all rows and queries. A prefix has
no position: position ids, relative positions, mask lengths and the cache stay those of the real tokens.

The functions take tensors. A prefix may have one more leading dimension: one prefix for each member of a pack, or for each row
of a mixed batch. The ways into an attention module come last: through its cache argument if it has one, and the formulas of
DeBERTa, DeBERTa v2 and MPNet, which take no cache (and swallow one silently). There a prefix key gets the content score of a
real key, with the same scale, but no term of its position. In attention to an encoder the prefix stands in front of the
encoder's keys and values, which are cached once for all steps of writing.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncoderDecoderCache

from lora_bench.errors import UnsupportedPair
from lora_bench.families import Family
from lora_bench.tuners.slices import slices_of

CACHE_ARGUMENTS = ("cache", "past_key_values", "layer_past")
"""Names of the cache argument of attention modules, newest first; transformers renamed it in 5.24, but for GPT-NeoX."""

MASKED_ATTENTION = ("eager", "sdpa")
"""Attention kernels that take a mask of shape (batch, heads, queries, keys), which a prefix must extend."""


@dataclass(frozen=True)
class Prefix:
    """Learned keys and values of one layer.

    Args:
        key: Shape (prefix_tokens, width), or (batch, prefix_tokens, width) with one prefix for each row.
        value: Same shape as *key*.
        mask: True for prefix tokens that a row sees, shape (batch, prefix_tokens), bool; None if every row sees all.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None = None


def prefix_heads(prefix: Tensor, states: Tensor) -> Tensor:
    """Return a prefix in the layout of the keys or values of real tokens.

    Args:
        prefix: Shape (prefix_tokens, width), or with one leading dimension that *states* has too.
        states: Shape (batch, heads, tokens, head_width), or (member, batch, heads, tokens, head_width).

    Returns:
        Shape (..., heads, prefix_tokens, head_width), with the leading dimensions and the type of *states*.
    """
    heads, head_width = states.shape[-3], states.shape[-1]
    split = prefix.reshape(*prefix.shape[:-1], heads, head_width).transpose(-3, -2)
    leading = split.shape[:-3] + (1,) * (states.dim() - split.dim())
    return split.reshape(*leading, *split.shape[-3:]).expand(*states.shape[:-3], -1, -1, -1).to(states.dtype)


def join_prefix(prefix: Tensor, states: Tensor) -> Tensor:
    """Return keys or values behind a prefix, shape (..., heads, prefix_tokens + tokens, head_width); see `prefix_heads`."""
    return torch.cat([prefix_heads(prefix, states), states], dim=-2)


def join_mask(prefix_mask: Tensor | None, prefix_tokens: int, mask: Tensor) -> Tensor:
    """Return an attention mask with columns for the prefix in front.

    Args:
        prefix_mask: See `Prefix.mask`.
        prefix_tokens: Number of columns to add.
        mask: Shape (batch or 1, heads or 1, queries, keys); bool with True for visible, or added to the scores.

    Returns:
        Shape (batch or 1, heads or 1, queries, prefix_tokens + keys), of the type of *mask*.
    """
    visible: bool | float = True if mask.dtype == torch.bool else 0.0
    columns = mask.new_full((*mask.shape[:-1], prefix_tokens), visible)
    if prefix_mask is not None:
        hidden: bool | float = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        mask = mask.expand(len(prefix_mask), -1, -1, -1)
        columns = columns.expand(len(prefix_mask), -1, -1, -1).masked_fill(~prefix_mask[:, None, None, :], hidden)
    return torch.cat([columns, mask], dim=-1)


def attend_with_prefix(
    query: Tensor,
    scores: Tensor,
    value: Tensor,
    prefix: Prefix,
    dropout: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Finish an attention with known scores over real tokens, adding a prefix to the same softmax.

    Args:
        query: Scaled queries, shape (..., heads, queries, head_width).
        scores: Masked scores of real tokens, shape (..., heads, queries, tokens).
        value: Values of real tokens, shape (..., heads, tokens, head_width).
        prefix: Keys and values of the prefix.
        dropout: Function applied to the probabilities.

    Returns:
        Context, shape (..., heads, queries, head_width), and probabilities, shape (..., heads, queries,
        prefix_tokens + tokens).
    """
    prefix_scores = query @ prefix_heads(prefix.key, value).transpose(-1, -2)
    if prefix.mask is not None:
        prefix_scores = prefix_scores.masked_fill(~prefix.mask[:, None, None, :], torch.finfo(prefix_scores.dtype).min)
    probabilities = dropout(torch.softmax(torch.cat([prefix_scores, scores], dim=-1), dim=-1))
    return probabilities @ join_prefix(prefix.value, value), probabilities


class PrefixCache:
    """A cache argument that puts the prefix in front of the real cache's keys and values.

    The real cache, if any, stores only real tokens: beams may reorder it, and lengths are those of the base model. The prefix
    is joined at every step.
    """

    def __init__(self, prefix: Prefix, cache: Any | None) -> None:
        self.prefix = prefix
        self.cache = getattr(cache, "self_attention_cache", cache)

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values that attention sees, each of shape (batch, heads, all tokens, head_width)."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, *args, **kwargs)
        return join_prefix(self.prefix.key, key), join_prefix(self.prefix.value, value)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of real tokens in the cache."""
        return 0 if self.cache is None else self.cache.get_seq_length(layer_idx)

    @property
    def layers(self) -> "PrefixCache":
        """Itself: attention to an encoder reads `layers[index].keys` from the second step on."""
        return self

    def __getitem__(self, layer_idx: int) -> SimpleNamespace:
        """Return the keys and values of a layer in the cache, with the prefix in front."""
        cache: Any = self.cache
        layer = cache.layers[layer_idx]
        return SimpleNamespace(
            keys=join_prefix(self.prefix.key, layer.keys), values=join_prefix(self.prefix.value, layer.values)
        )


class CrossPrefixCache(EncoderDecoderCache):
    """A cache argument of attention to an encoder, whose real cache stores the encoder's keys and values."""

    def __init__(self, prefix: Prefix, cache: EncoderDecoderCache) -> None:
        # Not by the parent's constructor, which takes real caches alone.
        self.self_attention_cache = cache.self_attention_cache
        self.cross_attention_cache = PrefixCache(prefix, cache.cross_attention_cache)
        self.is_updated = cache.is_updated


def attend_through_cache(attention: Any, prefix: Prefix, *args: Any, **kwargs: Any) -> Any:
    """Call an attention module with a prefix in its cache. Raise UnsupportedPair if it has none, or its kernel no 4-D mask."""
    refuse_kernel(attention.config._attn_implementation)
    names, cache_name = arguments_of(type(attention).forward)
    arguments = dict(zip(names, args, strict=False)) | kwargs
    real_cache, encoded = arguments.get(cache_name), arguments.get("key_value_states")
    mask_name = "mask" if "mask" in names else "attention_mask"
    mask = arguments.get(mask_name)
    if mask is None:
        mask = _mask_left_out(attention, prefix, arguments["hidden_states"], real_cache, encoded)
    if mask is not None:
        mask = join_mask(prefix.mask, prefix.key.shape[-2], mask)
    across = encoded is not None and isinstance(real_cache, EncoderDecoderCache)
    joined: Any = CrossPrefixCache(prefix, real_cache) if across else PrefixCache(prefix, real_cache)
    return attention(**{**arguments, cache_name: joined, mask_name: mask})


def attend_t5(
    attention: Any,
    prefix: Prefix,
    hidden_states: Tensor,
    mask: Tensor | None = None,
    key_value_states: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """Return T5's attention with a prefix, whose bias is zero; the first layer computes that of real tokens for all layers."""
    if position_bias is None:
        position_bias = _t5_bias(attention, hidden_states, key_value_states, **kwargs)
    output, _, *others = attend_through_cache(
        attention,
        prefix,
        hidden_states=hidden_states,
        mask=mask,
        key_value_states=key_value_states,
        position_bias=F.pad(position_bias, (prefix.key.shape[-2], 0)),
        **kwargs,
    )
    return output, position_bias, *others


def _t5_bias(attention: Any, hidden_states: Tensor, key_value_states: Tensor | None, **kwargs: Any) -> Tensor:
    """Return the bias of the positions of real tokens, shape (1, heads, queries, keys)."""
    cache = next((kwargs[name] for name in CACHE_ARGUMENTS if kwargs.get(name) is not None), None)
    tokens = hidden_states.shape[1]
    past, keys = 0, tokens
    if key_value_states is not None:
        keys = key_value_states.shape[1]
    elif cache is not None:
        past, keys = cache.get_seq_length(attention.layer_idx), cache.get_mask_sizes(tokens, attention.layer_idx)[0]
    if not attention.has_relative_attention_bias:
        return hidden_states.new_zeros(1, attention.n_heads, tokens, keys)
    bias: Tensor = attention.compute_bias(tokens, keys, device=hidden_states.device, past_seen_tokens=past)
    return bias


@cache
def arguments_of(forward: Callable[..., Any]) -> tuple[tuple[str, ...], str]:
    """Return the argument names of an attention's forward, without self, and the name of its cache."""
    names = tuple(inspect.signature(forward).parameters)[1:]
    for name in CACHE_ARGUMENTS:
        if name in names:
            return names, name
    raise UnsupportedPair(f"a prefix needs a cache argument, {forward.__qualname__} has {', '.join(names)}")


def refuse_kernel(name: str | None) -> None:
    """Raise UnsupportedPair for an attention kernel without a four-dimensional mask; None stands for the default."""
    if name is not None and name not in MASKED_ATTENTION:
        raise UnsupportedPair(
            f"a prefix needs attn_implementation {' or '.join(MASKED_ATTENTION)}, the model has {name!r}"
        )


def _mask_left_out(
    attention: Any, prefix: Prefix, hidden_states: Tensor, cache: Any | None, encoded: Tensor | None
) -> Tensor | None:
    """Return the mask that transformers left to the kernel's `is_causal`, which would not line up behind a prefix."""
    batch, tokens = hidden_states.shape[:2]
    causal = getattr(attention, "is_causal", True) and tokens > 1
    if not causal and prefix.mask is None:
        return None
    past, keys, first = 0, tokens, 0
    if encoded is not None:
        keys = encoded.shape[1]
    elif cache is not None:
        past = cache.get_seq_length(attention.layer_idx)
        # A static cache has room that is not filled yet.
        keys, first = cache.get_mask_sizes(tokens, attention.layer_idx)
    visible = torch.ones(tokens, keys, dtype=torch.bool, device=hidden_states.device)
    if causal:
        visible = visible.tril(past - first)
    if attention.config._attn_implementation == "eager":  # adds its mask to the scores
        hidden = torch.finfo(hidden_states.dtype).min
        visible = torch.zeros_like(visible, dtype=hidden_states.dtype).masked_fill(~visible, hidden)
    return visible.expand(batch, 1, -1, -1)


def attend_deberta(
    attention: Any,
    prefix: Prefix,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return DeBERTa's attention with a prefix, with the arguments and result of transformers' forward."""
    query, key, value = attention.transpose_for_scores(attention.in_proj(hidden_states)).chunk(3, dim=-1)
    if query_states is not None:
        query = attention.transpose_for_scores(attention.in_proj(query_states)).chunk(3, dim=-1)[0]
    query = query + attention.transpose_for_scores(attention.q_bias[None, None, :])
    value = value + attention.transpose_for_scores(attention.v_bias[None, None, :])
    scale_factor = 1 + len(attention.pos_att_type)
    query = query / deberta_scale(query, scale_factor)
    scores = query @ key.transpose(-1, -2)
    if attention.relative_attention and rel_embeddings is not None and relative_pos is not None:
        positions = attention.pos_dropout(rel_embeddings)
        scores = scores + attention.disentangled_att_bias(query, key, relative_pos, positions, scale_factor)
    scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
    context, probabilities = attend_with_prefix(query, scores, value, prefix, attention.dropout)
    return context.transpose(1, 2).flatten(2), probabilities if output_attentions else None


def attend_deberta_v2(
    attention: Any,
    prefix: Prefix,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the attention of DeBERTa v2 and v3 with a prefix, with the arguments and result of transformers' forward."""
    heads = attention.num_attention_heads
    # Here (batch, tokens, width) becomes (batch * heads, tokens, head_width), and the bias is of that layout.
    query = attention.transpose_for_scores(
        attention.query_proj(hidden_states if query_states is None else query_states), heads
    )
    key = attention.transpose_for_scores(attention.key_proj(hidden_states), heads)
    value = attention.transpose_for_scores(attention.value_proj(hidden_states), heads)
    scale_factor = 1 + ("c2p" in attention.pos_att_type) + ("p2c" in attention.pos_att_type)
    scale = deberta_scale(query, scale_factor)
    scores = torch.bmm(query, key.transpose(-1, -2) / scale)
    if attention.relative_attention:
        positions = attention.pos_dropout(rel_embeddings)
        scores = scores + attention.disentangled_attention_bias(query, key, relative_pos, positions, scale_factor)
    query, scores, value = (states.unflatten(0, (-1, heads)) for states in (query, scores, value))
    scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
    context, probabilities = attend_with_prefix(query / scale, scores, value, prefix, attention.dropout)
    return context.transpose(1, 2).flatten(2), probabilities if output_attentions else None


def attend_mpnet(
    attention: Any,
    prefix: Prefix,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    """Return MPNet's attention with a prefix, with the arguments and result of transformers' forward."""
    query, key, value = (
        project(hidden_states).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for project in (attention.q, attention.k, attention.v)
    )
    query = query / math.sqrt(attention.attention_head_size)
    scores = query @ key.transpose(-1, -2)
    for addend in (position_bias, attention_mask):
        scores = scores if addend is None else scores + addend
    context, probabilities = attend_with_prefix(query, scores, value, prefix, attention.dropout)
    output = attention.o(context.transpose(1, 2).flatten(2))
    return (output, probabilities) if output_attentions else (output,)


def deberta_scale(query: Tensor, scale_factor: int) -> Tensor:
    """Return the divisor of DeBERTa's scores, in the query's type: a Python number would round differently in bfloat16."""
    return torch.tensor(query.shape[-1] * scale_factor, dtype=torch.float).sqrt().to(query.dtype)


def key_value_projections(attention: nn.Module, family: Family) -> tuple[nn.Module, nn.Module]:
    """Return the modules that compute an attention's keys and values; the same one twice if they are fused."""
    inside = f"{family.self_attention}."
    key, value = (attention.get_submodule(part.removeprefix(inside)) for part in (family.key, family.value))
    return key, value


def key_value_of(
    attention: nn.Module, family: Family, config: Mapping[str, Any], key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Return keys and values, each of shape (..., width), from the outputs of the `key_value_projections`."""
    if family.fused:
        groups = config[family.num_heads_key] if family.fused_layout == "heads" else 1
        *_, key, value = slices_of(key, len(family.fused_slices(config)), groups)
    # DeBERTa v1 keeps the bias of the values beside its fused projection.
    return key, value + getattr(attention, "v_bias", 0)


ATTENTIONS: dict[str, Callable[..., Any]] = {
    "cache": attend_through_cache,
    "deberta": attend_deberta,
    "deberta_v2": attend_deberta_v2,
    "mpnet": attend_mpnet,
    "t5": attend_t5,
}
