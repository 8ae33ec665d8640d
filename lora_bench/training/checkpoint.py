"""Checkpoints of an unfinished run: the state to resume it as if it had never stopped.

A checkpoint has the trained weights, the optimiser's tensors, and everything else as JSON. Nothing is pickled.
`lora_bench.records.checkpoint_files` writes it atomically and treats damage. Data order and dropout need no state: they are
functions of (seed, epoch) and (seed, step).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lora_bench.records.checkpoint_files import newest_checkpoint, write_checkpoint
from lora_bench.training.distributed.fsdp import apart_again, in_parts_like, whole

# Raised whenever an older lora_bench could not resume from a new checkpoint.
FORMAT = 1

# Files that every checkpoint has.
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step: trained weights, state dictionaries, other progress, and the best weights, if kept."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    progress: dict[str, Any]
    best: dict[str, Tensor] | None

    def restore(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Restore the state of the objects of a fresh run."""
        load_trained(model, self.weights)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        state = {
            index: {
                key: in_parts_like(value, weights[index]) if isinstance(value, Tensor) else value
                for key, value in values.items()
            }
            for index, values in self.optimizer["state"].items()
        }
        optimizer.load_state_dict({**self.optimizer, "state": state})
        schedule.load_state_dict(self.schedule)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights that the optimiser updates, by name."""
    return {
        name: whole(weight.detach()).cpu().clone().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights returned by `trained_weights` into a model of the same shape."""
    apart_again(model)
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if own.keys() != weights.keys():
        raise ValueError(f"weights of another model: {sorted(own.keys() ^ weights.keys())[:3]} differ")
    for name, weight in own.items():
        weight.copy_(in_parts_like(weights[name], weight))


def save_checkpoint(
    folder: Path | None,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    progress: dict[str, Any],
    *,
    best: dict[str, Tensor] | None = None,
    run_id: str | None = None,
) -> None:
    """Write a checkpoint of a run after *step*, and keep the previous one. Without a folder, only gather the tensors."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = whole(value.detach()).cpu().contiguous()
            else:
                scalars.setdefault(str(index), {})[key] = value
    weights = trained_weights(model)
    if folder is None:
        return
    rest = {
        "format": FORMAT,
        "step": step,
        "run_id": run_id,
        "param_groups": state["param_groups"],
        "scalars": scalars,
        "schedule": schedule.state_dict(),
        "progress": progress,
    }
    files = {
        WEIGHTS: save(weights),
        OPTIMIZER: save(tensors),
        STATE: json.dumps(rest, allow_nan=False).encode("utf-8"),
    }
    if best is not None:
        files["best.safetensors"] = save(best)
    write_checkpoint(folder, step, files)


def latest_checkpoint(
    folder: Path, say: Callable[[str], None] = lambda message: None, run_id: str | None = None
) -> Checkpoint | None:
    """Return the newest undamaged checkpoint of a run, or any; *say* gets a sentence for each damaged, foreign or newer one."""

    def foreign(files: Mapping[str, bytes]) -> str | None:
        theirs = json.loads(files[STATE]).get("run_id")
        return f"belongs to run {theirs}" if run_id is not None and theirs != run_id else None

    found = newest_checkpoint(folder, say, (WEIGHTS, OPTIMIZER, STATE), foreign)
    if found is None:
        return None
    path, files = found
    rest = json.loads(files[STATE])
    if rest["format"] > FORMAT:
        say(f"the checkpoint {path.name} was written by a newer lora_bench, so the run started anew")
        return None
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["scalars"].items()}
    for name, tensor in load(files[OPTIMIZER]).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return Checkpoint(
        step=rest["step"],
        weights=load(files[WEIGHTS]),
        optimizer={"state": state, "param_groups": rest["param_groups"]},
        schedule=rest["schedule"],
        progress=rest["progress"],
        best=load(files["best.safetensors"]) if "best.safetensors" in files else None,
    )
