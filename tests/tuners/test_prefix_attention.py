"""Attention with a prefix, as functions of tensors: against the formula written out, and members against each alone."""

import inspect
import math

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lora_bench.errors import UnsupportedPair
from lora_bench.tuners.attention import (
    CACHE_ARGUMENTS,
    Prefix,
    PrefixCache,
    attend_through_cache,
    attend_with_prefix,
    join_mask,
    join_prefix,
    prefix_heads,
)
from tests.tiny import tiny_gpt2, tiny_roberta

MEMBERS, BATCH, HEADS, TOKENS, HEAD_WIDTH, LENGTH = 3, 2, 4, 5, 6, 7
WIDTH = HEADS * HEAD_WIDTH


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keep(probabilities: Tensor) -> Tensor:
    """No dropout."""
    return probabilities


def close(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and bool((got - want).abs().max() <= 1e-12)


def test_a_prefix_token_is_cut_into_heads_like_a_real_key():
    prefix, states = draw(LENGTH, WIDTH), draw(BATCH, HEADS, TOKENS, HEAD_WIDTH)
    heads = prefix_heads(prefix, states)
    assert heads.shape == (BATCH, HEADS, LENGTH, HEAD_WIDTH)
    assert torch.equal(heads[1, 2, 3], prefix[3, 2 * HEAD_WIDTH : 3 * HEAD_WIDTH])


def test_the_prefix_stands_in_front():
    prefix, states = draw(LENGTH, WIDTH), draw(BATCH, HEADS, TOKENS, HEAD_WIDTH)
    joined = join_prefix(prefix, states)
    assert torch.equal(joined[:, :, :LENGTH], prefix_heads(prefix, states))
    assert torch.equal(joined[:, :, LENGTH:], states)


def test_joining_stacked_members_is_joining_each_alone():
    prefix, states = draw(MEMBERS, LENGTH, WIDTH), draw(MEMBERS, BATCH, HEADS, TOKENS, HEAD_WIDTH, seed=1)
    together = join_prefix(prefix, states)
    for member in range(MEMBERS):
        assert torch.equal(together[member], join_prefix(prefix[member], states[member]))


def test_a_prefix_for_each_row_is_joined_row_by_row():
    prefix, states = draw(BATCH, LENGTH, WIDTH), draw(BATCH, HEADS, TOKENS, HEAD_WIDTH, seed=1)
    together = join_prefix(prefix, states)
    for row in range(BATCH):
        assert torch.equal(together[row : row + 1], join_prefix(prefix[row], states[row : row + 1]))


def test_the_prefix_takes_the_type_of_the_states():
    states = draw(BATCH, HEADS, TOKENS, HEAD_WIDTH).bfloat16()
    assert join_prefix(draw(LENGTH, WIDTH).float(), states).dtype == torch.bfloat16


def attend(query: Tensor, key: Tensor, value: Tensor, prefix: Prefix) -> tuple[Tensor, Tensor]:
    return attend_with_prefix(query, query @ key.transpose(-1, -2), value, prefix, keep)


def test_attention_is_one_softmax_over_prefix_and_tokens():
    query, key, value = (draw(BATCH, HEADS, TOKENS, HEAD_WIDTH, seed=seed) for seed in range(3))
    prefix = Prefix(draw(LENGTH, WIDTH, seed=3), draw(LENGTH, WIDTH, seed=4))
    context, probabilities = attend(query, key, value, prefix)
    row, head, position = 1, 2, 3
    columns = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    keys = [*prefix.key[:, columns], *key[row, head]]
    values = [*prefix.value[:, columns], *value[row, head]]
    weights = [math.exp(float(query[row, head, position] @ one)) for one in keys]
    want = sum(weight / sum(weights) * one for weight, one in zip(weights, values, strict=True))
    assert (context[row, head, position] - want).abs().max() <= 1e-12
    assert (probabilities[row, head, position] - torch.tensor(weights).double() / sum(weights)).abs().max() <= 1e-6


def test_attention_of_stacked_members_is_that_of_each_alone():
    query, key, value = (draw(MEMBERS, BATCH, HEADS, TOKENS, HEAD_WIDTH, seed=seed) for seed in range(3))
    prefix = Prefix(draw(MEMBERS, LENGTH, WIDTH, seed=3), draw(MEMBERS, LENGTH, WIDTH, seed=4))
    context, probabilities = attend(query, key, value, prefix)
    for member in range(MEMBERS):
        alone = Prefix(prefix.key[member], prefix.value[member])
        want_context, want_probabilities = attend(query[member], key[member], value[member], alone)
        assert close(context[member], want_context)
        assert close(probabilities[member], want_probabilities)


def test_prefix_tokens_that_a_row_may_not_see_change_nothing_for_it():
    query, key, value = (draw(BATCH, HEADS, TOKENS, HEAD_WIDTH, seed=seed) for seed in range(3))
    prefix_key, prefix_value = draw(BATCH, LENGTH, WIDTH, seed=3), draw(BATCH, LENGTH, WIDTH, seed=4)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH - 2], [0]])
    context, _ = attend(query, key, value, Prefix(prefix_key, prefix_value, mask))
    shorter = Prefix(prefix_key[0, : LENGTH - 2], prefix_value[0, : LENGTH - 2])
    assert close(context[:1], attend(query[:1], key[:1], value[:1], shorter)[0])
    assert close(context[1:], torch.softmax(query @ key.transpose(-1, -2), dim=-1)[1:] @ value[1:])


def test_a_bool_mask_lets_every_query_see_the_prefix():
    mask = torch.tensor([[[[True, False], [True, True]]]])
    want = torch.tensor([[[[True, True, True, False], [True, True, True, True]]]])
    assert torch.equal(join_mask(None, 2, mask), want)


def test_an_added_mask_adds_nothing_to_the_prefix():
    mask = torch.tensor([[[[0.0, -1e9]]]])
    assert torch.equal(join_mask(None, 1, mask), torch.tensor([[[[0.0, 0.0, -1e9]]]]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_hides_prefix_tokens_by_row(dtype):
    seen, hidden = (True, False) if dtype == torch.bool else (0.0, torch.finfo(dtype).min)
    mask = torch.full((1, 1, 2, 1), seen, dtype=dtype)
    joined = join_mask(torch.tensor([[True, True], [True, False]]), 2, mask)
    assert joined.shape == (2, 1, 2, 3)
    assert joined[0, 0].tolist() == [[seen, seen, seen]] * 2
    assert joined[1, 0].tolist() == [[seen, hidden, seen]] * 2


class ListCache:
    """A cache of real tokens, as attention modules use it."""

    def __init__(self) -> None:
        self.keys, self.values = [], []

    def update(self, key, value, layer_idx):
        self.keys.append(key)
        self.values.append(value)
        return torch.cat(self.keys, dim=-2), torch.cat(self.values, dim=-2)


def test_the_real_cache_never_holds_the_prefix():
    prefix, cache = Prefix(draw(LENGTH, WIDTH), draw(LENGTH, WIDTH, seed=1)), ListCache()
    for tokens in (TOKENS, 1):
        states = draw(BATCH, HEADS, tokens, HEAD_WIDTH)
        key, _ = PrefixCache(prefix, cache).update(states, states, 0)
    assert [stored.shape[-2] for stored in cache.keys] == [TOKENS, 1]
    assert key.shape[-2] == LENGTH + TOKENS + 1
    assert torch.equal(key[:, :, :LENGTH], prefix_heads(prefix.key, key))


class RenamedCache(nn.Module):
    """An attention module whose cache argument has one of the names it had over the years."""

    def __init__(self) -> None:
        super().__init__()
        self.config = tiny_roberta().config
        self.is_causal = False

    def attend(self, hidden_states, cache):
        states = hidden_states.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return cache.update(states, states)[0]


class OldName(RenamedCache):
    def forward(self, hidden_states, attention_mask=None, past_key_values=None):
        return self.attend(hidden_states, past_key_values)


class NewName(RenamedCache):
    def forward(self, hidden_states, attention_mask=None, cache=None):
        return self.attend(hidden_states, cache)


class NoCache(RenamedCache):
    def forward(self, hidden_states, attention_mask=None, **kwargs):
        return hidden_states


@pytest.mark.parametrize("attention", [OldName, NewName])
def test_the_cache_argument_is_found_under_either_name(attention):
    prefix = Prefix(draw(LENGTH, WIDTH), draw(LENGTH, WIDTH))
    assert attend_through_cache(attention(), prefix, draw(BATCH, TOKENS, WIDTH)).shape[-2] == LENGTH + TOKENS


def test_an_attention_module_that_would_swallow_the_prefix_is_refused():
    prefix = Prefix(draw(LENGTH, WIDTH), draw(LENGTH, WIDTH))
    with pytest.raises(
        UnsupportedPair, match=r"needs a cache argument, NoCache\.forward has hidden_states, attention_mask, kwargs"
    ):
        attend_through_cache(NoCache(), prefix, draw(BATCH, TOKENS, WIDTH))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_without_a_mask_a_causal_module_sees_the_prefix_all_past_tokens_and_none_to_come(attn):
    attention = tiny_gpt2(attn=attn).transformer.h[0].attn
    width = attention.embed_dim
    prefix = Prefix(draw(LENGTH, width).float(), draw(LENGTH, width, seed=1).float())
    hidden_states, cache = draw(BATCH, TOKENS, width, seed=2).float(), DynamicCache()
    argument = next(name for name in CACHE_ARGUMENTS if name in inspect.signature(attention.forward).parameters)
    with torch.no_grad():
        whole = attend_through_cache(attention, prefix, hidden_states)[0]
        pieces = [
            attend_through_cache(attention, prefix, piece.contiguous(), **{argument: cache})[0]
            for piece in hidden_states.split([2, 3], dim=1)
        ]
        first_token = attend_through_cache(attention, prefix, hidden_states[:, :1].contiguous())[0]
    assert (torch.cat(pieces, dim=1) - whole).abs().max() <= 2e-6
    assert (first_token - whole[:, :1]).abs().max() <= 2e-6
