"""Records of probes for the tests of reports: one function with a default for everything."""

from __future__ import annotations

from typing import Any

from lora_bench.records.probe_record import (
    CheckpointSize,
    Flops,
    Inference,
    Latency,
    PhasePeaks,
    ProbeRecord,
    ProbeSpec,
    StepBytes,
    StepSpeed,
)
from lora_bench.records.spec import MethodSpec, PlannedModel
from tests.sample_records import ENVIRONMENT, METHODS, MIB, PARAMETERS

STEPS = {"full": 0.100, "lora": 0.060, "prefix_tuning": 0.080, "bottleneck_adapter": 0.070}


def probe_record(
    method: str | MethodSpec = "lora",
    repeat: int = 0,
    *,
    twin: bool = False,
    step_seconds: float | None = None,
    status: str = "ok",
    reason: str | None = None,
    model: str = "MiniLM-L6 in the RoBERTa class",
    device: str = "cpu",
    spec: dict[str, Any] | None = None,
    **changes: Any,
) -> ProbeRecord:
    """A record; one that did not end `ok` has measured nothing."""
    method_spec = METHODS[method] if isinstance(method, str) else method
    name = method_spec.name
    seconds = step_seconds if step_seconds is not None else STEPS[name]
    probe_spec = ProbeSpec(
        **{
            "model": PlannedModel(name=model, shown=model, sha256=model.encode().hex().ljust(64, "0")[:64], revision=None,
                                  model_type="roberta"),
            "random_weights": False, "kind": "classification", "labels": 2, "method": method_spec, "batch_size": 16,
            "length": 128, "precision": "float32", "attention": None, "threads": 2, "device": device,
            "latency_shapes": ((1, 128),), "wide_tokens": None,
            **(spec or {}),
        }
    )  # fmt: skip
    full = name == "full"
    measured = StepBytes(
        weight_bytes=90 * MIB,
        gradient_bytes=90 * MIB if full else 600_000,
        optimizer_bytes=180 * MIB if full else 1_200_000,
        activation_bytes=200 * MIB,
        peak_bytes=480 * MIB if full else 300 * MIB,
    )
    parts: dict[str, Any] = {
        "parameters": PARAMETERS[name],
        "speed": StepSpeed(
            batch_size=16, warmup_steps=2, timed_steps=50, step_seconds_median=seconds, step_seconds_p90=seconds * 1.1,
            forward_seconds=seconds * 0.4, backward_seconds=seconds * 0.5, optimizer_seconds=seconds * 0.1,
            examples_per_second=16 / seconds, real_tokens_per_second=16 * 128 / seconds,
            host_bound_share=0.4 if device == "cuda" else None,
        ),
        "phases": PhasePeaks(
            kind="resident", start_bytes=400 * MIB, load_bytes=500 * MIB, first_step_bytes=900 * MIB,
            steady_bytes=880 * MIB, evaluation_bytes=800 * MIB, saving_bytes=600 * MIB, reserved_bytes=None,
            device_bytes=None, tree_bytes=900 * MIB,
        ),
        "measured": measured,
        "predicted": measured,
        "inference": Inference(
            latencies=(
                _latency("unadapted", 0.010), _latency("adapted", 0.010 if full else 0.012),
                *(() if full else (_latency("merged", 0.010),)),
            ),
            merged_difference=None if full else 2.5e-7,
            adapters_in_batch=None if full else 2,
            mixed_batch_seconds=None if full else 0.030,
            one_adapter_seconds=None if full else 0.020,
        ),
        "checkpoint": CheckpointSize(
            stored_bytes=91 * MIB if full else 700_000, adapter_bytes=90 * MIB if full else 30_720, head_bytes=596_000,
            restore_seconds=0.2, switch_seconds=None if full else 0.0002, model_load_seconds=0.5,
        ),
        "flops": Flops(forward=10**11, step=3 * 10**11 if full else 2 * 10**11),
        "unmeasured": {"energy": "host and device are one", "wide": "not asked for"},
        "environment": ENVIRONMENT,
    }  # fmt: skip
    return ProbeRecord(
        **{
            "probe_id": probe_spec.probe_id, "repeat": repeat, "twin": twin, "suite": "costs", "status": status,
            "reason": reason, "spec": probe_spec, "exclusive": True, "command": "lora-bench probe costs",
            **(parts if status == "ok" else {}),
            **changes,
        }
    )  # fmt: skip


def _latency(state: str, seconds: float) -> Latency:
    return Latency(batch_size=1, length=128, state=state, passes=50, seconds_median=seconds, seconds_p90=seconds * 1.2)


def sample_probes() -> list[ProbeRecord]:
    """Three processes of three methods on one model, of which the first is measured twice; one pair is unsupported."""
    records = [
        probe_record(method, repeat, step_seconds=STEPS[method] * factor)
        for method in ("full", "lora", "prefix_tuning")
        for repeat, factor in enumerate((0.99, 1.0, 1.01))
    ]
    records += [probe_record("full", repeat, twin=True, step_seconds=0.102) for repeat in range(3)]
    return [*records, probe_record("bottleneck_adapter", status="unsupported", reason="it does not work here")]
