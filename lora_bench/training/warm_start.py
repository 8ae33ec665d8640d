"""Start from another task's run, without its head, as the LoRA paper starts RTE from MNLI; or from an adapter's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError
from lora_bench.records.kept_adapter import WEIGHTS, checked_adapter
from lora_bench.records.store import RunFolder
from lora_bench.tuners.trial import is_in

Shape = tuple[int, ...]

# Settings of a LoRA adapter that no shape of its weights shows, with PEFT's default.
HIDDEN = {"lora_alpha": None, "use_rslora": False, "use_dora": False, "fan_in_fan_out": False}


def start_from(model: nn.Module, source: RunFolder, head: list[str]) -> None:
    """Load a run's kept weights into a model of the same method, but for the head. Raise LoraBenchError if they do not fit."""
    adapted = isinstance(model, PeftModel)
    # PEFT reads a pickle, or asks the hub, if the file it looks for first is missing.
    if not any(source.weights.glob(WEIGHTS if adapted else "model*.safetensors")):
        raise LoraBenchError(
            f"run {source.path.name}, from which this one starts, left no weights; remove its folder and run the suite again"
        )
    if adapted:
        _load_adapter(model, source.weights, head, f"run {source.path.name}")
        return
    shards = sorted(source.weights.glob("model*.safetensors"))
    theirs = {name: weight for shard in shards for name, weight in load_file(shard).items()}
    own = model.state_dict()
    taken = _fitting(_shapes(own), _shapes(theirs), head, f"run {source.path.name}")
    model.load_state_dict({**own, **{name: theirs[name] for name in taken}})


def start_from_adapter(model: nn.Module, folder: Path, head: list[str]) -> None:
    """Load an adapter in a folder into a model of the same method, but for the head. Raise as `check_adapter` does."""
    check_adapter(model, folder, head)
    _load_adapter(model, folder, head, _named(folder))


def check_adapter(model: nn.Module, folder: Path, head: list[str]) -> None:
    """Raise LoraBenchError for an adapter of another method, shape or strength than a model's, or of a part of it only."""
    if not isinstance(model, PeftModel):
        raise LoraBenchError(f"{_named(folder)} does not fit a method that trains the base model")
    theirs, headers = checked_adapter(folder)
    shapes = {name: header.shape for name, header in headers.items()}
    wanted_shapes = _shapes(get_peft_model_state_dict(model))
    taken = _fitting(wanted_shapes, shapes, head, _named(folder))
    missing = sorted(name for name in wanted_shapes if name not in taken and not is_in(name, head))
    if missing:
        raise LoraBenchError(f"{_named(folder)} lacks {missing[0]}, which this method trains")
    (own,) = model.peft_config.values()
    for name, default in HIDDEN.items():
        wanted, given = getattr(own, name, default), theirs.get(name, default)
        if wanted != given:
            raise LoraBenchError(f"{_named(folder)} has {name} {given}, and this method {wanted}")


def _named(folder: Path) -> str:
    return f"the adapter in {folder.name}"


def _load_adapter(model: Any, folder: Path, head: list[str], shown: str) -> None:
    own, theirs = get_peft_model_state_dict(model), load_peft_weights(str(folder), device="cpu")
    taken = _fitting(_shapes(own), _shapes(theirs), head, shown)
    set_peft_model_state_dict(model, {**own, **{name: theirs[name] for name in taken}})


def _fitting(own: Mapping[str, Shape], theirs: Mapping[str, Shape], head: list[str], shown: str) -> list[str]:
    """Return the names of their weights that are not the head's; refuse one that *own* weights lack, or in another shape."""
    taken = [name for name in theirs if not is_in(name, head)]
    misfits = [name for name in taken if own.get(name) != theirs[name]]
    if misfits:
        raise LoraBenchError(f"{shown} has weights that do not fit this method, such as {misfits[0]}")
    return taken


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}
