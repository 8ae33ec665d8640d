"""Costs of adaptation in use: forward passes of the base model, the adapted one, and the merged one."""

from __future__ import annotations

import copy
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_bench.probe.reasons import NO_MEMORY, is_out_of_memory, reason_of
from lora_bench.records.probe_record import Inference, Latency, ProbeSpec, State
from lora_bench.training.measure.bare_step import Window, repeat, time_passes
from lora_bench.training.measure.counters import quantile
from lora_bench.tuners.trial import decoder_inputs

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
                seconds = time_in_turn(calls, device, window)
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
    calls: Mapping[NameT, Callable[[], object]], device: torch.device, window: Window
) -> dict[NameT, list[float]]:
    """Return the seconds of each call; the functions are called in turn until the window is over, after a warm-up."""
    seconds: dict[NameT, list[float]] = {name: [] for name in calls}

    def one_of_each() -> None:
        for name, call in calls.items():
            seconds[name].append(time_passes(call, device))

    for _ in range(WARMUP_PASSES):
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
    adapted.add_adapter(SECOND, adapted.peft_config[first])
    adapted.to(device)
    one = functools.partial(adapted, **batch)
    seconds = time_in_turn({"mixed": functools.partial(one, adapter_names=names), "one": one}, device, window)
    return 2, statistics.median(seconds["mixed"]), statistics.median(seconds["one"])
