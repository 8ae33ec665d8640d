"""Compute the last layer of a classifier only at the position that its head reads.

A head reads the first token of an encoder, or the last real token of a causal model. The last layer's other positions serve as
keys and values alone: its queries, its attention's output, its feed-forward block and its norms are needed at one position.
Answers and gradients are those of the whole layer up to rounding, with any method that adapts modules of the layer. Dropout
masks of the layer are drawn for one position.

DeBERTa's relative positions are projected only for the distances from the position that is read. DeBERTa v1 computes query, key
and value of every token in one product, which stays whole.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.deberta import modeling_deberta as deberta
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta_v2
from transformers.pytorch_utils import Conv1D

from lora_bench.families import FAMILIES, Family, family_of
from lora_bench.tuners.attention import (
    MASKED_ATTENTION,
    Prefix,
    arguments_of,
    attend_deberta,
    deberta_scale,
    key_value_projections,
)
from lora_bench.tuners.embeddings import PrefixEmbeddingLayer
from lora_bench.tuners.frozen_features import ComputeOnce
from lora_bench.tuners.fused_lora import FusedLoraLayer
from lora_bench.tuners.trial import inside_peft


@dataclass
class Reading:
    """Where a causal model's head reads a batch, *at*, shape (rows,), if known; *tokens* of a row if computed there alone."""

    at: Tensor | None = None
    tokens: int | None = None


class ReadSelfAttention(deberta.DisentangledSelfAttention):
    """DeBERTa's attention, whose queries may be of the first token alone."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        **given: Any,
    ) -> Any:
        """Return context and probabilities; transformers' own code bypasses adapters if queries are given."""
        if query_states is None:
            return super().forward(hidden_states, attention_mask, output_attentions, **given)
        none = hidden_states.new_zeros(0, self.all_head_size)
        prefix = Prefix(none, none)
        return attend_deberta(self, prefix, hidden_states, attention_mask, output_attentions, query_states, **given)

    def disentangled_att_bias(
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Any:
        """Return DeBERTa's bias; queries and keys have shape (batch, heads, tokens, width of a head)."""
        if query_layer.shape[-2] == key_layer.shape[-2]:
            return super().disentangled_att_bias(query_layer, key_layer, relative_pos, rel_embeddings, scale_factor)
        middle = self.max_relative_positions
        positions = _of_first(relative_pos, rel_embeddings, middle, min(key_layer.shape[-2], middle))
        bias: Any = 0
        if "c2p" in self.pos_att_type:  # the queries are scaled already
            bias = bias + _to_position(query_layer, self.transpose_for_scores(self.pos_proj(positions))[0])
        if "p2c" in self.pos_att_type:
            of_query = self.transpose_for_scores(self.pos_q_proj(positions))[0]
            bias = bias + _from_position(key_layer, of_query / deberta_scale(of_query, scale_factor))
        return bias


class ReadSelfAttentionV2(deberta_v2.DisentangledSelfAttention):
    """The attention of DeBERTa v2 and v3, whose queries may be of the first token alone."""

    def disentangled_attention_bias(
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Any:
        """Return DeBERTa's bias; queries and keys have shape (batch * heads, tokens, width of a head)."""
        if query_layer.shape[-2] == key_layer.shape[-2]:
            return super().disentangled_attention_bias(
                query_layer, key_layer, relative_pos, rel_embeddings, scale_factor
            )
        heads, span = self.num_attention_heads, self.pos_ebd_size
        positions = _of_first(relative_pos, rel_embeddings, span, span)
        query, key = (states.unflatten(0, (-1, heads)) for states in (query_layer, key_layer))
        scale = deberta_scale(query, scale_factor)
        bias: Any = 0
        if "c2p" in self.pos_att_type:
            projection = self.key_proj if self.share_att_key else self.pos_key_proj
            bias = bias + _to_position(query, self.transpose_for_scores(projection(positions), heads)) / scale
        if "p2c" in self.pos_att_type:
            projection = self.query_proj if self.share_att_key else self.pos_query_proj
            bias = bias + _from_position(key, self.transpose_for_scores(projection(positions), heads)) / scale
        return bias.flatten(0, 1) if isinstance(bias, Tensor) else bias


def _of_first(relative_pos: Tensor, table: Tensor, middle: int, reach: int) -> Tensor:
    """Return the rows of a table of relative positions that the first token meets, shape (1, tokens, width).

    Distances from a key to the first token are these with the other sign, and DeBERTa turns that sign again. So keys use the
    same rows. *relative_pos* has the distances, shape (..., tokens, tokens); the table has shape (2 * middle, width), and
    distances up to *reach* have rows of their own.
    """
    distances = relative_pos[..., 0, :].flatten().long().clamp(-reach, reach - 1)
    return table[distances + middle].unsqueeze(0)


def _to_position(query: Tensor, of_key: Tensor) -> Tensor:
    """Return content-to-position scores, from queries (batch, heads, 1, width) and positions (heads, tokens, width)."""
    return (query.squeeze(-2).transpose(0, 1) @ of_key.mT).transpose(0, 1).unsqueeze(-2)


def _from_position(key: Tensor, of_query: Tensor) -> Tensor:
    """Return position-to-content scores, from keys (batch, heads, tokens, width) and positions (heads, tokens, width)."""
    return (key * of_query).sum(-1).unsqueeze(-2)


def read_alone(model: nn.Module, model_type: str) -> bool:
    """Make the last layer of a classifier, with its method applied, compute only the position that its head reads, in place.

    Returns:
        False if nothing changed: for a family without `Family.reads`, with virtual tokens in front of the text, and with
        features that are computed once.
    """
    if not any(model_type in family.model_types for family in FAMILIES):
        return False
    family = family_of(model_type)
    if family.reads is None or any(isinstance(module, PrefixEmbeddingLayer) for module in model.modules()):
        return False
    if isinstance(inside_peft(model).forward, ComputeOnce):
        return False
    found = {path: module for path, module in model.named_modules() if re.fullmatch(family.layer, path)}
    path = max(found, key=lambda one: int(one.rsplit(".", 1)[1]))
    layer: Any = _inside(found[path])
    attention: Any = _inside(layer.get_submodule(family.self_attention))
    config = inside_peft(model).config
    if getattr(config, "is_decoder", False) or getattr(attention, "talking_head", False):
        return False
    if family.own_masks:
        attention.__class__ = (
            ReadSelfAttention if isinstance(attention, deberta.DisentangledSelfAttention) else ReadSelfAttentionV2
        )
        layer.forward = _by_query_states(layer)
        return True
    reading = Reading() if family.reads == "last" else None
    layer.forward = _by_cache(layer, attention, family, getattr(config, family.num_heads_key), reading)
    if reading is not None:
        assert family.last_norm is not None, "a family whose head reads the last token has a norm behind its layers"
        _follow(inside_peft(model), reading)
        _spread(model.get_submodule(f"{path.rsplit('.', 2)[0]}.{family.last_norm}"), reading)
    return True


def _inside(module: nn.Module) -> nn.Module:
    """Return the module of the base model inside its adapters."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def _by_query_states(layer: Any) -> Callable[..., Any]:
    """Return a DeBERTa layer's forward for the first token alone."""
    whole = layer.forward

    def of_first(mask: Tensor, rest: dict[str, Any], hidden: Tensor) -> Any:
        return whole(hidden, mask[..., :1, :], query_states=hidden[:, :1], **rest)

    def forward(hidden_states: Tensor, attention_mask: Tensor, query_states: Tensor | None = None, **rest: Any) -> Any:
        if query_states is not None:
            return whole(hidden_states, attention_mask, query_states=query_states, **rest)
        return _checkpointed(layer, partial(of_first, attention_mask, rest), hidden_states)

    return forward


def _checkpointed(layer: Any, narrow: Callable[[Tensor], Any], hidden: Tensor) -> Any:
    """Return a layer's narrowed result, computed anew where the layer does so; its own checkpointing begins at one token."""

    def without_its_own(hidden: Tensor) -> Any:
        own, layer.gradient_checkpointing = layer.gradient_checkpointing, False
        try:
            return narrow(hidden)
        finally:
            layer.gradient_checkpointing = own

    if not (layer.gradient_checkpointing and layer.training and torch.is_grad_enabled()):
        return narrow(hidden)
    return layer._gradient_checkpointing_func(without_its_own, hidden)


def _by_cache(layer: Any, attention: Any, family: Family, heads: int, reading: Reading | None) -> Callable[..., Any]:
    """Return the forward of a layer whose attention gets keys and values of all tokens as a cache, for what *reading* says."""
    whole, (names, cache_name) = layer.forward, arguments_of(type(layer).forward)

    def at_read_position(given: dict[str, Any], at: Tensor | None, hidden: Tensor) -> Any:
        mask = given.get("attention_mask")
        x = layer.get_submodule(family.attention_norm)(hidden) if family.attention_norm is not None else hidden
        to_key, to_value = key_value_projections(attention, family)
        key, value = _without_queries(to_key, x) if family.fused else (to_key(x), to_value(x))
        # A cache gives attention the keys and values of all tokens, each of shape (rows, heads, tokens, head_width).
        states = tuple(one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (key, value))
        known = SimpleNamespace(update=lambda *of_query, **options: states)
        if at is None:
            rows, mask = hidden[:, :1], None if mask is None else mask[..., :1, :]
        else:
            rows, mask = hidden.take_along_dim(at[:, None, None], 1), _mask_at(mask, at, hidden, attention)
        return whole(**{**given, "hidden_states": rows, "attention_mask": mask, cache_name: known})

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        hidden, mask, cache = given["hidden_states"], given.get("attention_mask"), given.get(cache_name)
        at = None if reading is None else reading.at
        if reading is not None:
            reading.tokens = None
        past = cache is not None and cache.get_seq_length(attention.layer_idx) > 0
        odd = attention.config._attn_implementation not in MASKED_ATTENTION or (mask is not None and mask.dim() != 4)
        if past or odd or (reading is not None and at is None):
            return whole(*args, **kwargs)
        if reading is not None:
            reading.tokens = hidden.shape[1]
        return _checkpointed(layer, partial(at_read_position, given, at), hidden)

    return forward


def _without_queries(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values of a fused module, without its queries if it is the base model's own or has plain LoRA."""
    if type(module) is Conv1D:
        width = module.nf // 3
        key, value = F.linear(x, module.weight[:, width:].T, module.bias[width:]).chunk(2, dim=-1)
        return key, value
    if isinstance(module, FusedLoraLayer) and not (
        module.disable_adapters or module.merged or module.fused_lora_magnitude
    ):
        key, value = _without_queries(module.base_layer, x)
        for name in module.live_adapters():
            updates = module.updates(name, x, ())
            key, value = (part + updates[index] if index in updates else part for index, part in ((1, key), (2, value)))
        return key, value
    _, key, value = module(x).chunk(3, dim=-1)
    return key, value


def _mask_at(mask: Tensor | None, at: Tensor, hidden: Tensor, attention: Any) -> Tensor:
    """Return the tokens that each row's read position sees, shape (rows, heads or 1, 1, tokens)."""
    if mask is not None:
        return mask.expand(len(at), -1, -1, -1).take_along_dim(at[:, None, None, None], -2)
    seen = torch.arange(hidden.shape[1], device=hidden.device) <= at[:, None, None, None]
    if attention.config._attn_implementation == "eager":  # adds its mask to the scores
        return torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
    return seen


def _follow(classifier: nn.Module, reading: Reading) -> None:
    """Make *reading* follow the batches of a causal classifier, which finds the last real token like this."""

    def note(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", args[0] if args else None)
        pad = module.config.pad_token_id
        if ids is None or pad is None:
            reading.at = None
        else:
            places = torch.arange(ids.shape[-1], device=ids.device, dtype=torch.int32)
            reading.at = (places * (ids != pad)).argmax(-1)

    classifier.register_forward_pre_hook(note, with_kwargs=True)


def _spread(norm: nn.Module, reading: Reading) -> None:
    """Make the norm behind the layers give the one position in place of every token: the classifier chooses among them."""

    def spread(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if reading.tokens is None else output.expand(-1, reading.tokens, -1)

    norm.register_forward_hook(spread)
