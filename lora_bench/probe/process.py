"""One process of a probe, from its job to its record.

The cell is measured alone, in a fresh process, with fixed shapes and random tokens. Training comes first, while memory is
unfragmented; then storage, and the costs in use. A part that cannot be measured is null with its reason, and the other parts
are still measured.
"""

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.kinds import find_kind
from lora_bench.kinds.exercises import exercise_class
from lora_bench.methods import Method, known_methods
from lora_bench.models.base_precision import checkpoint_layers, meet
from lora_bench.models.chunked_loss import chunk_loss
from lora_bench.models.loading import load_model, longest_input
from lora_bench.probe.device import HOST_IS_DEVICE, Company, EnergyMeter, has_bfloat16, used_bytes
from lora_bench.probe.inference import NO_MEMORY, NOT_TRACED, checkpoint, inference, is_out_of_memory, reason_of
from lora_bench.probe.probe_job import ProbeJob
from lora_bench.records.environment import describe_environment
from lora_bench.records.outcomes import is_disk_full
from lora_bench.records.probe_record import CheckpointSize, Energy, Flops, PhasePeaks, ProbeRecord, ProbeSpec, StepBytes
from lora_bench.records.record import Status
from lora_bench.training.measure.bare_step import TrainingStep, Windows, step_speed, windows_for
from lora_bench.training.measure.counters import PeakMemory, count_parameters, return_freed_memory, state_bytes
from lora_bench.training.measure.step_bytes import predict_step, static_bytes, step_bytes

SEED = 0


class ProbeAtWork:
    """A probe at work, with its measurements so far; one that fails leaves those it had."""

    def __init__(self, job: ProbeJob, windows: Windows | None) -> None:
        self.job, self.spec = job, job.spec
        self.device = torch.device(job.spec.device)
        self.windows = windows or windows_for(self.device, job.spec.seconds)
        self.fields: dict[str, Any] = {"started_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self.unmeasured: dict[str, str] = {}
        self.memory = PeakMemory(self.device)
        self.peaks: dict[str, int | None] = dict.fromkeys(PhasePeaks.model_fields.keys() - {"kind"})

    def take(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure a part that the others do not need; null with its reason if that fails."""
        try:
            self.fields[name] = measure()
        except Exception as error:  # any failure of a method or a library becomes a reason, and the probe goes on
            self.unmeasured[name] = NO_MEMORY if is_out_of_memory(error) else reason_of(error)

    def measure(self) -> None:
        """Measure every part that uses the model itself, in order."""
        spec, device, memory, peaks = self.spec, self.device, self.memory, self.peaks
        torch.set_num_threads(spec.threads)
        torch.manual_seed(SEED)
        self.fields["settings"] = _settings(device)
        if spec.precision == "bfloat16" and device.type == "cuda" and not has_bfloat16():
            raise UnsupportedPair("the device has no bfloat16")

        return_freed_memory()
        memory.take()
        peaks["start_bytes"] = memory.now()
        base, head = make_model(self.job)
        longest = longest_input(base)
        if longest is not None and spec.length > longest:
            raise UnsupportedPair(f"the model takes at most {longest} tokens, and {spec.length} are asked for")
        total = sum(weight.numel() for weight in base.parameters())
        model = method_of(spec).apply(base, head=head)
        met(model, head, spec)
        model.to(device)
        self.fields["parameters"] = count_parameters(model, head=head, total=total)
        peaks["load_bytes"] = memory.take()
        try:
            self._train(model)
            self._store(model, head)
        finally:
            self.fields["phases"] = PhasePeaks(kind=memory.kind, **peaks)
        unknown = self.unmeasured.get("checkpoint", "the system does not tell")
        for name in (name for name, peak in peaks.items() if peak is None):
            self.unmeasured.setdefault(f"phases.{name}", unknown)

        def make_batch(rows: int, length: int) -> dict[str, Tensor]:
            return random_batch(model, spec, rows, length, device)

        def fresh() -> nn.Module:
            return make_model(self.job)[0]

        passes, unmeasured = self.windows.passes, self.unmeasured
        self.take("inference", lambda: inference(spec, model, fresh, make_batch, longest, passes, unmeasured))

    def _step(self, model: nn.Module, rows: int) -> TrainingStep:
        batch = random_batch(model, self.spec, rows, self.spec.length, self.device)
        return TrainingStep(model, batch, self.spec.precision)

    def _train(self, model: nn.Module) -> None:
        spec, device, memory, peaks = self.spec, self.device, self.memory, self.peaks
        step = self._step(model, spec.batch_size)
        step.whole()
        peaks["first_step_bytes"] = memory.take()
        energy = EnergyMeter(self.job.card)
        speed = self.fields["speed"] = step_speed(step, device, self.windows, energy)
        if energy.joules is None:
            self.unmeasured["energy"] = energy.reason or "the driver does not tell"
        else:
            self.fields["energy"] = Energy(joules=energy.joules, joules_per_step=energy.joules / speed.timed_steps)
        self._note_held()
        peaks["steady_bytes"] = memory.take()
        if spec.wide_tokens is not None:
            rows = -(-spec.wide_tokens // spec.length)
            self.take("wide", lambda: step_speed(self._step(model, rows), device, self.windows))
        else:
            self.unmeasured["wide"] = "not asked for"
        for part in ("speed", "wide"):
            if part in self.fields and self.fields[part].host_bound_share is None:
                self.unmeasured[f"{part}.host_bound_share"] = HOST_IS_DEVICE if device.type == "cpu" else NOT_TRACED
        self.take("measured", lambda: self._measured_bytes(step))
        return_freed_memory()
        memory.take()
        model.eval()
        with torch.no_grad():
            step.forward()
        peaks["evaluation_bytes"] = memory.take()

    def _store(self, model: nn.Module, head: list[str]) -> None:
        def saved() -> None:
            self.peaks["saving_bytes"] = self.memory.take()

        def measured() -> CheckpointSize:
            return checkpoint(
                model, head, Path(folder), lambda: make_model(self.job)[0], self.device, saved, self.unmeasured
            )

        return_freed_memory()
        self.memory.take()
        # A full disk ends the probe; only what fails inside is noted.
        with tempfile.TemporaryDirectory() as folder:
            self.take("checkpoint", measured)

    def _note_held(self) -> None:
        """Record memory outside the phases' peaks, right after the steps."""
        if self.device.type == "cuda":
            self.peaks["reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
            used = None if self.job.card is None else used_bytes(self.job.card)
            if used is None or self.job.idle_bytes is None:
                self.unmeasured["phases.device_bytes"] = "the driver does not tell"
            else:
                self.peaks["device_bytes"] = used - self.job.idle_bytes
        else:
            of_devices = ("phases.reserved_bytes", "phases.device_bytes", "environment.driver")
            self.unmeasured |= dict.fromkeys(of_devices, HOST_IS_DEVICE)
        own = psutil.Process()
        self.peaks["tree_bytes"] = sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))

    def _measured_bytes(self, step: TrainingStep) -> StepBytes:
        """Return the memory of a step: from the allocator of a CUDA device, or on a CPU by watching every storage."""
        if self.device.type != "cuda":
            return step_bytes(step)[0]
        weights, gradients = static_bytes(step.model)
        before = torch.cuda.memory_allocated(self.device)
        loss = step.forward()
        activations = torch.cuda.memory_allocated(self.device) - before
        del loss
        steady, start = self.peaks["steady_bytes"], self.peaks["start_bytes"]
        return StepBytes(
            weight_bytes=weights,
            gradient_bytes=gradients,
            optimizer_bytes=state_bytes(step.optimizer),
            activation_bytes=activations,
            peak_bytes=steady - start if steady is not None and start is not None else None,
        )

    def predict(self) -> None:
        """Predict the memory and FLOPs of the step, from its shapes alone."""
        spec, kind = self.spec, find_kind(self.spec.kind)
        batch = kind.batch_shapes(spec.batch_size, spec.length, spec.labels)

        def predicted(eager: bool, fused: bool) -> tuple[StepBytes, Flops]:
            model, head = make_model(self.job, on_meta=True, eager=eager)
            model = method_of(spec).apply(model, head=head)
            met(model, head, spec)
            return predict_step(model, batch, spec.precision, fused_attention=fused, real=kind.real_labels)

        fused = spec.device == "cuda" and spec.attention != "eager"
        self.take("predicted", lambda: predicted(eager=False, fused=fused)[0])
        # A fused kernel would hide its matrix products from the counter.
        self.take("flops", lambda: predicted(eager=True, fused=False)[1])


def probe(job: ProbeJob, windows: Windows | None = None) -> ProbeRecord:
    """Measure one cell in this process, for *windows* or as its spec says; publish its record, and return the one in place."""
    measuring = ProbeAtWork(job, windows)
    fields = measuring.fields
    company = Company(job.card)
    status: Status = "ok"
    reason = None
    try:
        fields["environment"] = describe_environment(job.spec.device)
        measuring.measure()
    except UnsupportedPair as error:
        status, reason = "unsupported", str(error)
    except Exception as error:
        if is_disk_full(error):
            raise  # it tells nothing about the cell
        status, reason = "out_of_memory" if is_out_of_memory(error) else "failed", reason_of(error)
    others = company.seen()
    fields["exclusive"] = None if others is None else not others
    if status in ("ok", "out_of_memory"):
        # Predicted even for a step that ran out of memory: this tells how much it would need.
        measuring.predict()
    unmeasured = dict(sorted(measuring.unmeasured.items()))
    return job.publish(job.record(status, reason, **fields, unmeasured=unmeasured))


def make_model(job: ProbeJob, *, on_meta: bool = False, eager: bool = False) -> tuple[nn.Module, list[str]]:
    """Return the base model with its head, on the CPU or meta device, and its head's modules, or raise UnsupportedPair."""
    spec = job.spec
    attention = "eager" if eager else spec.attention
    try:
        model, head = load_model(
            job.base_model, kind=spec.kind, labels=spec.labels, attention=attention, on_meta=on_meta,
            precision=spec.base_precision,
        )  # fmt: skip
    except (LoraBenchError, ValueError, ImportError) as error:
        raise UnsupportedPair(reason_of(error)) from None
    config = model.config
    if config.pad_token_id is None:
        # A classifier on a causal model reads the last token that is not padding.
        config.pad_token_id = config.eos_token_id if isinstance(config.eos_token_id, int) else 0
    return model, head


def met(model: nn.Module, head: list[str], spec: ProbeSpec) -> None:
    """Give an adapted model the types, the checkpointing and the loss of a probe's step, in place."""
    meet(model, head, spec.base_precision)
    if spec.gradient_checkpointing:
        checkpoint_layers(model)
    if find_kind(spec.kind).writes:
        chunk_loss(model, spec.batch_size * spec.length)


def method_of(spec: ProbeSpec) -> Method:
    """Return the method of a probe with its options."""
    return known_methods()[spec.method.name](**spec.method.options)


def random_batch(model: nn.Module, spec: ProbeSpec, rows: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Return random tokens without padding, their mask and labels, of the shapes that `TaskKind.batch_shapes` gives them."""
    config: Any = model.config
    drawn = torch.Generator().manual_seed(SEED)
    shapes = find_kind(spec.kind).batch_shapes(rows, length, spec.labels)
    input_ids = torch.randint(config.vocab_size, shapes.pop("input_ids"), generator=drawn)
    input_ids[input_ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    batch = {"input_ids": input_ids, "attention_mask": torch.ones(shapes.pop("attention_mask"), dtype=torch.long)}
    labels = exercise_class(spec.kind).random_labels(input_ids, next(iter(shapes.values())), spec.labels, drawn)
    batch |= dict.fromkeys(shapes, labels)
    return {name: value.to(device) for name, value in batch.items()}


def _settings(device: torch.device) -> dict[str, JsonValue]:
    """Return settings that numbers may depend on, beyond the spec and the versions of packages."""
    settings: dict[str, JsonValue] = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
    if device.type == "cuda":
        settings["cudnn_allow_tf32"] = bool(torch.backends.cudnn.allow_tf32)
        settings["allocator"] = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
    else:
        settings["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return settings
