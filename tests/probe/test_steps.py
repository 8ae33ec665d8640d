"""Windows, quantiles, spans and the parts of a step, on numbers a reader can check by hand."""

import contextlib
import gc
import statistics

import pytest
import torch

from lora_bench.methods import known_methods
from lora_bench.training.measure import bare_step as steps
from lora_bench.training.measure import counters
from lora_bench.training.measure.bare_step import (
    CPU_WINDOWS,
    CUDA_WINDOWS,
    TrainingStep,
    Window,
    Windows,
    covered,
    quantile,
    repeat,
)
from tests.tiny import tiny_batch, tiny_roberta

CPU = torch.device("cpu")


def training_step() -> TrainingStep:
    model = known_methods()["lora"]().apply(tiny_roberta(), head=["classifier"])
    return TrainingStep(model, tiny_batch((8, 8), labels=True), "float32")


class Clock:
    """A clock that gives one time after another."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def perf_counter(self) -> float:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


# Windows.


@pytest.mark.parametrize(
    ("repeats", "seconds", "over"),
    [(2, 99.0, False), (5, 9.9, False), (5, 10.0, True), (49, 9.9, False), (50, 0.1, True)],
)
def test_fifty_repeats_or_ten_seconds_end_a_window_and_five_are_always_made(repeats, seconds, over):
    assert Window(at_least=5, enough=50, seconds=10.0).is_over(repeats, seconds) is over


@pytest.mark.parametrize(("repeats", "seconds", "over"), [(19, 9.0, False), (20, 2.9, False), (20, 3.0, True)])
def test_a_warm_up_takes_both_its_repeats_and_its_seconds(repeats, seconds, over):
    assert Window(at_least=20, enough=20, seconds=3.0, both=True).is_over(repeats, seconds) is over


def test_the_windows_are_those_of_the_documentation():
    assert CPU_WINDOWS.warmup == Window(2, 2, 0.0, both=True)
    assert CPU_WINDOWS.timed == Window(5, 50, 10.0)
    assert CUDA_WINDOWS.warmup == Window(5, 5, 3.0, both=True)
    assert CUDA_WINDOWS.timed == Window(5, 100, 20.0)
    assert steps.windows_for(CPU) == CPU_WINDOWS
    assert steps.windows_for(torch.device("cuda")) == CUDA_WINDOWS


def test_a_suite_may_give_other_seconds_and_passes_get_no_more_than_steps():
    short, long = steps.windows_for(CPU, 0.5), steps.windows_for(CPU, 60.0)
    assert (short.timed, short.passes) == (Window(5, 50, 0.5), Window(3, 50, 0.5))
    assert (long.timed, long.passes) == (Window(5, 50, 60.0), Window(3, 50, 2.0))


def test_something_is_repeated_until_its_window_is_over(monkeypatch):
    done = []
    monkeypatch.setattr(steps, "time", Clock(0.0, 0.0, 0.4, 0.8, 1.2))
    # Begun at 0; looked at after 0, 1, 2 and 3 repeats, at 0, 0.4, 0.8 and 1.2 seconds.
    assert repeat(lambda: done.append(1), Window(1, 10, 1.0)) == len(done) == 3


# Numbers.


def test_a_quantile_is_the_least_value_that_the_share_does_not_exceed():
    ten = [float(value) for value in range(10, 0, -1)]
    assert quantile(ten, 0.9) == 9.0  # nine of ten values are at most 9
    assert quantile(ten, 0.91) == 10.0
    assert quantile(ten, 0.5) == 5.0
    assert quantile(ten, 0.0) == 1.0
    assert quantile([7.0], 0.9) == 7.0


def test_overlapping_spans_are_covered_once():
    assert covered([]) == 0
    assert covered([(0, 10), (20, 25)]) == 15
    # 0 to 12 together, 11 lies inside; then 20 to 30 with one span inside the other
    assert covered([(5, 12), (0, 10), (10, 11), (20, 30), (22, 24)]) == 12 + 10


def test_the_host_bound_share_is_what_no_kernel_covers(monkeypatch):
    """Two kernels that overlap, a gap, a third; a named range over all of it is no kernel."""

    def event(start, end, device=torch.autograd.DeviceType.CUDA, named=False):
        span = type("Span", (), {"start": start, "end": end})
        return type("Event", (), {"device_type": device, "time_range": span, "is_user_annotation": named})

    happened = [
        event(0, 100), event(50, 150), event(350, 400), event(0, 900, named=True),
        event(0, 900, device=torch.autograd.DeviceType.CPU),
    ]  # fmt: skip
    profiled = type("Profile", (), {"events": lambda self: happened})()
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: contextlib.nullcontext(profiled))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(steps, "PROFILED_STEPS", 2)
    step = training_step()
    # 200 µs of kernels in two steps are 100 µs a step, of 400
    assert steps._host_bound_share(step, 400e-6) == pytest.approx(0.75)
    # Kernels that take longer than the step do not make the share negative.
    assert steps._host_bound_share(step, 50e-6) == 0.0
    # A profiler that traced no kernel, as without rights, says nothing about them.
    happened[:3] = []
    assert steps._host_bound_share(step, 400e-6) is None


# Steps.


def test_the_parts_of_a_step_add_up_to_it(monkeypatch):
    """Two steps of 1 + 2 + 3 and 2 + 4 + 6 seconds, the first looked at after the window's own clock."""
    windows = Windows(Window(0, 0, 0.0), Window(2, 2, 1e9), Window(1, 1, 0.0))
    # The warm-up's clock twice, the window's begin; then each look of the window and three marks a step; then the last mark.
    clock = Clock(0, 0, 0, 0, 10, 11, 13, 0, 16, 18, 22, 0, 28)
    monkeypatch.setattr(steps, "time", clock)
    monkeypatch.setattr(counters, "time", clock)
    found = steps.step_speed(training_step(), CPU, windows)
    assert (found.warmup_steps, found.timed_steps, found.batch_size) == (0, 2, 2)
    assert found.forward_seconds == statistics.median([1, 2])
    assert found.backward_seconds == statistics.median([2, 4])
    assert found.optimizer_seconds == statistics.median([3, 6])
    assert found.step_seconds_median == statistics.median([1 + 2 + 3, 2 + 4 + 6])
    assert found.step_seconds_p90 == 12
    # 2 steps of 2 examples of 8 tokens in 18 seconds: all over all, and no mean of rates
    assert found.examples_per_second == pytest.approx(4 / 18)
    assert found.real_tokens_per_second == pytest.approx(32 / 18)
    assert found.host_bound_share is None


def test_only_timed_steps_are_inside_what_is_entered_meanwhile():
    step, inside = training_step(), []
    done = []
    whole, update = step.whole, step.update
    step.whole = lambda: (done.append("warm-up"), whole())
    step.update = lambda: (done.append("step"), update())

    class Meter(contextlib.AbstractContextManager):
        def __enter__(self):
            inside.append(list(done))

        def __exit__(self, *error):
            inside.append(list(done))

    windows = Windows(Window(2, 2, 0.0, both=True), Window(3, 3, 0.0), Window(1, 1, 0.0))
    steps.step_speed(step, CPU, windows, Meter())
    assert inside[0] == ["warm-up", "step"] * 2
    assert inside[1][4:] == ["step"] * 3


def test_a_step_changes_every_trained_weight_and_lets_its_gradients_go():
    step = training_step()
    before = [weight.detach().clone() for weight in step.trained]
    frozen = {name: weight.clone() for name, weight in step.model.named_parameters() if not weight.requires_grad}
    step.whole()
    step.whole()  # B of LoRA starts at zero, so A has no gradient before the second
    assert all(not torch.equal(old, new) for old, new in zip(before, step.trained, strict=True))
    assert all(torch.equal(weight, frozen[name]) for name, weight in step.model.named_parameters() if name in frozen)
    assert all(weight.grad is None for weight in step.trained)


def test_the_collector_is_as_it_was_after_timing():
    for on in (True, False):
        (gc.enable if on else gc.disable)()
        try:
            with steps._no_collection():
                assert not gc.isenabled()
            assert gc.isenabled() is on
        finally:
            gc.enable()
