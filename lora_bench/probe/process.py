"""One process of a probe, from its job to its record.

The cell is measured alone, in a fresh process, with fixed shapes and random tokens. Training comes first, while memory is
unfragmented; then storage, and the costs in use. A part that cannot be measured is null with its reason, and the other parts
are still measured.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.kinds import find_kind
from lora_bench.kinds.exercises import exercise_class
from lora_bench.methods import Method, known_methods
from lora_bench.models.loading import load_model, longest_input
from lora_bench.probe.checkpoint_size import checkpoint
from lora_bench.probe.device import HOST_IS_DEVICE, Company, EnergyMeter, has_bfloat16, used_bytes
from lora_bench.probe.inference import inference
from lora_bench.probe.probe_job import ProbeJob
from lora_bench.probe.reasons import NO_MEMORY, NOT_TRACED, is_out_of_memory, reason_of
from lora_bench.records.environment import describe_environment
from lora_bench.records.outcomes import is_disk_full
from lora_bench.records.probe_record import Energy, Flops, PhasePeaks, ProbeRecord, ProbeSpec, StepBytes
from lora_bench.records.record import Status
from lora_bench.training.measure.bare_step import TrainingStep, Windows, step_speed, windows_for
from lora_bench.training.measure.counters import PeakMemory, count_parameters, return_freed_memory, state_bytes
from lora_bench.training.measure.step_bytes import predict_step, static_bytes, step_bytes

SEED = 0

FoundT = TypeVar("FoundT")


@dataclass
class _ProbeFindings:
    """Measurements so far; a probe that fails leaves those it had."""

    fields: dict[str, Any] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, measure: Callable[[], FoundT]) -> FoundT | None:
        """Measure a part that the others do not need; null with its reason if that fails."""
        try:
            self.fields[name] = measure()
        except Exception as error:  # any failure of a method or a library becomes a reason, and the probe goes on
            self.unmeasured[name] = NO_MEMORY if is_out_of_memory(error) else reason_of(error)
        value: FoundT | None = self.fields.get(name)
        return value

    def known(self) -> dict[str, Any]:
        """Return the measurements as fields of a record."""
        return {**self.fields, "unmeasured": dict(sorted(self.unmeasured.items()))}


def probe(job: ProbeJob, windows: Windows | None = None) -> ProbeRecord:
    """Measure one cell in this process, and publish its record. Return the record in place afterwards, whatever its status.

    *windows* are the lengths of the timing, by default from its spec or its device.
    """
    facts = _ProbeFindings({"started_at": datetime.now(UTC).isoformat(timespec="milliseconds")})
    company = Company(job.card)
    status: Status = "ok"
    reason = None
    try:
        facts.fields["environment"] = describe_environment(job.spec.device)
        _measure(job, facts, windows)
    except UnsupportedPair as error:
        status, reason = "unsupported", str(error)
    except Exception as error:
        if is_disk_full(error):
            raise  # it tells nothing about the cell
        status, reason = "out_of_memory" if is_out_of_memory(error) else "failed", reason_of(error)
    others = company.seen()
    facts.fields["exclusive"] = None if others is None else not others
    if status in ("ok", "out_of_memory"):
        # Predicted even for a step that ran out of memory: this tells how much it would need.
        _predict(job, facts)
    return job.publish(job.record(status, reason, **facts.known()))


def make_model(job: ProbeJob, *, on_meta: bool = False, eager: bool = False) -> tuple[nn.Module, list[str]]:
    """Return the base model of a probe with its head, on the CPU or the meta device, and the names of the head's modules.

    Raises:
        UnsupportedPair: If it cannot be made as requested, for example with a missing kernel path of attention.
    """
    spec = job.spec
    attention = "eager" if eager else spec.attention
    try:
        model, head = load_model(
            job.base_model, kind=spec.kind, labels=spec.labels, attention=attention, on_meta=on_meta
        )
    except (LoraBenchError, ValueError, ImportError) as error:
        raise UnsupportedPair(reason_of(error)) from None
    config = model.config
    if config.pad_token_id is None:
        # A classifier on a causal model reads the last token that is not padding.
        config.pad_token_id = config.eos_token_id if isinstance(config.eos_token_id, int) else 0
    return model, head


def method_of(spec: ProbeSpec) -> Method:
    """Return the method of a probe with its options."""
    return known_methods()[spec.method.name](**spec.method.options)


def random_batch(model: nn.Module, spec: ProbeSpec, rows: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Return a batch of random tokens without padding, with labels.

    Returns:
        `input_ids`, `attention_mask` and the labels, each of the shape that `TaskKind.batch_shapes` gives it.
    """
    config: Any = model.config
    drawn = torch.Generator().manual_seed(SEED)
    shapes = find_kind(spec.kind).batch_shapes(rows, length, spec.labels)
    input_ids = torch.randint(config.vocab_size, shapes.pop("input_ids"), generator=drawn)
    input_ids[input_ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    batch = {"input_ids": input_ids, "attention_mask": torch.ones(shapes.pop("attention_mask"), dtype=torch.long)}
    labels = exercise_class(spec.kind).random_labels(input_ids, next(iter(shapes.values())), spec.labels, drawn)
    batch |= dict.fromkeys(shapes, labels)
    return {name: value.to(device) for name, value in batch.items()}


def _measure(job: ProbeJob, facts: _ProbeFindings, asked: Windows | None) -> None:
    """Measure every part of a probe that uses the model itself, in order."""
    spec = job.spec
    device = torch.device(spec.device)
    windows = asked or windows_for(device, spec.seconds)
    torch.set_num_threads(spec.threads)
    torch.manual_seed(SEED)
    facts.fields["settings"] = _settings(device)
    if spec.precision == "bfloat16" and device.type == "cuda" and not has_bfloat16():
        raise UnsupportedPair("the device has no bfloat16")

    return_freed_memory()
    memory = PeakMemory(device)
    memory.take()
    peaks: dict[str, int | None] = dict.fromkeys(PhasePeaks.model_fields.keys() - {"kind"})
    peaks["start_bytes"] = memory.now()
    base, head = make_model(job)
    longest = longest_input(base)
    if longest is not None and spec.length > longest:
        raise UnsupportedPair(f"the model takes at most {longest} tokens, and {spec.length} are asked for")
    total = sum(weight.numel() for weight in base.parameters())
    model = method_of(spec).apply(base, head=head).to(device)
    facts.fields["parameters"] = count_parameters(model, head=head, total=total)
    peaks["load_bytes"] = memory.take()
    try:
        _train(job, facts, model, memory, peaks, windows)
        _store(job, facts, model, head, memory, peaks)
    finally:
        facts.fields["phases"] = PhasePeaks(kind=memory.kind, **peaks)
    for name, peak in peaks.items():
        if peak is None:
            facts.unmeasured.setdefault(
                f"phases.{name}", facts.unmeasured.get("checkpoint", "the system does not tell")
            )
    facts.take(
        "inference",
        lambda: inference(
            spec,
            model,
            lambda: make_model(job)[0],
            lambda rows, length: random_batch(model, spec, rows, length, device),
            longest,
            windows.passes,
            facts.unmeasured,
        ),
    )


def _settings(device: torch.device) -> dict[str, JsonValue]:
    """Return settings that numbers may depend on, beyond the spec and the versions of packages."""
    settings: dict[str, JsonValue] = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
    if device.type == "cuda":
        settings["cudnn_allow_tf32"] = bool(torch.backends.cudnn.allow_tf32)
        settings["allocator"] = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
    else:
        settings["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return settings


def _train(
    job: ProbeJob,
    facts: _ProbeFindings,
    model: nn.Module,
    memory: PeakMemory,
    peaks: dict[str, int | None],
    windows: Windows,
) -> None:
    """Measure the speed and memory of training steps."""
    spec, device = job.spec, torch.device(job.spec.device)
    step = TrainingStep(model, random_batch(model, spec, spec.batch_size, spec.length, device), spec.precision)
    step.whole()
    peaks["first_step_bytes"] = memory.take()
    energy = EnergyMeter(job.card)
    speed = facts.fields["speed"] = step_speed(step, device, windows, energy)
    if energy.joules is None:
        facts.unmeasured["energy"] = energy.reason or "the driver does not tell"
    else:
        facts.fields["energy"] = Energy(joules=energy.joules, joules_per_step=energy.joules / speed.timed_steps)
    _note_held(peaks, facts, job, device)
    peaks["steady_bytes"] = memory.take()
    if spec.wide_tokens is not None:
        rows = -(-spec.wide_tokens // spec.length)
        facts.take(
            "wide",
            lambda: step_speed(
                TrainingStep(model, random_batch(model, spec, rows, spec.length, device), spec.precision),
                device,
                windows,
            ),
        )
    else:
        facts.unmeasured["wide"] = "not asked for"
    for part in ("speed", "wide"):
        if part in facts.fields and facts.fields[part].host_bound_share is None:
            facts.unmeasured[f"{part}.host_bound_share"] = HOST_IS_DEVICE if device.type == "cpu" else NOT_TRACED
    facts.take("measured", lambda: _measured_bytes(step, device, peaks))
    return_freed_memory()
    memory.take()
    model.eval()
    with torch.no_grad():
        step.forward()
    peaks["evaluation_bytes"] = memory.take()


def _store(
    job: ProbeJob,
    facts: _ProbeFindings,
    model: nn.Module,
    head: list[str],
    memory: PeakMemory,
    peaks: dict[str, int | None],
) -> None:
    """Measure the stored files of the adapted model, and the time to restore it."""

    def saved() -> None:
        peaks["saving_bytes"] = memory.take()

    return_freed_memory()
    memory.take()
    with tempfile.TemporaryDirectory() as folder:
        facts.take(
            "checkpoint",
            lambda: checkpoint(
                model,
                head,
                Path(folder),
                lambda: make_model(job)[0],
                torch.device(job.spec.device),
                saved,
                facts.unmeasured,
            ),
        )


def _note_held(peaks: dict[str, int | None], facts: _ProbeFindings, job: ProbeJob, device: torch.device) -> None:
    """Record memory outside the phases' peaks, right after the steps."""
    import psutil

    if device.type == "cuda":
        peaks["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        used = None if job.card is None else used_bytes(job.card)
        if used is None or job.idle_bytes is None:
            facts.unmeasured["phases.device_bytes"] = "the driver does not tell"
        else:
            peaks["device_bytes"] = used - job.idle_bytes
    else:
        of_devices = ("phases.reserved_bytes", "phases.device_bytes", "environment.driver")
        facts.unmeasured |= dict.fromkeys(of_devices, HOST_IS_DEVICE)
    own = psutil.Process()
    peaks["tree_bytes"] = sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))


def _measured_bytes(step: TrainingStep, device: torch.device, peaks: dict[str, int | None]) -> StepBytes:
    """Return the memory of a step: from the allocator of a CUDA device, or on a CPU by watching every storage."""
    if device.type != "cuda":
        return step_bytes(step)[0]
    weights, gradients = static_bytes(step.model)
    before = torch.cuda.memory_allocated(device)
    loss = step.forward()
    activations = torch.cuda.memory_allocated(device) - before
    del loss
    steady, start = peaks["steady_bytes"], peaks["start_bytes"]
    return StepBytes(
        weight_bytes=weights,
        gradient_bytes=gradients,
        optimizer_bytes=state_bytes(step.optimizer),
        activation_bytes=activations,
        peak_bytes=steady - start if steady is not None and start is not None else None,
    )


def _predict(job: ProbeJob, facts: _ProbeFindings) -> None:
    """Predict the memory and FLOPs of the step, from its shapes alone."""
    spec = job.spec
    kind = find_kind(spec.kind)
    batch = kind.batch_shapes(spec.batch_size, spec.length, spec.labels)

    def predict(eager: bool, fused: bool) -> tuple[StepBytes, Flops]:
        model, head = make_model(job, on_meta=True, eager=eager)
        return predict_step(
            method_of(spec).apply(model, head=head), batch, spec.precision, fused_attention=fused, real=kind.real_labels
        )

    fused = spec.device == "cuda" and spec.attention != "eager"
    facts.take("predicted", lambda: predict(eager=False, fused=fused)[0])
    # A fused kernel would hide its matrix products from the counter.
    facts.take("flops", lambda: predict(eager=True, fused=False)[1])
