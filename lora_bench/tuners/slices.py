"""Slices of an output that one module computes together: query, key and value, contiguous or head by head."""

from collections.abc import Sequence

import torch
from torch import Tensor


def slices_of(y: Tensor, slices: int, groups: int) -> tuple[Tensor, ...]:
    """Return the slices of an output, each of shape (..., width).

    Args:
        y: Shape (..., slices * width).
        slices: Number of slices.
        groups: Number of runs that each slice is divided into; the first run of every slice comes before the second of any.
    """
    if groups == 1:
        return tuple(y.chunk(slices, dim=-1))
    return tuple(part.flatten(-2) for part in y.unflatten(-1, (groups, slices, -1)).unbind(-2))


def joined_slices(parts: Sequence[Tensor], groups: int) -> Tensor:
    """Return the output whose `slices_of` are *parts*."""
    if groups == 1:
        return torch.cat(list(parts), dim=-1) if len(parts) > 1 else parts[0]
    return torch.stack([part.unflatten(-1, (groups, -1)) for part in parts], dim=-2).flatten(-3)
