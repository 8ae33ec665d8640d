"""What adapting costs when the model is used: forward passes of the base model, the adapted, and the merged one."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_bench.probe.steps import Windows, quantile, repeat, time_passes
from lora_bench.probe_record import Inference, Latency, ProbeSpec, State

SECOND = "second"
WARMUP_PASSES = 2

Batch = dict[str, Tensor]


def inference(
    spec: ProbeSpec,
    adapted: nn.Module,
    base: Callable[[], nn.Module],
    make_batch: Callable[[nn.Module, ProbeSpec, int, int, torch.device], Batch],
    windows: Windows,
    unmeasured: dict[str, str],
) -> Inference:
    """Time forward passes at every shape, the states of the model in turn, so that a drift falls on all alike.

    Args:
        spec: Whose.
        adapted: The adapted model.
        base: Gives the base model anew.
        make_batch: Gives random tokens.
        windows: How long each state is timed at each shape.
        unmeasured: Takes the reasons for what is left out.
    """
    device = next(adapted.parameters()).device
    models: dict[State, nn.Module] = {"unadapted": base().to(device).eval(), "adapted": adapted.eval()}
    merged = _merged(adapted)
    if isinstance(merged, str):
        unmeasured["inference.merged"] = merged
    else:
        models["merged"] = merged.eval()
    longest = getattr(adapted.config, "max_position_embeddings", None)
    latencies: list[Latency] = []
    difference: float | None = None
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
        for rows, length in spec.latency_shapes:
            if longest is not None and length > longest:
                unmeasured[f"inference.{rows}x{length}"] = f"the model takes at most {longest} tokens"
                continue
            batch = _inputs(make_batch(adapted, spec, rows, length, device))
            try:
                latencies += _latencies(models, batch, device, windows)
            except torch.OutOfMemoryError:
                unmeasured[f"inference.{rows}x{length}"] = "there is not the memory for it"
                continue
            if "merged" in models and difference is None:
                both = [models[state](**batch).logits for state in ("adapted", "merged")]
                difference = float((both[0] - both[1]).abs().max())
        mixed, single = _mixed_batch(spec, adapted, make_batch, device, windows, unmeasured)
    return Inference(
        latencies=tuple(latencies),
        merged_difference=difference,
        adapters_in_batch=2 if mixed is not None else None,
        mixed_batch_seconds=mixed,
        one_adapter_seconds=single,
    )


def _inputs(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "labels"}


def _merged(adapted: nn.Module) -> nn.Module | str:
    """A copy of the model with the method folded into its weights, or why there is none."""
    if not isinstance(adapted, PeftModel):
        return "there is nothing to merge"
    try:
        return copy.deepcopy(adapted).merge_and_unload()
    except Exception as error:
        return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _latencies(models: dict[State, nn.Module], batch: Batch, device: torch.device, windows: Windows) -> list[Latency]:
    seconds: dict[State, list[float]] = {state: [] for state in models}

    def one_of_each() -> None:
        for state, model in models.items():
            seconds[state].append(time_passes(lambda model=model: model(**batch), device))  # type: ignore[misc]

    for _ in range(WARMUP_PASSES):
        one_of_each()
    for timed in seconds.values():
        timed.clear()
    repeat(one_of_each, windows.passes)
    rows, length = batch["input_ids"].shape
    return [
        Latency(
            batch_size=rows,
            length=length,
            state=state,
            passes=len(timed),
            seconds_median=statistics.median(timed),
            seconds_p90=quantile(timed, 0.9),
        )
        for state, timed in seconds.items()
    ]


def _mixed_batch(
    spec: ProbeSpec,
    adapted: nn.Module,
    make_batch: Callable[[nn.Module, ProbeSpec, int, int, torch.device], Batch],
    device: torch.device,
    windows: Windows,
    unmeasured: dict[str, str],
) -> tuple[float | None, float | None]:
    """Median seconds of a batch whose rows take two adapters in turn, and of the same batch with one."""
    if not isinstance(adapted, PeftModel):
        unmeasured["inference.mixed_batch"] = "there are no adapters to mix"
        return None, None
    if not spec.latency_shapes:
        unmeasured["inference.mixed_batch"] = "no shape is given"
        return None, None
    first = adapted.active_adapter
    rows, length = max(2, spec.latency_shapes[0][0]), spec.latency_shapes[0][1]
    batch = _inputs(make_batch(adapted, spec, rows, length, device))
    names: list[Any] = [(first, SECOND)[row % 2] for row in range(rows)]
    try:
        adapted.add_adapter(SECOND, adapted.peft_config[first])
        adapted.to(device)
        medians = []
        for options in ({"adapter_names": names}, {}):
            timed: list[float] = []
            for _ in range(WARMUP_PASSES):
                adapted(**batch, **options)
            repeat(
                lambda options=options, timed=timed: timed.append(  # type: ignore[misc]
                    time_passes(lambda: adapted(**batch, **options), device)
                ),
                windows.passes,
            )
            medians.append(statistics.median(timed))
        return medians[0], medians[1]
    except Exception as error:
        unmeasured["inference.mixed_batch"] = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return None, None
