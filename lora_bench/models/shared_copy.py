"""Copies of a base model that share its weights, so that its next run needs neither a read nor more memory."""

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


def copy_sharing(model: ModelT, own: Sequence[str] = ()) -> ModelT:
    """Return a copy with its own modules over the same weights; those in *own*, which are drawn anew, are copied."""
    copied = {id(weight) for name in own for weight in model.get_submodule(name).parameters()}
    memo: dict[int, object] = {}
    for weight in model.parameters():
        # Weights of a special class, such as quantised ones, have their own way of copying.
        if id(weight) not in copied and type(weight) is nn.Parameter:
            memo[id(weight)] = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(model, memo)


def share_frozen(model: nn.Module, other: nn.Module) -> None:
    """Make a model's frozen weights share the memory of another model of the same base, where that has them."""
    theirs = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        if not weight.requires_grad and not theirs[name].requires_grad:
            weight.data = theirs[name].data


def own_trained(model: nn.Module) -> None:
    """Give the weights that the optimiser updates their own memory, if a method trains weights of the base model."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.clone()
