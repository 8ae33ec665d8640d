"""Size of the files that restore an adapted model on the public base, and time of a change of task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn

from lora_bench.probe.reasons import reason_of
from lora_bench.records.probe_record import CheckpointSize
from lora_bench.training.measure.bare_step import time_passes
from lora_bench.tuners.trial import is_in

SECOND = "second"


def checkpoint(
    model: nn.Module,
    head: list[str],
    folder: Path,
    base: Callable[[], nn.Module],
    device: torch.device,
    saved: Callable[[], None],
    unmeasured: dict[str, str],
) -> CheckpointSize:
    """Save an adapted model, measure its files, and time restoring it.

    Files are read right after they were written, so times are with a warm file cache. *base* returns a fresh base model,
    *saved* is called once the adapted model is saved, and *unmeasured* receives the reasons for null fields.
    """
    adapted, whole = folder / "adapted", folder / "base"
    model.save_pretrained(adapted)
    saved()
    files = [path for path in sorted(adapted.rglob("*")) if path.is_file() and path.suffix != ".md"]
    of_method, of_head = _weight_bytes(files, head)

    fresh = base()
    fresh.save_pretrained(whole)
    load = type(fresh).from_pretrained
    del fresh
    loading = time_passes(lambda: load(whole).to(device), device)
    restoring = switching = None
    if isinstance(model, PeftModel):
        try:
            restoring, switching = _second_adapter(model, adapted, device)
        except Exception as error:  # a method may allow only one adapter
            unmeasured |= dict.fromkeys(("checkpoint.restore_seconds", "checkpoint.switch_seconds"), reason_of(error))
    else:
        restoring = time_passes(lambda: load(adapted).to(device), device)
        unmeasured["checkpoint.switch_seconds"] = "there is no adapter to switch to"
    return CheckpointSize(
        stored_bytes=sum(path.stat().st_size for path in files),
        adapter_bytes=of_method,
        head_bytes=of_head,
        restore_seconds=restoring,
        switch_seconds=switching,
        model_load_seconds=loading,
    )


def _second_adapter(model: PeftModel, stored: Path, device: torch.device) -> tuple[float, float]:
    """Return the seconds of loading a stored adapter beside the first and activating it, and of switching back."""
    first = model.active_adapter

    def restore() -> None:
        model.load_adapter(stored, SECOND, torch_device=str(device))
        model.set_adapter(SECOND)

    restoring = time_passes(restore, device)
    switching = time_passes(lambda: model.set_adapter(first), device)
    model.delete_adapter(SECOND)
    model.set_adapter(first)
    return restoring, switching


def _weight_bytes(files: list[Path], head: list[str]) -> tuple[int, int]:
    """Return the bytes of the stored weights of the method, and of the head."""
    of_method = of_head = 0
    for file in files:
        if file.suffix != ".safetensors":
            continue
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # it is no mapping
                tensor = weights.get_tensor(name)
                size = tensor.numel() * tensor.element_size()
                if is_in(name, head):
                    of_head += size
                else:
                    of_method += size
    return of_method, of_head
