"""How much a run cost: parameters, seconds and bytes.

A step is timed from its begin to its end, after a warm-up, so loading, evaluating and saving are not in it. Memory is a peak
per phase: on a CUDA device what the allocator handed out, on a CPU the resident set of the process. What the system does
not tell is None.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_bench.record import CountedParameters, Memory, Speed

if TYPE_CHECKING:
    from torch.optim import Optimizer

Phase = Literal["load", "first_step", "steady", "evaluation"]

# The first steps pay for lazy allocation and the first use of each kernel.
WARMUP_STEPS = 3


def count_parameters(model: nn.Module, *, head: list[str], total: int) -> CountedParameters:
    """Count the weights of an adapted model.

    Args:
        model: The model after the method was applied.
        head: Names of the head's modules in the base model.
        total: Weights of the base model with its head, counted before the method was applied.
    """
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    in_head = sum(count for name, count in trained.items() if _is_in(name, head))
    everything = sum(trained.values())
    return CountedParameters(
        total=total,
        adapter=everything - in_head,
        head=in_head,
        trained=everything,
        stored=_stored(model) if isinstance(model, PeftModel) else everything,
    )


def _stored(model: PeftModel) -> int:
    """Weights in the files that `save_pretrained` writes.

    Not what is trained: a reparameterised prefix is folded into less, and VeRA's frozen projections are saved too.
    """
    count = 0
    for name, config in model.peft_config.items():
        # PEFT would look this name up on the hub, to see whether the vocabulary was extended, which no run does.
        base_model, config.base_model_name_or_path = config.base_model_name_or_path, None
        try:
            with _LeaveOnMeta():
                saved = get_peft_model_state_dict(model, adapter_name=name)
        finally:
            config.base_model_name_or_path = base_model
        count += sum(weight.numel() for weight in saved.values())
    return count


class _LeaveOnMeta(TorchFunctionMode):
    """Leaves on the meta device what PEFT would bring to the CPU: prompts have shapes there, and no numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cpu and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _is_in(name: str, head: list[str]) -> bool:
    """Whether a weight of an adapted model belongs to the head.

    PEFT puts its own names around the base model's: `base_model.model.classifier.modules_to_save.default.dense.weight`.
    """
    dotted = f".{name}"
    return any(f".{module}." in dotted for module in head)


class PeakMemory:
    """The peak of memory since it was last asked, on the device that trains."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind: Literal["allocated", "resident"] = "allocated" if device.type == "cuda" else "resident"

    def now(self) -> int | None:
        """Bytes held at this moment."""
        if self.device.type == "cuda":
            return int(torch.cuda.memory_allocated(self.device))
        return _status_bytes("VmRSS")

    def take(self) -> int | None:
        """The peak in bytes since the last call, or None where the system does not tell."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        peak = _status_bytes("VmHWM")
        try:
            # Linux sets the peak of the resident set back to its present size.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        return peak


def return_freed_memory() -> None:
    """Give what earlier runs of this process freed back to the system, lest a peak hide in it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(key: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith(f"{key}:")), None)
    return int(line.split()[1]) * 1024 if line else None


class BenchmarkCallback(TrainerCallback):
    """Times steps and takes memory peaks inside a `transformers.Trainer`.

    Args:
        exclusive: Whether nothing else runs on the device or machine meanwhile.
        warmup_steps: Steps that are not timed.
    """

    def __init__(self, *, exclusive: bool = True, warmup_steps: int = WARMUP_STEPS) -> None:
        self.exclusive = exclusive
        self.warmup_steps = warmup_steps
        self.step_seconds: dict[int, float] = {}
        self.peaks: dict[Phase, int | None] = {}
        self.start_bytes: int | None = None
        self.train_seconds = 0.0
        self.earlier_seconds = 0.0
        self.optimizer_bytes: int | None = None
        self._memory: PeakMemory | None = None
        self._step_began = 0.0
        self._train_began = 0.0

    def begin(self, device: torch.device) -> None:
        """Begin to measure, before the base model is loaded."""
        return_freed_memory()
        self._memory = PeakMemory(device)
        self._memory.take()
        self.start_bytes = self._memory.now()

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Within this block nothing counts as training: neither its time nor its memory."""
        self.take("steady")
        began = time.perf_counter()
        try:
            yield
        finally:
            self._train_began += time.perf_counter() - began
            if self._memory is not None:
                self._memory.take()

    def take(self, phase: Phase) -> None:
        """Note the peak since the last one was taken as that of *phase*, where it is the highest of that phase."""
        if self._memory is None:
            return
        peak, before = self._memory.take(), self.peaks.get(phase)
        self.peaks[phase] = peak if before is None else before if peak is None else max(before, peak)

    def seconds_so_far(self) -> float:
        """Seconds of training until now, with those of the run that this one goes on from."""
        return self.earlier_seconds + time.perf_counter() - self._train_began

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Start the clock of training."""
        if self._memory is None:
            self.begin(args.device)
        self.take("load")
        self._train_began = time.perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Start the clock of a step."""
        _synchronise(args.device)
        self._step_began = time.perf_counter()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer | None = None,
        **inside: Any,
    ) -> None:
        """Stop the clock of a step."""
        _synchronise(args.device)
        self.step_seconds[state.global_step] = time.perf_counter() - self._step_began
        if len(self.step_seconds) == 1:
            self.take("first_step")
            # The states exist from the first step on.
            self.optimizer_bytes = _state_bytes(optimizer) if optimizer is not None else None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Stop the clock of training."""
        self.train_seconds = self.seconds_so_far()
        self.take("steady")

    def memory(self, model: nn.Module) -> Memory:
        """The peaks of each phase, and the exact static part."""
        kind = self._memory.kind if self._memory is not None else "resident"
        return Memory(
            kind=kind,
            exclusive=self.exclusive,
            start_bytes=self.start_bytes,
            load_bytes=self.peaks.get("load"),
            first_step_bytes=self.peaks.get("first_step"),
            steady_bytes=self.peaks.get("steady") if len(self.step_seconds) > 1 else None,
            evaluation_bytes=self.peaks.get("evaluation"),
            weight_bytes=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
            gradient_bytes=sum(
                weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad
            ),
            optimizer_bytes=self.optimizer_bytes,
        )

    def speed(
        self, *, step_examples: list[int], step_tokens: list[int], load_seconds: float, evaluation_seconds: float | None
    ) -> Speed:
        """How fast the steps were.

        Args:
            step_examples: Examples of each step, the first step first.
            step_tokens: Real tokens of each step, without padding.
            load_seconds: Time to load the base model and apply the method.
            evaluation_seconds: Time to score, or None where nothing was scored.
        """
        timed = sorted(self.step_seconds)[self.warmup_steps :]
        seconds = [self.step_seconds[step] for step in timed]
        whole = sum(seconds)
        return Speed(
            exclusive=self.exclusive,
            warmup_steps=min(self.warmup_steps, len(self.step_seconds)),
            timed_steps=len(timed),
            step_seconds_median=statistics.median(seconds) if seconds else None,
            step_seconds_p90=_quantile(seconds, 0.9),
            examples_per_second=sum(step_examples[step - 1] for step in timed) / whole if whole else None,
            real_tokens_per_second=sum(step_tokens[step - 1] for step in timed) / whole if whole else None,
            train_real_tokens=sum(step_tokens),
            train_seconds=self.train_seconds,
            evaluation_seconds=evaluation_seconds,
            load_seconds=load_seconds,
        )


def _synchronise(device: torch.device) -> None:
    """Wait for the device, so that the clock covers its work and not only its launch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the optimiser's state tensors."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def _quantile(values: list[float], share: float) -> float | None:
    """The smallest value that at least *share* of the values do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
