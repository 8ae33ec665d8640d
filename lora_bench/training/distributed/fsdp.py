"""Shard a model's weights over several processes (FSDP), and gather its tensors again.

This uses torch's `fully_shard`: each layer's weights are gathered before use and sharded again afterwards. So a process has one
layer in full, and its shard of the rest.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.families import family_of


def shard(model: nn.Module, model_type: str, device: torch.device, *, bfloat16: bool) -> None:
    """Shard a model in place, over all processes; each must call it, with equal weights. *bfloat16*: under autocast."""
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
    # Libraries know a model by its class name, to which torch has added a prefix.
    type(model).__name__ = name
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    # accelerate's marker for a model to leave alone; otherwise it would wrap this one in DDP.
    model._is_accelerate_prepared = True


def _under_autocast(model: nn.Module, device: torch.device) -> None:
    """Prepare the forward pass for autocast, as accelerate does for its own models."""
    from accelerate.utils import convert_outputs_to_fp32

    forward: Callable[..., Any] = model.forward

    @functools.wraps(forward)
    def autocast(*arguments: Any, **options: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return forward(*arguments, **options)

    model.forward = convert_outputs_to_fp32(autocast)


def apart_again(model: nn.Module) -> None:
    """Shard layers again that stayed gathered after a forward pass; otherwise writes to their weights would be lost."""
    for module in model.modules():
        if hasattr(type(module), "reshard"):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in full. All processes must call it for a sharded one."""
    return tensor.full_tensor() if _in_parts(tensor) else tensor


def in_parts_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return this process's shard of a tensor if *other*, of the same shape, is sharded; else the tensor."""
    if not _in_parts(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    # Every process has the whole tensor, so it takes its shard without communication.
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def whole_state(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the state dictionary of a sharded model on the CPU, or None if it is not sharded. All processes must call it."""
    state = model.state_dict()
    if not any(map(_in_parts, state.values())):
        return None
    # Weights shared by two modules stay shared.
    made: dict[int, Tensor] = {}
    found = dict(state)
    for name, weight in model.named_parameters(remove_duplicate=False):
        if name in found:
            found[name] = made.setdefault(id(weight), whole(weight.detach()).cpu())
    return found


def _in_parts(tensor: Tensor) -> bool:
    # Compared by name, so that a run in one process imports no FSDP.
    return hasattr(tensor, "full_tensor")
