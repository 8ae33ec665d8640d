"""What a terminal and a log show of runs that become known in waves."""

import io
import math
import re
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from lora_bench.execute.options import Afterwards
from lora_bench.execute.progress import Bars, Lines, OwnLines
from lora_bench.execute.scheduler import Deadline, Scheduler
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.record import Speed
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.job import Event
from tests.project import SUITE, write_project

TWO = "[{method: lora, learning_rate: [0.001, 0.01]}, {method: bitfit, learning_rate: 0.002}]"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two runs of LoRA, one for each of two learning rates, and one of BitFit."""
    folder = tmp_path_factory.mktemp("waves")
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", TWO)
    suite += "score_on: selection\n"
    return make_plan(load_suite(write_project(folder, suite)), folder / "runs")


def wave(display, plan, cells):
    display.planned(plan, cells, 1)
    for cell in cells:
        display.event(Event(cell.job.run_id, 0, 10))
        display.event(Event(cell.job.run_id, 5, 10, 0.5))
        display.finished(cell.job.record("failed", "for the test"))


class LastsTooLong:
    """An executor with one run, during which its time is over."""

    def __init__(self, job, deadline):
        self.job, self.deadline, self.asked, self.stopped = job, deadline, [], threading.Event()

    def submit(self, units):
        assert units == [[self.job]]

    def stop(self, signal):
        self.asked.append(signal)
        self.stopped.set()

    def results(self, tell):
        self.deadline.end = -math.inf
        self.stopped.wait()
        assert self.asked == ["SIGTERM"]
        yield self.job.record("interrupted", "stopped by SIGTERM after step 3; the same command resumes from there")


def test_a_run_whose_time_is_up_says_so_and_not_the_signal_that_it_got(plan):
    job, out, deadline = plan.cells[0].job, console(width=200), Deadline(math.inf)
    executor = LastsTooLong(job, deadline)
    given = {"units": lambda jobs: [list(jobs)], "publish_lost": lambda lost: None, "deadline": deadline}
    assert Scheduler([job], executor, Lines(out), **given).run() == "out_of_time"
    said = out.file.getvalue()
    assert "its time was up; the same command resumes it" in said and "SIGTERM" not in said


def took(job, seconds, split):
    """A run of so many seconds with a score on a split."""
    speed = Speed.model_construct(load_seconds=1.0, train_seconds=seconds - 1.5, evaluation_seconds=0.5)
    record = job.record("ok", None)
    spec = record.spec.model_copy(update={"score_on": split})
    return record.model_copy(update={"speed": speed, "scores": {}, "spec": spec})


def test_runs_end_earlier_by_so_many_times_the_longest_once_one_can_be_chosen(plan, monkeypatch):
    job = plan.cells[0].job
    monkeypatch.setattr("lora_bench.execute.scheduler.time.monotonic", lambda: 100.0)
    deadline, alone = Deadline(700.0, Afterwards(seconds=60.0, times=2.0)), Deadline(700.0)
    left = []
    for record in (
        took(job, 20.0, "selection"),
        took(job, 10.0, "test"),
        took(job, 50.0, "test"),
        took(job, 30.0, "test"),
    ):
        left.append(deadline.left)
        deadline.note(record)
        alone.note(record)
    # A trial answers nothing; twice 20 s are less than the 60 that the plan says; then twice 50.
    assert [*left, deadline.left] == [600.0, 600.0, 540.0, 500.0, 500.0]
    assert alone.left == 600.0


def console(width=80, terminal=False):
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def test_the_counter_of_a_second_wave_goes_on_and_never_exceeds_its_total(plan):
    shown = Lines(console(200))
    first, second, third = plan.cells
    # What cannot be trained is said before the runs that can, and is none of those to do.
    shown.finished(third.job.record("unsupported", "for the test"))
    wave(shown, plan, [first, second])
    wave(shown, plan, [third])
    said = [line.partition("]")[0] for line in shown.console.file.getvalue().splitlines() if line.startswith("[")]
    assert said == ["[1/2", "[2/2", "[3/3"]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_says_within_a_minute_how_far_a_run_is_and_then_once_a_minute(plan, quiet):
    """It was silent for minutes, between the ends of two runs."""
    seconds, said = [0.0], {}
    shown = Lines(console(200), quiet=quiet, clock=lambda: seconds[0])
    shown.planned(plan, list(plan.cells), 1)
    for step in range(400):
        before = len(shown.console.file.getvalue())
        shown.event(Event(plan.cells[0].job.run_id, step, 400, 0.5))
        if line := shown.console.file.getvalue()[before:]:
            said[seconds[0]] = line.strip()
        seconds[0] += 0.5
    assert list(said) == ([] if quiet else [30.0, 90.0, 150.0])
    assert quiet or said[90.0] == "tickets · base · lora (rank 8) · seed 0 · rate 1e-3: step 180 of 400"
    # The end of a run is a line too: the next follows a minute later.
    shown.finished(plan.cells[0].job.record("failed", "for the test"))
    before = shown.console.file.getvalue()
    shown.event(Event(plan.cells[1].job.run_id, 1, 400))
    assert shown.console.file.getvalue() == before


def test_runs_that_differ_in_their_learning_rate_say_it(plan):
    for display in (Lines(console(200)), OwnLines(console(200)), Bars(console(200))):
        wave(display, plan, list(plan.cells))
        said = display.console.file.getvalue()
        assert "seed 0 · rate 1e-3: failed" in said and "seed 0 · rate 1e-2: failed" in said
        assert "bitfit · seed 0: failed" in said
    trial = replace(plan.cells[-1].job, trial=True)
    display = Lines(console(200))
    wave(display, plan, [replace(plan.cells[-1], job=trial)])
    assert "bitfit · seed 0 · rate 2e-3: failed" in display.console.file.getvalue()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Four trials of LoRA and BitFit, and four runs that wait for them."""
    folder = tmp_path_factory.mktemp("tuned")
    rates = "[{method: lora, learning_rate: [0.001, 0.01]}, {method: bitfit, learning_rate: [0.002, 0.02]}]"
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", rates).replace("[0]", "[0, 1]")
    return make_plan(
        load_suite(write_project(folder, suite + "tuning: {seeds: [7], extend: false}\n")), folder / "runs"
    )


def test_runs_that_wait_are_counted_unless_only_some_runs_were_asked_for(tuned):
    cells = list(tuned.cells)
    assert len(cells) == 4 and sum(waiting.runs for waiting in tuned.waiting) == 4
    shown, bars = Lines(console(200)), Bars(console(terminal=True))
    wave(shown, tuned, cells)
    wave(bars, tuned, cells)
    said = shown.console.file.getvalue()
    assert "4 of 8 runs to do" in said and "with 4 that follow" in said
    assert [line.partition("]")[0] for line in said.splitlines()[1:]] == ["[1/8", "[2/8", "[3/8", "[4/8"]
    assert all(re.search(r"rate \de-[23]", line) for line in said.splitlines()[1:])
    assert (bars.progress.tasks[0].completed, bars.progress.tasks[0].total) == (4, 8)
    # Its estimates are from records, so the speed of the first says nothing of them.
    bars.planned(replace(tuned, waiting=()), list(tuned.cells)[:1], 1)
    assert (bars.first, bars.done_seconds) == (None, 0.0)
    # The second wave ends at the total that the first announced.
    wave(bars, replace(tuned, waiting=()), [cell for waiting in tuned.waiting for cell in waiting.cells])
    assert (bars.progress.tasks[0].completed, bars.progress.tasks[0].total) == (8, 8)
    some = Lines(console(200))
    wave(some, tuned, cells[:1])
    assert "[1/1]" in some.console.file.getvalue()


def test_the_time_left_follows_the_speed_so_far_within_a_run_too(plan, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("lora_bench.execute.progress.time.monotonic", lambda: clock[0])
    cells = [replace(cell, estimate=replace(cell.estimate, seconds=300.0)) for cell in plan.cells]
    shown = Bars(console(terminal=True))
    shown.planned(plan, cells, 1)
    note = lambda: shown.progress.tasks[0].fields["note"]  # noqa: E731
    shown.event(Event(cells[0].job.run_id, 0, 10))
    assert note() == "about 15 min left"  # three runs of 300 s each
    clock[0] += 300
    shown.event(Event(cells[0].job.run_id, 5, 10, 0.5))
    assert note() == "about 25 min left"  # half a run took as long as a whole one was to take
    clock[0] += 300
    shown.finished(cells[0].job.record("failed", "for the test"))
    assert note() == "about 20 min left"
    # Two at once, as in a pack, are done in the time of one.
    for cell in cells[1:]:
        shown.event(Event(cell.job.run_id, 0, 10))
    clock[0] += 300
    for cell in cells[1:]:
        shown.event(Event(cell.job.run_id, 5, 10, 0.5))
    assert note() == "about 8 min left"  # 600 of 900 estimated seconds in 900


def test_one_bar_counts_all_waves_and_no_bar_of_a_run_is_left(plan):
    shown = Bars(console(terminal=True))
    first, second, third = plan.cells
    wave(shown, plan, [first])
    # The bar of a run that another process took over.
    shown.planned(plan, [second], 1)
    shown.event(Event(second.job.run_id, 0, 10))
    assert len(shown.progress.tasks) == 2
    wave(shown, plan, [third])
    (whole,) = shown.progress.tasks
    assert (whole.completed, whole.total) == (2, 2)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_bar_is_one_line_that_tells_its_run(plan, width):
    shown = Bars(console(width, terminal=True))
    shown.planned(plan, list(plan.cells), 2)
    for cell in plan.cells:
        shown.event(Event(cell.job.run_id, 0, 1200))
        shown.event(Event(cell.job.run_id, 600, 1200, 0.123))
    paper = console(width)
    paper.print(shown.progress.get_renderable())
    lines = paper.file.getvalue().splitlines()
    assert len(lines) == 1 + len(plan.cells)
    assert all(len(line) <= width for line in lines)
    if width >= 80:
        assert lines[1].startswith("lora · seed 0 · rate 1e-3") and "600/1200" in lines[1] and "loss 0.123" in lines[1]
