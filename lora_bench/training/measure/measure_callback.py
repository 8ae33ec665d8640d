"""Costs of training, measured inside a `transformers.Trainer`: seconds of steps, and peaks of memory for each phase.

The harness uses `MeasureCallback` in its runs, and `lora_bench.plugin.benchmark_callback.BenchmarkCallback` uses it for records
of users' own scripts.

A step is timed from its begin to its end, after a warm-up, so loading, evaluating and saving are excluded.
"""

import contextlib
import statistics
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from lora_bench.errors import typed_line
from lora_bench.records.record import Memory, Speed
from lora_bench.training.measure.counters import (
    DeviceClock,
    PeakMemory,
    bytes_of,
    quantile,
    return_freed_memory,
    state_bytes,
)

FoundT = TypeVar("FoundT")
Phase = Literal["load", "first_step", "steady", "evaluation", "save"]

MEMORY_IN_USE = "the memory in use"

# The first steps include lazy allocation and the first use of each kernel.
WARMUP_STEPS = 3

# Number of steps whose points in time are kept before those that have passed are read.
MARKS_KEPT = 256


class StepClock:
    """Seconds of steps, waiting for the host included, from one point on a device to another, without making it wait."""

    def __init__(self, clock: DeviceClock) -> None:
        self._clock = clock
        self._seconds = array("d")
        # Points of steps that the device may not have finished.
        self._under_way: list[tuple[Any, Any]] = []
        self._began: Any = None

    def __len__(self) -> int:
        return len(self._seconds) + len(self._under_way)

    def begin(self) -> None:
        """Begin a step."""
        self._began = self._clock.mark()

    def end(self) -> None:
        """End a step."""
        self._under_way.append((self._began, self._clock.mark()))
        half = MARKS_KEPT // 2
        if len(self._under_way) >= MARKS_KEPT and self._clock.has_passed(self._under_way[half - 1][1]):
            self._read(half)

    def seconds(self) -> "array[float]":
        """Return the seconds of each step so far, in order."""
        if self._under_way:
            self._clock.wait()
            self._read(len(self._under_way))
        return self._seconds

    def _read(self, count: int) -> None:
        self._seconds.extend(self._clock.seconds(began, ended) for began, ended in self._under_way[:count])
        del self._under_way[:count]


@dataclass(frozen=True)
class WorkDone:
    """Examples, and their real tokens (without padding), if they can be counted."""

    examples: int | None
    tokens: int | None


class MeasureCallback(TrainerCallback):
    """Times steps and reads memory peaks inside a `transformers.Trainer`.

    Evaluations and checkpoints of the Trainer are separate phases and no part of training. Their begin is read from the
    Trainer's control, which says after a step what follows. *exclusive* says that nothing else runs on the device or machine
    meanwhile, and is None if unknown; steps of the warm-up are not timed.
    """

    def __init__(self, *, exclusive: bool | None = True, warmup_steps: int = WARMUP_STEPS) -> None:
        self.exclusive = exclusive
        self.warmup_steps = warmup_steps
        self.train_seconds: float | None = 0.0
        self.earlier_seconds = 0.0
        # At each score on the way.
        self.score_seconds: list[float] = []
        self._start_over()

    def _start_over(self) -> None:
        self.peaks: dict[Phase, int | None] = {}
        self.start_bytes: int | None = None
        self.optimizer_bytes: int | None = None
        self.unmeasured: list[str] = []
        self.clock = StepClock(DeviceClock(torch.device("cpu")))
        self.first_step: int | None = None
        self._memory: PeakMemory | None = None
        self._in_training = False
        self._train_began = 0.0
        self._last_step_ended = 0.0

    def begin(self, device: torch.device, *, base_bytes: int = 0) -> None:
        """Begin before the base model is loaded; *base_bytes*, left in memory by an earlier run, count as the run's own."""
        return_freed_memory()
        self._memory = memory = PeakMemory(device)
        self._peak()
        self.start_bytes = self.measured(MEMORY_IN_USE, memory.now)
        if self.start_bytes is not None and memory.kind == "resident":
            self.start_bytes = max(0, self.start_bytes - base_bytes)

    def measured(self, what: str, read: Callable[[], FoundT]) -> FoundT | None:
        """Return a measurement of *what*, or None with a sentence in `unmeasured`: no training ends for want of a number."""
        try:
            return read()
        except Exception as error:  # sharded and quantised weights and allocators of one's own raise what they like
            said = f"{what} cannot be measured: {typed_line(error)}"
            if said not in self.unmeasured:
                self.unmeasured.append(said)
            return None

    def _peak(self) -> int | None:
        return None if self._memory is None else self.measured(MEMORY_IN_USE, self._memory.take)

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Exclude the time and memory of this block from training."""
        self.take("steady")
        began = time.perf_counter()
        try:
            yield
        finally:
            self._train_began += time.perf_counter() - began
            self._peak()

    def take(self, phase: Phase) -> None:
        """Record the peak since the last reading for *phase*, if it is the highest of that phase."""
        if self._memory is None:
            return
        peak, before = self._peak(), self.peaks.get(phase)
        self.peaks[phase] = peak if before is None else before if peak is None else max(before, peak)

    def seconds_so_far(self) -> float:
        """Return the seconds of training so far, with those before a resumption."""
        return self.earlier_seconds + time.perf_counter() - self._train_began

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        if self._memory is None:
            self.begin(args.device)
        self.take("load")
        self.clock = StepClock(DeviceClock(args.device))
        self._train_began = self._last_step_ended = time.perf_counter()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        if not self._in_training:
            self._peak()
            self._in_training = True
        self.clock.begin()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Stop the clock of a step, and that of training if something else follows."""
        self.clock.end()
        self._last_step_ended = time.perf_counter()
        if self.first_step is None:
            self.first_step = state.global_step
            self.take("first_step")
            # The optimiser's states exist from the first step on.
            if (optimizer := inside.get("optimizer")) is not None:
                self.optimizer_bytes = self.measured("the optimiser's memory", lambda: state_bytes(optimizer))
        self._pause(control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        self._pause(control)

    def _pause(self, control: TrainerControl) -> None:
        if self._in_training and (control.should_evaluate or control.should_save):
            if len(self.clock) > 1:
                self.take("steady")
            self._in_training = False

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        self._left("evaluation")

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        self._left("save")

    def _left(self, phase: Phase) -> None:
        """Exclude the work since the last step.

        If another callback asked for it after `_pause`, its peak cannot be separated from that of the steps before. The peak
        then counts for *phase*, so that an evaluation never sets the peak of training.
        """
        self.take(phase)
        self._in_training = False
        now = time.perf_counter()
        self._train_began += now - self._last_step_ended
        self._last_step_ended = now

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        self.train_seconds = self.seconds_so_far()
        self.take("steady")

    def memory(self, model: nn.Module | None) -> Memory:
        """Return the peaks of each phase, and the exact static part if *model* is given."""
        kind = self._memory.kind if self._memory is not None else "resident"
        weights = [] if model is None else [*model.parameters()]

        def held(of: Iterable[nn.Parameter]) -> int | None:
            return self.measured("the memory of weights", lambda: sum(map(bytes_of, of))) if weights else None

        return Memory(
            kind=kind,
            exclusive=self.exclusive,
            start_bytes=self.start_bytes,
            load_bytes=self.peaks.get("load"),
            first_step_bytes=self.peaks.get("first_step"),
            steady_bytes=self.peaks.get("steady") if len(self.clock) > 1 else None,
            evaluation_bytes=self.peaks.get("evaluation"),
            save_bytes=self.peaks.get("save"),
            weight_bytes=held(weights),
            gradient_bytes=held(one for one in weights if one.requires_grad),
            optimizer_bytes=self.optimizer_bytes,
        )

    def speed_of_batches(
        self,
        *,
        step_examples: list[int],
        step_tokens: list[int],
        load_seconds: float,
        evaluation_seconds: float | None,
        train_flops: int | None = None,
    ) -> Speed:
        """Return the speed of the steps of a run whose batches are known: examples and real tokens of each step, in order."""
        first = (self.first_step or 1) + self.warmup_steps - 1
        timed = slice(first, first + max(0, len(self.clock) - self.warmup_steps))
        return self.speed(
            done=WorkDone(sum(step_examples), sum(step_tokens)),
            timed=WorkDone(sum(step_examples[timed]), sum(step_tokens[timed])),
            steps=len(step_examples),
            load_seconds=load_seconds,
            evaluation_seconds=evaluation_seconds,
        ).model_copy(update={"train_flops": train_flops})

    def speed(
        self,
        *,
        done: WorkDone,
        timed: WorkDone,
        steps: int,
        load_seconds: float | None,
        evaluation_seconds: float | None,
    ) -> Speed:
        """Return the speed of the steps; *timed* is the work of those after the warm-up. Unknown times are None."""
        seconds = list(self.clock.seconds()[self.warmup_steps :])
        whole = sum(seconds)

        def rate(amount: int | None) -> float | None:
            return amount / whole if amount is not None and whole else None

        return Speed(
            exclusive=self.exclusive,
            warmup_steps=min(self.warmup_steps, len(self.clock)),
            timed_steps=len(seconds),
            step_seconds_median=statistics.median(seconds) if seconds else None,
            step_seconds_p90=quantile(seconds, 0.9) if seconds else None,
            examples_per_second=rate(timed.examples),
            real_tokens_per_second=rate(timed.tokens),
            train_real_tokens=done.tokens,
            train_seconds=self.train_seconds,
            evaluation_seconds=evaluation_seconds,
            load_seconds=load_seconds,
            train_steps=steps,
            train_examples=done.examples,
            score_seconds=tuple(round(one, 3) for one in self.score_seconds) or None,
        )
