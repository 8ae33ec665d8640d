"""The masks of `lora_bench.training.keyed_dropout` in one kernel, by Triton: the same integers, and none of them in memory.

CUDA builds of torch for Linux bring Triton; only they import this module. Triton's interpreter runs it without a card.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_DIMENSIONS = 6
BLOCK = 1024

_ASKED = ["count", "one", "two", "three", "four", "five", "first", "site", "threshold", "scale"]


@triton.jit(do_not_specialize=_ASKED)
def _write(  # type: ignore[no-untyped-def]  # Triton gives its arguments their types
    keys, masks, count, one, two, three, four, five, first, site, threshold, scale,
    S1: tl.constexpr, S2: tl.constexpr, S3: tl.constexpr, S4: tl.constexpr, S5: tl.constexpr,
    FIRST: tl.constexpr, DIMENSIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a block of the masks; *one* and *S1* are length and factor of the last dimension, *FIRST* the first's factor."""
    member = tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    rest = index
    place = first + 0 * index
    if DIMENSIONS > 1:
        place += (rest % one) * S1
        rest = rest // one
    if DIMENSIONS > 2:
        place += (rest % two) * S2
        rest = rest // two
    if DIMENSIONS > 3:
        place += (rest % three) * S3
        rest = rest // three
    if DIMENSIONS > 4:
        place += (rest % four) * S4
        rest = rest // four
    if DIMENSIONS > 5:
        place += (rest % five) * S5
        rest = rest // five
    place += rest * FIRST
    mixed = place ^ (tl.load(keys + 2 * member) + site)
    for half in tl.static_range(2):
        if half == 1:
            mixed += tl.load(keys + 2 * member + 1)
        mixed ^= (mixed >> 16) & 0xFFFF
        mixed *= 0x7FEB352D
        mixed ^= (mixed >> 15) & 0x1FFFF
        mixed *= -0x7B935975  # 0x846CA68B
        mixed ^= (mixed >> 16) & 0xFFFF
    kept = tl.where(mixed >= threshold, scale, 0.0)
    tl.store(masks + member.to(tl.int64) * count + index, kept.to(masks.dtype.element_ty), mask=inside)


@torch.library.custom_op("lora_bench::keyed_masks", mutates_args=())
def keyed_masks(
    keys: Tensor,
    shape: Sequence[int],
    strides: Sequence[int],
    first: int,
    site: int,
    threshold: int,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return masks of *scale* for the elements that are kept, and 0 for the others.

    Args:
        keys: Key of each mask, shape (masks, 2), int32.
        shape: Shape of a mask, at most `MOST_DIMENSIONS`.
        strides: Factor of the index along each dimension, counted from the last, signed.
        first: Place of the first element, signed.
        site: Number that is added to the first half of a key, signed.
        threshold: Least number that keeps an element, signed.
        scale: Value of an element that is kept, exact in *dtype*.
        dtype: Of the masks.

    Returns:
        Shape (masks, *shape).
    """
    keys = keys.contiguous()
    masks = torch.empty((len(keys), *shape), dtype=dtype, device=keys.device)
    count = math.prod(shape)
    if not masks.numel():
        return masks
    lengths = [*reversed(shape[1:]), *[1] * MOST_DIMENSIONS][: MOST_DIMENSIONS - 1]
    with torch.cuda.device_of(keys):  # Triton launches on the current device
        _write[(triton.cdiv(count, BLOCK), len(keys))](
            keys,
            masks,
            count,
            *lengths,
            first,
            site,
            threshold,
            scale,
            *strides[: MOST_DIMENSIONS - 1],
            strides[len(shape) - 1],
            len(shape),
            BLOCK,
        )
    return masks


@keyed_masks.register_fake
def _shaped(keys: Tensor, shape: Sequence[int], *others: Any) -> Tensor:
    dtype: torch.dtype = others[-1]
    return keys.new_empty((len(keys), *shape), dtype=dtype)


@keyed_masks.register_vmap
def _of_members(info: Any, in_dims: tuple[int | None, ...], keys: Tensor, *others: Any) -> tuple[Tensor, int]:
    assert in_dims[0] is not None, "only the keys differ between members"
    keys = keys.movedim(in_dims[0], 0)
    masks = keyed_masks(keys.flatten(0, 1), *others)
    return masks.unflatten(0, keys.shape[:2]), 0
