"""Completions by many members at once, as one causal model whose rows have the weights of one member or another.

The code that chooses tokens (greedy search, beams, samples, forbidden repetition, ends of a completion) is that of a single
run, and sees more rows. A step of decoding is one forward pass for all rows of all members: `vmap` over rows.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from lora_bench.pack.precision import AutocastWithin
from lora_bench.pack.stack import Stack, scaled_by, whole_mask
from lora_bench.tuners.attention import CACHE_ARGUMENTS

BATCH_BYTES = 2 * 2**30
"""Greatest memory of the weights of a batch, of which each row has a copy."""


def writer(stack: Stack) -> Any:
    """Return the causal model of a stack for `generate`; it takes one more argument, see `_Rows`."""
    model = copy.copy(stack.members[0].get_base_model())
    model.forward = _Rows(stack)
    return model


def most_rows(stack: Stack) -> int:
    """Return the greatest number of rows in a batch."""
    each: int = sum(weight[0].numel() * weight.element_size() for weight in stack.weights.values())
    return max(1, BATCH_BYTES // max(1, each))


class _Rows:
    """The forward pass of a causal model whose rows have weights of their own, those of members of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._of = torch.empty(0, dtype=torch.long)
        self._weights: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        of: Tensor,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Return the logits of the last tokens, and the cache with all of them.

        Args:
            input_ids: Shape (rows, tokens).
            position_ids: Shape (rows, tokens).
            of: Number of the member whose weights each row has, shape (rows,).
            attention_mask: 1 for real tokens, those in the cache first, shape (rows, tokens in all); None if all are real.
            logits_to_keep: Number of last tokens whose logits are returned; 0 for all.
            others: The cache, by its name in this release of transformers, and arguments equal for all rows.
        """
        chassis = self.stack.members[0]
        name = next(name for name in CACHE_ARGUMENTS if others.get(name) is not None)
        cache = others[name]
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(of), cache.get_seq_length() + input_ids.shape[1])
        mask = whole_mask(attention_mask, causal=True)[:, None, :, -input_ids.shape[1] :]

        def one(
            weights: dict[str, Tensor], factors: dict[str, Tensor], inputs: dict[str, Tensor], past: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            own = _holding(cache, past)
            with scaled_by(chassis, factors), AutocastWithin(input_ids.device.type):
                found = functional_call(
                    chassis,
                    weights,
                    kwargs={**inputs, name: own, "use_cache": True, "logits_to_keep": logits_to_keep},
                ).logits
            return found, [states for layer in own.layers for states in (layer.keys, layer.values)]

        inputs = {"input_ids": input_ids[:, None], "attention_mask": mask, "position_ids": position_ids[:, None]}
        # `vmap` has no rule for the fused kernel of a CPU, and would call it for one row after another.
        with sdpa_kernel(SDPBackend.MATH) if input_ids.device.type == "cpu" else nullcontext():
            logits, states = vmap(one)(*self._weights_of(of), inputs, self._past(cache, len(of)))
        for layer, keys, values in zip(cache.layers, states[::2], states[1::2], strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[:, 0], values[:, 0])
            layer.keys, layer.values = keys[:, 0], values[:, 0]
        return CausalLMOutputWithCrossAttentions(logits=logits[:, 0], **{name: cache})

    def _weights_of(self, of: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not torch.equal(of, self._of.to(of.device)):
            factors = self.stack.factors_on(of.device)
            self._of = of
            self._weights = (
                {name: weight.detach()[of] for name, weight in self.stack.weights.items()},
                {name: factor[of] for name, factor in factors.items()},
            )
        return self._weights

    def _past(self, cache: Any, rows: int) -> list[Tensor]:
        """Return the keys and values of each layer so far, each of shape (rows, 1, heads, tokens, width of a head)."""
        if all(layer.is_initialized for layer in cache.layers):
            return [states[:, None] for layer in cache.layers for states in (layer.keys, layer.values)]
        config = self.stack.members[0].config
        heads = config.num_attention_heads
        weight = next(self.stack.members[0].parameters())
        dtype = (
            torch.get_autocast_dtype(weight.device.type)
            if torch.is_autocast_enabled(weight.device.type)
            else weight.dtype
        )
        none = torch.empty(rows, 1, heads, 0, config.hidden_size // heads, dtype=dtype, device=weight.device)
        return [none] * (2 * len(cache.layers))


def _holding(cache: Any, past: list[Tensor]) -> Any:
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    for layer, keys, values in zip(own.layers, past[::2], past[1::2], strict=True):
        layer.keys, layer.values, layer.is_initialized = keys, values, True
    return own
