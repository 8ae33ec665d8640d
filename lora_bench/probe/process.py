"""One process of a probe, from its job to its record.

The cell is measured alone, in a process that has done nothing else, with fixed shapes and random tokens. Training comes
first, on memory that nothing has fragmented yet; then what is stored, and what the adapted model costs in use. A part that
cannot be measured is null with its reason and takes nothing from the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lora_bench.environment import describe_environment
from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.measure import PeakMemory, count_parameters, return_freed_memory
from lora_bench.methods import Method, known_methods
from lora_bench.models import load_model
from lora_bench.probe.device import energy_joules, used_bytes
from lora_bench.probe.inference import inference
from lora_bench.probe.job import ProbeJob
from lora_bench.probe.step_bytes import optimizer_bytes as bytes_of_states
from lora_bench.probe.step_bytes import predict_step, static_bytes, step_bytes
from lora_bench.probe.steps import TrainingStep, Windows, step_speed, windows_for
from lora_bench.probe.stored import checkpoint
from lora_bench.probe_record import Energy, PhasePeaks, ProbeRecord, ProbeSpec, StepBytes

SEED = 0

FoundT = TypeVar("FoundT")

HOST_IS_DEVICE = "host and device are one"
NOT_ASKED = "not asked for"


@dataclass
class _Found:
    """What was measured so far; a probe that fails leaves what it had."""

    fields: dict[str, Any] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, measure: Callable[[], FoundT]) -> FoundT | None:
        """Measure a part that the others do not need; null with its reason where that fails."""
        try:
            self.fields[name] = measure()
        except torch.OutOfMemoryError:
            self.unmeasured[name] = "there is not the memory for it"
        except Exception as error:  # whatever a method or a library cannot do is a reason, and not the end of the probe
            self.unmeasured[name] = in_a_line(error)
        found: FoundT | None = self.fields.get(name)
        return found

    def known(self) -> dict[str, Any]:
        """As fields of a record."""
        return {**self.fields, "unmeasured": dict(sorted(self.unmeasured.items()))}


def probe(job: ProbeJob, windows: Windows | None = None) -> ProbeRecord:
    """Measure one cell in this process, and publish its record.

    Args:
        job: What to measure and where.
        windows: How long; by default as long as its device needs.

    Returns:
        The record that stands in the folder afterwards, whatever its status.
    """
    found = _Found({"started_at": datetime.now(UTC).isoformat(timespec="seconds")})
    found.fields["environment"] = describe_environment(job.spec.device)
    try:
        _measure(job, found, windows)
        return_freed_memory()
        _predict(job, found)
        record = job.record("ok", **found.known())
    except UnsupportedPair as reason:
        record = job.record("unsupported", str(reason), **found.known())
    except torch.OutOfMemoryError as error:
        record = job.record("out_of_memory", str(error).splitlines()[0], **found.known())
    except MemoryError:
        record = job.record("out_of_memory", "the machine has no memory left", **found.known())
    except Exception as error:
        record = job.record("failed", in_a_line(error), **found.known())
    return job.publish(record)


def in_a_line(error: Exception) -> str:
    """An error's first line, with its kind where that says more than the message does."""
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, LoraBenchError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def make_model(job: ProbeJob, *, on_meta: bool = False, eager: bool = False) -> tuple[nn.Module, list[str]]:
    """The base model of a probe with its head, on the CPU or the meta device, and the names of the head's modules.

    Raises:
        UnsupportedPair: If it cannot be made as asked, such as with a kernel path of attention that it has not.
    """
    spec = job.spec
    attention = "eager" if eager else spec.attention
    try:
        model, head = load_model(
            job.base_model, kind=spec.kind, labels=spec.labels, attention=attention, on_meta=on_meta
        )
    except (LoraBenchError, ValueError, ImportError) as error:
        raise UnsupportedPair(in_a_line(error)) from None
    config = model.config
    if config.pad_token_id is None:
        # A classifier on a causal model looks for the last token that is no padding.
        config.pad_token_id = config.eos_token_id if isinstance(config.eos_token_id, int) else 0
    return model, head


def method_of(spec: ProbeSpec) -> Method:
    """The method of a probe with its options."""
    return known_methods()[spec.method.name](**spec.method.options)


def random_batch(model: nn.Module, spec: ProbeSpec, rows: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Random tokens of which none is padding, with labels."""
    config: Any = model.config
    drawn = torch.Generator().manual_seed(SEED)
    first = max(token for token in (config.pad_token_id, config.bos_token_id, -1) if token is not None and token < 100)
    input_ids = torch.randint(first + 1, config.vocab_size - 1, (rows, length), generator=drawn)
    if spec.kind == "generation":
        labels = input_ids
    elif spec.kind == "regression":
        labels = torch.rand(rows, generator=drawn)
    else:
        labels = torch.randint(0, max(1, spec.labels), (rows,), generator=drawn)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {name: value.to(device) for name, value in batch.items()}


def _measure(job: ProbeJob, found: _Found, given: Windows | None) -> None:
    """Every part of a probe that takes the model itself, in order."""
    spec = job.spec
    device = torch.device(spec.device)
    windows = given or windows_for(device)
    torch.set_num_threads(spec.threads)
    torch.manual_seed(SEED)
    if spec.precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UnsupportedPair("the device has no bfloat16")

    return_freed_memory()
    memory = PeakMemory(device)
    memory.take()
    peaks: dict[str, int | None] = dict.fromkeys(PhasePeaks.model_fields.keys() - {"kind"})
    peaks["start_bytes"] = memory.now()
    base, head = make_model(job)
    total = sum(weight.numel() for weight in base.parameters())
    model = method_of(spec).apply(base, head=head).to(device)
    found.fields["parameters"] = count_parameters(model, head=head, total=total)
    peaks["load_bytes"] = memory.take()
    try:
        _train(job, found, model, memory, peaks, windows)
        _use(job, found, model, head, memory, peaks, windows)
    finally:
        found.fields["phases"] = PhasePeaks(kind=memory.kind, **peaks)


def _train(
    job: ProbeJob,
    found: _Found,
    model: nn.Module,
    memory: PeakMemory,
    peaks: dict[str, int | None],
    windows: Windows,
) -> None:
    """The steps: how fast they are, and what they hold."""
    spec, device = job.spec, torch.device(job.spec.device)
    step = TrainingStep(model, random_batch(model, spec, spec.batch_size, spec.length, device), spec.precision)
    step.whole()
    peaks["first_step_bytes"] = memory.take()
    before = energy_joules() if device.type == "cuda" else HOST_IS_DEVICE
    speed = found.fields["speed"] = step_speed(step, device, windows)
    _note_energy(found, before, speed.warmup_steps + speed.timed_steps)
    peaks["steady_bytes"] = memory.take()
    _note_held(peaks, found, job, device)
    if speed.host_bound_share is None:
        found.unmeasured["speed.host_bound_share"] = HOST_IS_DEVICE
    if spec.wide_tokens is not None:
        rows = -(-spec.wide_tokens // spec.length)
        batch = random_batch(model, spec, rows, spec.length, device)
        found.take("wide", lambda: step_speed(TrainingStep(model, batch, spec.precision), device, windows))
    else:
        found.unmeasured["wide"] = NOT_ASKED
    found.take("measured", lambda: _measured_bytes(step, device, peaks))
    return_freed_memory()
    memory.take()
    model.eval()
    with torch.no_grad():
        step.forward()
    peaks["evaluation_bytes"] = memory.take()


def _use(
    job: ProbeJob,
    found: _Found,
    model: nn.Module,
    head: list[str],
    memory: PeakMemory,
    peaks: dict[str, int | None],
    windows: Windows,
) -> None:
    """What is stored of the adapted model, and what it costs in use."""
    device = torch.device(job.spec.device)

    def base() -> nn.Module:
        return make_model(job)[0]

    def saved() -> None:
        peaks["saving_bytes"] = memory.take()

    with tempfile.TemporaryDirectory() as folder:
        return_freed_memory()
        memory.take()
        found.take("checkpoint", lambda: checkpoint(model, head, Path(folder), base, device, saved))
    found.take("inference", lambda: inference(job.spec, model, base, random_batch, windows, found.unmeasured))


def _note_energy(found: _Found, before: float | str, steps: int) -> None:
    after = energy_joules() if isinstance(before, float) else before
    if isinstance(before, float) and isinstance(after, float):
        joules = after - before
        found.fields["energy"] = Energy(joules=joules, joules_per_step=joules / steps)
    else:
        found.unmeasured["energy"] = str(after)


def _note_held(peaks: dict[str, int | None], found: _Found, job: ProbeJob, device: torch.device) -> None:
    """What is held beside the phases' peaks, right after the steps."""
    import psutil

    if device.type == "cuda":
        peaks["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        used = used_bytes()
        if used is None or job.idle_bytes is None:
            found.unmeasured["phases.device_bytes"] = "the driver does not tell"
        else:
            peaks["device_bytes"] = used - job.idle_bytes
    else:
        found.unmeasured |= {"phases.reserved_bytes": HOST_IS_DEVICE, "phases.device_bytes": HOST_IS_DEVICE}
    own = psutil.Process()
    peaks["tree_bytes"] = sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))


def _measured_bytes(step: TrainingStep, device: torch.device, peaks: dict[str, int | None]) -> StepBytes:
    """What a step holds: seen by the allocator of a CUDA device, or on a CPU by watching every storage."""
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
        optimizer_bytes=bytes_of_states(step.optimizer),
        activation_bytes=activations,
        peak_bytes=steady - start if steady is not None and start is not None else None,
    )


def _predict(job: ProbeJob, found: _Found) -> None:
    """What the step was to hold and to compute, from its shapes alone."""
    spec = job.spec

    def adapted(eager: bool) -> nn.Module:
        model, head = make_model(job, on_meta=True, eager=eager)
        return method_of(spec).apply(model, head=head)

    shape = (spec.batch_size, spec.length)
    labels: tuple[int, ...] = shape if spec.kind == "generation" else shape[:1]
    batch = {"input_ids": shape, "attention_mask": shape, "labels": labels}
    fused = spec.device == "cuda" and spec.attention != "eager"
    found.take("predicted", lambda: predict_step(adapted(False), batch, spec.precision, fused_attention=fused)[0])
    found.take("flops", lambda: predict_step(adapted(True), batch, spec.precision, fused_attention=False)[1])
