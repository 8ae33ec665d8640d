"""A training step with fixed shapes and the time of its parts, without the Trainer's work, which is alike for all methods."""

import contextlib
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lora_bench.records.probe_record import StepSpeed
from lora_bench.records.spec import Precision
from lora_bench.training.measure.counters import DeviceClock, quantile

LEARNING_RATE = 1e-5
MAX_GRAD_NORM = 1.0
# Number of profiled steps over which a share of the wall time is measured.
PROFILED_STEPS = 5


@dataclass(frozen=True)
class Window:
    """Length of a repetition: until *enough* repeats or so many seconds, or *both*, but *at_least* some repeats."""

    at_least: int
    enough: int
    seconds: float
    both: bool = False

    def is_over(self, repeats: int, seconds: float) -> bool:
        """Return True if it ends after so many repeats in so many seconds."""
        reached = (repeats >= self.enough, seconds >= self.seconds)
        return repeats >= self.at_least and (all(reached) if self.both else any(reached))


@dataclass(frozen=True)
class Windows:
    """Lengths of the warm-up, of timed steps, and of timed forward passes in a probe's process."""

    warmup: Window
    timed: Window
    passes: Window


# Short enough for a laptop, and long enough for the median of a step.
CPU_WINDOWS = Windows(warmup=Window(2, 2, 0.0, both=True), timed=Window(5, 50, 10.0), passes=Window(3, 50, 2.0))
# A device needs seconds to reach its clock speed, and small steps vary more; of large steps a few suffice.
CUDA_WINDOWS = Windows(warmup=Window(5, 5, 3.0, both=True), timed=Window(5, 100, 20.0), passes=Window(5, 100, 5.0))


def windows_for(device: torch.device, seconds: float | None = None) -> Windows:
    """Return the lengths of measurement on a device, of at most *seconds*; forward passes get no more time than steps."""
    windows = CUDA_WINDOWS if device.type == "cuda" else CPU_WINDOWS
    if seconds is None:
        return windows
    passes = replace(windows.passes, seconds=min(seconds, windows.passes.seconds))
    return replace(windows, timed=replace(windows.timed, seconds=seconds), passes=passes)


class TrainingStep:
    """The parts of one optimiser step of a model in training mode, on a batch with labels; "bfloat16" is by autocast."""

    def __init__(self, model: nn.Module, batch: dict[str, Tensor], precision: Precision) -> None:
        self.model = model.train()
        self.batch = batch
        self.precision = precision
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LEARNING_RATE, fused=True)

    def forward(self) -> Tensor:
        """Compute the loss."""
        device = next(iter(self.batch.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss: Tensor = self.model(**self.batch).loss
        return loss

    def update(self) -> None:
        """Clip the gradients, update the weights, and free the gradients."""
        nn.utils.clip_grad_norm_(self.trained, MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def whole(self) -> None:
        """Do one step."""
        self.forward().backward()
        self.update()


def repeat(do: Callable[[], None], window: Window) -> int:
    """Call *do* until a window is over. Return the number of calls."""
    began, repeats = time.perf_counter(), 0
    while not window.is_over(repeats, time.perf_counter() - began):
        do()
        repeats += 1
    return repeats


def time_passes(do: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, its work on the device included."""
    clock = DeviceClock(device)
    clock.wait()
    began = time.perf_counter()
    do()
    clock.wait()
    return time.perf_counter() - began


def step_speed(
    step: TrainingStep,
    device: torch.device,
    windows: Windows,
    meanwhile: contextlib.AbstractContextManager[object] | None = None,
) -> StepSpeed:
    """Warm up, then time steps and their parts.

    A step lasts from its begin to that of the next, so it includes the time in which the device waits for Python. *meanwhile*
    is entered when the first timed step begins, and left when the device has finished the last.
    """
    warmup = repeat(step.whole, windows.warmup)
    clock, marks = DeviceClock(device), []
    clock.wait()

    def marked() -> None:
        marks.append(clock.mark())
        loss = step.forward()
        marks.append(clock.mark())
        loss.backward()
        del loss
        marks.append(clock.mark())
        step.update()

    with _no_collection(), meanwhile or contextlib.nullcontext():
        timed = repeat(marked, windows.timed)
        marks.append(clock.mark())
        clock.wait()
    seconds = [clock.seconds(earlier, later) for earlier, later in itertools.pairwise(marks)]
    parts = [seconds[part::3] for part in range(3)]
    steps = [sum(parts) for parts in zip(*parts, strict=True)]
    rows, tokens = len(step.batch["input_ids"]), step.batch["input_ids"].numel()
    median = statistics.median(steps)
    return StepSpeed(
        batch_size=rows,
        warmup_steps=warmup,
        timed_steps=timed,
        step_seconds_median=median,
        step_seconds_p90=quantile(steps, 0.9),
        forward_seconds=statistics.median(parts[0]),
        backward_seconds=statistics.median(parts[1]),
        optimizer_seconds=statistics.median(parts[2]),
        examples_per_second=rows * timed / sum(steps),
        real_tokens_per_second=tokens * timed / sum(steps),
        host_bound_share=_host_bound_share(step, median) if device.type == "cuda" else None,
    )


def _host_bound_share(step: TrainingStep, step_seconds: float) -> float | None:
    """Return the share of a step in which no kernel ran: 1 less the profiled kernels' time over the unprofiled step's.

    Profiling slows the host part of a step but not its kernels, so kernels are compared with the unprofiled step.
    Where the profiler may not trace kernels, as without the rights that CUPTI asks for, it returns none: the share is None.
    """
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(PROFILED_STEPS):
            step.whole()
        torch.cuda.synchronize()
    # Named ranges, such as the optimiser's step, are on the device's timeline too. They are no kernels, and span the gaps.
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    if not kernels:
        return None
    busy = covered(kernels) / 1e6 / PROFILED_STEPS
    return min(1.0, max(0.0, 1.0 - busy / step_seconds))


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans, because kernels on several streams may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Switch Python's garbage collector off in this block: it would slow some steps and not others."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
