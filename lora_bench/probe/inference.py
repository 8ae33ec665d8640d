"""Costs of an adapted model in use, or the reason why one could not be measured.

They are the time of forward passes of the base model, the adapted one and the merged one, the size of the files that restore
the model on the public base, and the time of a change of task.
"""

import copy
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError, first_line, typed_line
from lora_bench.records.outcomes import is_out_of_memory as is_out_of_memory
from lora_bench.records.probe_record import CheckpointSize, Inference, Latency, ProbeSpec, State
from lora_bench.training.measure.bare_step import Window, repeat, time_passes
from lora_bench.training.measure.counters import quantile
from lora_bench.tuners.mixed_batches import mix_adapters
from lora_bench.tuners.trial import decoder_inputs, is_in

NO_MEMORY = "there is not the memory for it"
NOT_TRACED = "the profiler traced no kernel"
SECOND = "second"
WARMUP_PASSES = 2
MIXED = ("adapters_in_batch", "mixed_batch_seconds", "one_adapter_seconds")

Batch = dict[str, Tensor]
NameT = TypeVar("NameT")


def inference(
    spec: ProbeSpec,
    adapted: nn.Module,
    base: Callable[[], nn.Module],
    make_batch: Callable[[int, int], Batch],
    longest: int | None,
    window: Window,
    unmeasured: dict[str, str],
) -> Inference:
    """Time forward passes at every shape, the states of the model in turn, so that a drift affects all alike.

    *base* returns a fresh base model, and *make_batch* random tokens by rows and length, on the device of the adapted model.
    *longest* is the greatest number of tokens that the model takes, or None. *unmeasured* receives the reasons for missing
    parts.
    """
    device = next(adapted.parameters()).device
    models: dict[State, nn.Module] = {"unadapted": base().to(device).eval(), "adapted": adapted.eval()}
    merged = _merged(adapted)
    if isinstance(merged, str):
        unmeasured |= {"inference.merged": merged, "inference.merged_difference": merged}
    else:
        models["merged"] = merged.eval()
    latencies: list[Latency] = []
    difference: float | None = None
    mixed: tuple[int, float, float] | tuple[None, None, None] = (None, None, None)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
        for rows, length in spec.latency_shapes:
            shape = f"inference.{rows}x{length}"
            if longest is not None and length > longest:
                unmeasured[shape] = f"the model takes at most {longest} tokens"
                continue
            try:
                batch = _inputs(adapted, make_batch(rows, length))
                calls = {state: functools.partial(model, **batch) for state, model in models.items()}
                seconds = time_in_turn(calls, functools.partial(time_passes, device=device), window)
                if "merged" in models and difference is None:
                    both = [models[state](**batch)[0] for state in ("adapted", "merged")]
                    difference = float((both[0] - both[1]).abs().max())
            except Exception as error:
                unmeasured[shape] = NO_MEMORY if is_out_of_memory(error) else reason_of(error)
                continue
            latencies += [_latency(rows, length, state, timed) for state, timed in seconds.items()]
        if "merged" in models and difference is None:
            unmeasured["inference.merged_difference"] = "no shape could be measured"
        try:
            measurable = [shape for shape in spec.latency_shapes if longest is None or shape[1] <= longest]
            mixed = _mixed_batch(measurable, adapted, make_batch, device, window)
        except Exception as error:
            unmeasured |= {f"inference.{name}": reason_of(error) for name in MIXED}
    return Inference(
        latencies=tuple(latencies),
        merged_difference=difference,
        adapters_in_batch=mixed[0],
        mixed_batch_seconds=mixed[1],
        one_adapter_seconds=mixed[2],
    )


def time_in_turn(
    calls: Mapping[NameT, Callable[[], object]],
    clock: Callable[[Callable[[], object]], float],
    window: Window,
    warmup: int = WARMUP_PASSES,
) -> dict[NameT, list[float]]:
    """Return the seconds of each call by *clock*; the functions are called in turn until the window is over."""
    seconds: dict[NameT, list[float]] = {name: [] for name in calls}

    def one_of_each() -> None:
        for name, call in calls.items():
            seconds[name].append(clock(call))

    for _ in range(warmup):
        one_of_each()
    for timed in seconds.values():
        timed.clear()
    repeat(one_of_each, window)
    return seconds


def _latency(rows: int, length: int, state: State, timed: list[float]) -> Latency:
    return Latency(
        batch_size=rows,
        length=length,
        state=state,
        passes=len(timed),
        seconds_median=statistics.median(timed),
        seconds_p90=quantile(timed, 0.9),
    )


def _inputs(model: nn.Module, batch: Batch) -> Batch:
    given = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    return given | decoder_inputs(model, batch["input_ids"])


def _merged(adapted: nn.Module) -> nn.Module | str:
    """Return a copy of the model with the method folded into its weights, or the reason why not."""
    if not isinstance(adapted, PeftModel):
        return "there is nothing to merge"
    try:
        return copy.deepcopy(adapted).merge_and_unload()
    except Exception as error:
        return reason_of(error)


def _mixed_batch(
    shapes: Sequence[tuple[int, int]],
    adapted: nn.Module,
    make_batch: Callable[[int, int], Batch],
    device: torch.device,
    window: Window,
) -> tuple[int, float, float]:
    """Return the number of adapters in a mixed batch, its median seconds, and those of the same batch with one adapter."""
    if not isinstance(adapted, PeftModel):
        raise ValueError("there are no adapters to mix")
    if not shapes:
        raise ValueError("no shape could be measured")
    first = adapted.active_adapter
    rows, length = max(2, shapes[0][0]), shapes[0][1]
    batch = _inputs(adapted, make_batch(rows, length))
    names: list[Any] = [(first, SECOND)[row % 2] for row in range(rows)]
    mix_adapters(adapted).add_adapter(SECOND, adapted.peft_config[first])
    adapted.to(device)
    one = functools.partial(adapted, **batch)
    calls = {"mixed": functools.partial(one, adapter_names=names), "one": one}
    seconds = time_in_turn(calls, functools.partial(time_passes, device=device), window)
    return 2, statistics.median(seconds["mixed"]), statistics.median(seconds["one"])


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


def reason_of(error: BaseException) -> str:
    """Return an error's first line, with its class if that says more than the message."""
    tells = isinstance(error, LoraBenchError | ValueError | NotImplementedError)
    return first_line(error) if tells else typed_line(error)
