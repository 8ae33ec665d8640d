"""What holds of the tensor functions for any shape, rank, type and layout of a batch."""

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lora_bench.tuners import FusedLoraConfig, FusedLoraLayer, bottleneck
from lora_bench.tuners.attention import Prefix, attend_with_prefix, join_mask, join_prefix
from lora_bench.tuners.bottleneck import ACTIVATIONS
from lora_bench.tuners.fused_lora import dora_gain, sliced_update
from lora_bench.tuners.prefix import reparameterised_prefix
from lora_bench.tuners.slices import joined_slices, slices_of

few = settings(max_examples=40, deadline=None)
small = st.integers(1, 5)
seeds = st.integers(0, 2**16)
leading = st.lists(st.integers(1, 3), min_size=0, max_size=3)  # no, one or several batch dimensions
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}
dtypes = st.sampled_from(sorted(DTYPES, key=str))


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def near(got, want, dtype=torch.float64):
    assert got.dtype == dtype
    assert got.shape == want.shape
    scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
    assert (got.double() - want.double()).abs().max() <= DTYPES[dtype] * scale if want.numel() else True


# --- slices ----------------------------------------------------------------------------------------------------------


@few
@given(seeds, leading, small, small, small)
def test_slices_put_together_are_the_whole(seed, batch, slices, groups, head):
    y = draw(seed, *batch, slices * groups * head)
    parts = slices_of(y, slices, groups)
    assert all(part.shape == (*batch, groups * head) for part in parts)
    assert torch.equal(joined_slices(parts, groups), y)


# --- low-rank updates ------------------------------------------------------------------------------------------------


@few
@given(seeds, leading, small, small, small, small, dtypes)
def test_a_sliced_update_is_the_product_of_the_matrices(seed, batch, slices, rank, inputs, width, dtype):
    x = draw(seed, *batch, inputs, dtype=dtype)
    A, B = draw(seed + 1, slices, rank, inputs, dtype=dtype), draw(seed + 2, slices, width, rank, dtype=dtype)
    want = torch.stack([x.double() @ (b.double() @ a.double()).T for a, b in zip(A, B, strict=True)])
    near(sliced_update(x, A, B), want, dtype)


@few
@given(seeds, leading, small, small, small, small, small)
def test_members_of_a_pack_are_each_member_alone(seed, batch, members, slices, rank, inputs, width):
    x = draw(seed, members, *batch, inputs)
    A, B = draw(seed + 1, members, slices, rank, inputs), draw(seed + 2, members, slices, width, rank)
    together = sliced_update(x, A, B)
    for member in range(members):
        near(together[:, member], sliced_update(x[member], A[member], B[member]))


@few
@given(seeds, small, small, small)
def test_dora_gives_every_row_its_learned_length(seed, width, inputs, slices):
    weight, delta = draw(seed, slices, width, inputs), draw(seed + 1, slices, width, inputs)
    magnitude = draw(seed + 2, slices, width).abs() + 0.1
    rows = dora_gain(weight, delta, magnitude).unsqueeze(-1) * (weight + delta)
    near(rows.norm(dim=-1), magnitude)


@few
@given(seeds, small, st.integers(1, 3), small, small, st.booleans(), st.booleans(), st.booleans(), dtypes)
def test_merging_answers_alike_and_unmerging_gives_the_weight_back(
    seed, rank, groups, head, inputs, transposed, use_dora, fused, dtype
):
    parts = ("query", "key", "value") if fused else ("attention_output",)
    outputs = len(parts) * groups * head
    base = Conv1D(outputs, inputs) if transposed else nn.Linear(inputs, outputs)
    base = base.to(dtype)
    with torch.no_grad():
        base.weight.copy_(draw(seed, *base.weight.shape))
    old = base.weight.detach().clone()
    layer = FusedLoraLayer(base, parts, groups)
    config = FusedLoraConfig(r=rank, lora_alpha=2 * rank, use_dora=use_dora, roles=["query", "value", "output"])
    layer.update_layer("default", config, torch.device("cpu"))
    layer.place("default", torch.device("cpu"), dtype)
    with torch.no_grad():
        layer.fused_lora_B["default"].copy_(draw(seed + 1, *layer.fused_lora_B["default"].shape))
        layer.fused_lora_A["default"].copy_(draw(seed + 2, *layer.fused_lora_A["default"].shape))
        x = draw(seed + 3, 2, 3, inputs, dtype=dtype)
        want = layer(x)
        delta = layer.delta("default")
        gains = layer.gain("default") if use_dora else torch.ones(1)
        assume(gains.abs().max() < 1e3)  # an update may cancel a row of one or two numbers, which has no direction then
        layer.merge()
        # Each output is a sum over the inputs of products of rows no longer than these, times DoRA's gain.
        row = (float(old.abs().max()) + float(delta.abs().max())) * max(1.0, float(gains.abs().max()))
        bound = 10 * torch.finfo(dtype).eps * inputs * row * max(1.0, float(x.abs().max()))
        assert (layer(x).double() - want.double()).abs().max() <= bound
        assert torch.equal(layer.base_layer(x), layer(x))
        layer.unmerge()
    # The update is added and taken off, each rounded to the type of the weight; a gain of g makes the first rounding
    # 1/g as large when it is divided out again.
    largest = float(old.abs().max()) + float(delta.abs().max())
    bound = 4 * torch.finfo(dtype).eps * largest * max(1.0, float((1 / gains).abs().max()), float(gains.abs().max()))
    assert (base.weight.double() - old.double()).abs().max() <= bound


# --- bottlenecks -----------------------------------------------------------------------------------------------------


@few
@given(seeds, leading, small, small, st.sampled_from(sorted(ACTIVATIONS)), st.floats(-4, 4), dtypes)
def test_a_bottleneck_is_its_formula(seed, batch, width, size, activation, scaling, dtype):
    x = draw(seed, *batch, width, dtype=dtype)
    down, down_bias = draw(seed + 1, size, width, dtype=dtype), draw(seed + 2, size, dtype=dtype)
    up, up_bias = draw(seed + 3, width, size, dtype=dtype), draw(seed + 4, width, dtype=dtype)
    hidden = ACTIVATIONS[activation](x.double() @ down.double().T + down_bias.double())
    want = scaling * (hidden @ up.double().T + up_bias.double())
    near(bottleneck(x, down, down_bias, up, up_bias, ACTIVATIONS[activation], scaling), want, dtype)


@few
@given(seeds, small, small, small, small, small)
def test_rows_of_a_batch_do_not_meet_in_a_bottleneck(seed, rows, tokens, width, size, members):
    x = draw(seed, members, rows, tokens, width)
    weights = [
        draw(seed + n, members, *shape) for n, shape in enumerate([(size, width), (size,), (width, size), (width,)])
    ]
    together = bottleneck(x, *weights, F.gelu)
    for member in range(members):
        for row in range(rows):
            near(together[member, row], bottleneck(x[member, row], *(w[member] for w in weights), F.gelu))


# --- prefixes --------------------------------------------------------------------------------------------------------


@few
@given(seeds, small, small, small, small, st.integers(0, 4), dtypes, st.sampled_from(["shared", "row", "member"]))
def test_a_prefix_stands_in_front_of_the_states_it_joins(seed, batch, heads, head_width, tokens, length, dtype, layout):
    members = 2
    shape = (members,) if layout == "member" else ()
    states = draw(seed, *shape, batch, heads, tokens, head_width, dtype=dtype)
    own = {"shared": (), "row": (batch,), "member": (members,)}[layout]
    prefix = draw(seed + 1, *own, length, heads * head_width)
    joined = join_prefix(prefix, states)
    assert joined.dtype == dtype
    assert joined.shape == (*shape, batch, heads, length + tokens, head_width)
    assert torch.equal(joined[..., length:, :], states)
    split = prefix.to(dtype).unflatten(-1, (heads, head_width)).transpose(-3, -2)
    split = split if layout == "row" else split.unsqueeze(-4)
    assert torch.equal(joined[..., :length, :], split.expand(joined[..., :length, :].shape))


@few
@given(seeds, small, small, small, st.integers(0, 4), st.booleans(), st.booleans())
def test_a_mask_keeps_its_columns_behind_those_of_the_prefix(seed, batch, queries, keys, length, boolean, masked):
    visible = draw(seed, batch, 1, queries, keys) > 0
    least = torch.finfo(torch.float32).min
    mask = visible if boolean else torch.zeros(visible.shape).masked_fill(~visible, least)
    prefix_mask = draw(seed + 1, batch, length) > 0 if masked else None
    joined = join_mask(prefix_mask, length, mask)
    assert joined.dtype == mask.dtype
    assert joined.shape == (batch, 1, queries, length + keys)
    assert torch.equal(joined[..., length:], mask)
    seen = joined[..., :length] if boolean else joined[..., :length] == 0
    want = prefix_mask[:, None, None, :] if masked else torch.ones(batch, 1, 1, length, dtype=torch.bool)
    assert torch.equal(seen, want.expand(seen.shape))


@few
@given(seeds, small, small, small, small, small, st.integers(0, 4))
def test_attention_with_a_prefix_is_a_softmax_over_both(seed, batch, heads, head_width, queries, tokens, length):
    query = draw(seed, batch, heads, queries, head_width) / math.sqrt(head_width)
    key, value = (draw(seed + n, batch, heads, tokens, head_width) for n in (1, 2))
    prefix = Prefix(*(draw(seed + n, length, heads * head_width) for n in (3, 4)))
    scores = query @ key.transpose(-1, -2)
    context, probabilities = attend_with_prefix(query, scores, value, prefix, nn.Identity())
    near(probabilities.sum(-1), torch.ones(batch, heads, queries, dtype=torch.float64))
    near(
        context,
        F.scaled_dot_product_attention(
            query, join_prefix(prefix.key, key), join_prefix(prefix.value, value), scale=1.0
        ),
    )
    if length == 0:
        near(context, scores.softmax(-1) @ value)


@few
@given(seeds, small, small, small)
def test_a_computed_prefix_is_row_by_row_so_its_order_is_that_of_the_tokens(seed, length, width, units):
    embedding, hidden = draw(seed, length, width), draw(seed + 1, units, width)
    rest = (draw(seed + 2, units), draw(seed + 3, 2 * width, units), draw(seed + 4, 2 * width))
    key, value = reparameterised_prefix(embedding, hidden, *rest)
    assert key.shape == value.shape == (length, width)
    for flipped, plain in zip(reparameterised_prefix(embedding.flip(0), hidden, *rest), (key, value), strict=True):
        near(flipped.flip(0), plain)
