"""Checkpoints of a run that is not done: what must be known to go on as if nothing had happened.

A checkpoint is a folder `step-N` with the trained weights, the optimiser's tensors, and everything else as JSON; a manifest
of hashes is written last, so a folder without a valid manifest is a checkpoint that was never finished and is passed over.
Nothing is pickled. Data order and dropout need no state: they are functions of (seed, epoch) and (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lora_bench.failpoints import reach
from lora_bench.store import write_atomic

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step.

    Args:
        step: The last step that was done.
        weights: The trained weights by name.
        optimizer: The optimiser's state dictionary.
        schedule: The learning-rate schedule's state dictionary.
        progress: What the run wants to know again, such as its learning curve.
        best: The best weights on the selection split so far, where the run keeps them.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    progress: dict[str, Any]
    best: dict[str, Tensor] | None

    def restore(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> None:
        """Put the state back into the objects of a fresh run."""
        load_trained(model, self.weights)
        optimizer.load_state_dict(self.optimizer)
        schedule.load_state_dict(self.schedule)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights that the optimiser updates, by name."""
    return {
        name: weight.detach().cpu().clone().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights that `trained_weights` gave back into a model of the same shape."""
    own = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if own.keys() != weights.keys():
        raise ValueError(f"weights of another model: {sorted(own.keys() ^ weights.keys())[:3]} differ")
    for name, weight in own.items():
        weight.copy_(weights[name])


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    progress: dict[str, Any],
    *,
    best: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint after *step* and remove the ones before it."""
    reach("checkpoint.begin")
    target = folder / f"step-{step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
            else:
                scalars.setdefault(str(index), {})[key] = value
    rest = {
        "step": step,
        "param_groups": state["param_groups"],
        "scalars": scalars,
        "schedule": schedule.state_dict(),
        "progress": progress,
    }
    files = {
        "weights.safetensors": save(trained_weights(model)),
        "optimizer.safetensors": save(tensors),
        "state.json": json.dumps(rest, allow_nan=False).encode("utf-8"),
    }
    if best is not None:
        files["best.safetensors"] = save(best)
    for name, content in files.items():
        write_atomic(target / name, content)
    manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    reach("checkpoint.manifest")
    write_atomic(target / MANIFEST, json.dumps(manifest).encode("utf-8"))
    reach("checkpoint.written")
    for other in folder.glob("step-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says, or None."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        files = _verified(path)
        if files is None:
            continue
        rest = json.loads(files["state.json"])
        state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["scalars"].items()}
        for name, tensor in load(files["optimizer.safetensors"]).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        return Checkpoint(
            step=rest["step"],
            weights=load(files["weights.safetensors"]),
            optimizer={"state": state, "param_groups": rest["param_groups"]},
            schedule=rest["schedule"],
            progress=rest["progress"],
            best=load(files["best.safetensors"]) if "best.safetensors" in files else None,
        )
    return None


def _verified(path: Path) -> dict[str, bytes] | None:
    """The files of a checkpoint, or None where one is missing or not what the manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = {name: (path / name).read_bytes() for name in manifest}
    except (OSError, ValueError):
        return None
    return files if all(hashlib.sha256(files[name]).hexdigest() == manifest[name] for name in manifest) else None
