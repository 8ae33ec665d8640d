"""Copies of a base model that share its weights, so that the next run of it costs neither a read nor memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


def copy_sharing(model: ModelT, own: Sequence[str] = ()) -> ModelT:
    """A copy with parameters and modules of its own, over the memory of the same weights.

    Args:
        model: The base model, with nothing adapted.
        own: Names of modules whose weights are copied, since they are drawn anew: the head's.
    """
    copied = {id(weight) for name in own for weight in model.get_submodule(name).parameters()}
    memo: dict[int, object] = {}
    for weight in model.parameters():
        # Weights of a class of their own, such as quantised ones, know best how they are copied.
        if id(weight) not in copied and type(weight) is nn.Parameter:
            memo[id(weight)] = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(model, memo)


def share_frozen(model: nn.Module, other: nn.Module) -> None:
    """Let a model's frozen weights lie where those of another model of the same base do, wherever that has them."""
    theirs = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        if not weight.requires_grad and not theirs[name].requires_grad:
            weight.data = theirs[name].data


def own_trained(model: nn.Module) -> None:
    """Give what the optimiser updates memory of its own, where a method trains weights of the base."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.clone()
