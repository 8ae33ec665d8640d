"""The measurements of a probe, and the JSON that each of its processes writes.

A probe has several processes, because steps within one process are more alike than steps of two. The process is the unit of
replication. A quantity that was not measured is null, and `unmeasured` says why. Units are in the names.
"""

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from lora_bench.documents import Strict
from lora_bench.kinds import ModelKind
from lora_bench.records.record import Environment, Parameters, Said, Status
from lora_bench.records.spec import AnyPrecision, Attention, MethodSpec, ModelSpec, Precision
from lora_bench.util.filenames import FileName
from lora_bench.util.hashing import content_hash
from lora_bench.util.sealed_json import with_seal

SCHEMA = 1

DeviceType = Literal["cpu", "cuda"]
State = Literal["unadapted", "adapted", "merged"]

PROBE_ID_LENGTH = 16


class ProbeSpec(Strict):
    """One cell of a probe: everything that its speed and memory depend on.

    Args:
        model: The base model.
        random_weights: True if it was built from its shape with random weights.
        kind: Kind of task that the model is for.
        labels: Number of classes.
        method: The method.
        batch_size: Examples in one step.
        length: Tokens of each example; none of them is padding.
        precision: "float32", or "bfloat16" by autocast.
        attention: The kernel path of attention, or None for the model's own choice.
        threads: CPU threads of the process.
        device: Device that trains.
        latency_shapes: (batch size, length) of the forward passes that are timed.
        wide_tokens: Tokens of a second, compute-bound step, or None for no such step.
        seconds: Limit of the timing, or None for as long as the device needs.
        base_precision: Type in which the base model is stored.
        gradient_checkpointing: True if layers are computed anew in the backward pass.
        spec_version: Raised whenever the same spec would measure something else.
    """

    model: ModelSpec
    random_weights: bool
    kind: ModelKind
    labels: int
    method: MethodSpec
    batch_size: int
    length: int
    precision: Precision
    attention: Attention | None
    threads: int
    device: DeviceType
    latency_shapes: tuple[tuple[int, int], ...]
    wide_tokens: int | None
    seconds: float | None = None
    base_precision: AnyPrecision = "float32"
    gradient_checkpointing: bool = False
    spec_version: int = 1

    @property
    def probe_id(self) -> str:
        """First 16 hexadecimal digits of the hash of everything that is measured, without display names."""
        content = self.model_dump(mode="json")
        for part, shown in (("method", "label"), ("method", "options"), ("model", "shown"), ("model", "name")):
            del content[part][shown]
        if self.seconds is None:
            del content["seconds"]
        if self.base_precision == "float32":
            del content["base_precision"]
        if not self.gradient_checkpointing:
            del content["gradient_checkpointing"]
        if self.model.family is None:
            del content["model"]["family"]
        return content_hash(content)[:PROBE_ID_LENGTH]

    @property
    def shown_precision(self) -> str:
        """Return the precision of a step for readers."""
        base = "" if self.base_precision == "float32" else f", base in {self.base_precision}"
        return f"{self.precision}{base}{', checkpointed' if self.gradient_checkpointing else ''}"


class StepSpeed(Strict):
    """Speed of the training steps of one process.

    Args:
        batch_size: Examples in one step.
        warmup_steps: Untimed steps, beside the very first, in which the optimiser allocates its states.
        timed_steps: Timed steps.
        step_seconds_median: Median over the timed steps (p50).
        step_seconds_p90: Their 90th percentile.
        forward_seconds: Median of the forward pass with its loss.
        backward_seconds: Median of the backward pass.
        optimizer_seconds: Median of clipping, the optimiser's step, and freeing the gradients.
        examples_per_second: All timed examples over all timed seconds.
        real_tokens_per_second: All timed tokens over all timed seconds.
        host_bound_share: Share of a step in which the device waited for Python; null if host and device are one, or if the
            profiler traced no kernel.
    """

    batch_size: int
    warmup_steps: int
    timed_steps: int
    step_seconds_median: float
    step_seconds_p90: float
    forward_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    examples_per_second: float
    real_tokens_per_second: float
    host_bound_share: float | None


class StepBytes(Strict):
    """Memory of a training step, in bytes.

    Args:
        weight_bytes: All weights and buffers of the adapted model, a shared one counted once.
        gradient_bytes: Gradients of the trained weights.
        optimizer_bytes: States of the optimiser.
        activation_bytes: Tensors that the forward pass keeps for the backward pass.
        peak_bytes: Most memory at one time: weights, optimiser states, and the rest that lives at the same time.
    """

    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int | None
    peak_bytes: int | None


class PhasePeaks(Strict):
    """Peaks of memory in bytes by phase.

    Args:
        kind: "allocated" is memory handed out by the CUDA allocator, "resident" the resident set of the process.
        start_bytes: Before the base model was loaded.
        load_bytes: While it was loaded and adapted.
        first_step_bytes: In the first step, in which the optimiser allocates its states.
        steady_bytes: In later steps.
        evaluation_bytes: In a forward pass without gradients, with the optimiser's states still in memory.
        saving_bytes: While a checkpoint was written.
        reserved_bytes: Memory reserved by the CUDA allocator in all, unused blocks included.
        device_bytes: Memory used on the device by its driver's count, less the use before the process began.
        tree_bytes: Resident set of the process and its children after the steps.
    """

    kind: Literal["allocated", "resident"]
    start_bytes: int | None
    load_bytes: int | None
    first_step_bytes: int | None
    steady_bytes: int | None
    evaluation_bytes: int | None
    saving_bytes: int | None
    reserved_bytes: int | None
    device_bytes: int | None
    tree_bytes: int | None


class Latency(Strict):
    """Forward passes without gradients at one shape, in one state of the model.

    Args:
        batch_size: Examples in one pass.
        length: Tokens of each example.
        state: "unadapted" is the base model, "adapted" has the method's modules, "merged" has them folded into the weights.
        passes: Number of timed passes.
        seconds_median: Their median (p50).
        seconds_p90: Their 90th percentile.
    """

    batch_size: int
    length: int
    state: State
    passes: int
    seconds_median: float
    seconds_p90: float


class Inference(Strict):
    """Costs of adaptation when the model is used.

    Args:
        latencies: By shape and state; states that the method lacks are left out.
        merged_difference: Greatest difference of an output between the merged and the adapted model.
        adapters_in_batch: Number of adapters that share one batch.
        mixed_batch_seconds: Median of a forward pass of such a batch, at the first shape with a row for each adapter.
        one_adapter_seconds: Median of the same batch with one adapter.
    """

    latencies: tuple[Latency, ...]
    merged_difference: float | None
    adapters_in_batch: int | None
    mixed_batch_seconds: float | None
    one_adapter_seconds: float | None


class CheckpointSize(Strict):
    """Size of the files that restore the result on the public base model, and time of a change of task (files cached).

    Args:
        stored_bytes: Size of the files on the disk.
        adapter_bytes: Share of the method's weights in them.
        head_bytes: Share of the head.
        restore_seconds: Loading the files onto a loaded base model: the way from one task to the next.
        switch_seconds: Activating another adapter that is already loaded; null if the method cannot do that.
        model_load_seconds: Loading the base model from its files.
    """

    stored_bytes: int
    adapter_bytes: int
    head_bytes: int
    restore_seconds: float | None
    switch_seconds: float | None
    model_load_seconds: float | None


class Flops(Strict):
    """Floating-point operations of the matrix products of a step with eager attention; a multiply-add counts as two.

    Args:
        forward: Forward pass.
        step: Forward and backward pass.
    """

    forward: int
    step: int


class Energy(Strict):
    """Energy that the device used from the first timed step to the last, idle draw included.

    Args:
        joules: All of it.
        joules_per_step: Its share for each timed step.
    """

    joules: float
    joules_per_step: float


class ProbeRecord(Strict):
    """The record of one process of a probe.

    Args:
        schema_version: Version of this layout.
        probe_id: Id of its cell: the hash of the spec.
        repeat: Number of the process, from 0.
        twin: True if it belongs to the cell that is measured a second time unchanged, which shows the noise.
        suite: Its suite.
        status: How it ended; only `ok` has measurements.
        reason: Why its status is not `ok`.
        spec: Everything that its speed and memory depend on.
        parameters: Numbers of weights.
        speed: Speed of training steps.
        wide: Speed of the second, compute-bound step.
        phases: Peaks of memory, by phase.
        measured: Memory of a training step, as the device or the allocator counts it.
        predicted: The same, computed from shapes before the run.
        inference: Costs when the model is used.
        checkpoint: Size of the files that restore the result.
        flops: Operations of a step.
        energy: Energy of the timed steps.
        unmeasured: Reason for each null, by the path of its field, such as `speed.host_bound_share`; a part that is null as a
            whole is there by its name. A state missing from `inference.latencies` is there as `inference.merged`, a missing
            shape as `inference.16x256`.
        exclusive: True if no other work was seen on the device meanwhile; null if the system does not tell, as in a
            container whose driver hides processes.
        settings: Other settings that numbers may depend on, such as `float32_matmul_precision`.
        command: Command that makes the record again.
        started_at: Start, in UTC (ISO 8601).
        environment: Machine and packages.
    """

    model_config = ConfigDict(populate_by_name=True, json_schema_extra=with_seal)

    schema_version: int = Field(alias="schema", default=SCHEMA)
    probe_id: FileName
    repeat: int
    twin: bool
    suite: str
    status: Status
    reason: Said | None = None
    spec: ProbeSpec
    parameters: Parameters | None = None
    speed: StepSpeed | None = None
    wide: StepSpeed | None = None
    phases: PhasePeaks | None = None
    measured: StepBytes | None = None
    predicted: StepBytes | None = None
    inference: Inference | None = None
    checkpoint: CheckpointSize | None = None
    flops: Flops | None = None
    energy: Energy | None = None
    unmeasured: dict[str, Said] = Field(default_factory=dict)
    exclusive: bool | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    command: Said
    started_at: str | None = None
    environment: Environment | None = None

    @property
    def run_id(self) -> str:
        """Unique name of this process, and of its file."""
        return probe_run_id(self.probe_id, self.repeat, self.twin)


def probe_run_id(probe_id: str, repeat: int, twin: bool) -> str:
    """Return the name of one process of a probe, such as `0123456789abcdef-0` or `0123456789abcdef-0-twin`."""
    return f"{probe_id}-{repeat}{'-twin' if twin else ''}"
