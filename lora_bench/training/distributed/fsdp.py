"""Weights that several processes hold in parts (FSDP): how a model comes apart, and how its tensors come together again.

It is torch's `fully_shard`: each layer's weights come together before it is used and go apart afterwards, so that a process
holds one layer in full, and of the rest its part.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.families import family_of


def shard(model: nn.Module, model_type: str, device: torch.device, *, bfloat16: bool) -> None:
    """Take a model apart in place, over all processes; called by all of them.

    Args:
        model: With its weights, the same in every process.
        model_type: Of its base model.
        device: Where the parts go.
        bfloat16: Whether it trains under autocast.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if bfloat16:
        _under_autocast(model, device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    layer = re.compile(family_of(model_type).layer)
    for path, module in list(model.named_modules()):
        if layer.fullmatch(path):
            fully_shard(module, mesh=mesh)
    name = type(model).__name__
    fully_shard(model, mesh=mesh)
    # Libraries know a model by the name of its class, which torch has put a word before.
    type(model).__name__ = name
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    # accelerate's own word for a model that it is to leave as it is; else it would put DDP around this one.
    model._is_accelerate_prepared = True


def _under_autocast(model: nn.Module, device: torch.device) -> None:
    """What accelerate does with a model that it prepares itself."""
    from accelerate.utils import convert_outputs_to_fp32

    forward: Callable[..., Any] = model.forward

    @functools.wraps(forward)
    def autocast(*arguments: Any, **options: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return forward(*arguments, **options)

    model.forward = convert_outputs_to_fp32(autocast)


def apart_again(model: nn.Module) -> None:
    """Take apart what stayed together after a question, before anything is written to weights: else it would be lost."""
    for module in model.modules():
        if hasattr(type(module), "reshard"):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor as one process has it alone; of one in parts all processes ask together."""
    return tensor.full_tensor() if _in_parts(tensor) else tensor


def in_parts_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's part of a tensor, where another of the same shape is in parts; else the tensor."""
    if not _in_parts(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    # Every process has the tensor, and takes its part of it without asking another.
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def whole_state(model: nn.Module) -> dict[str, Tensor] | None:
    """The state dictionary of a model in parts, on the CPU; None for one that is whole. All processes ask together."""
    state = model.state_dict()
    if not any(map(_in_parts, state.values())):
        return None
    # What two modules share stays shared.
    made: dict[int, Tensor] = {}
    found = dict(state)
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name in found:
            found[name] = made.setdefault(id(weight), whole(weight.detach()).cpu())
    return found


def _in_parts(tensor: Tensor) -> bool:
    # By name, so that a run in one process imports nothing of this.
    return hasattr(tensor, "full_tensor")
