"""Display of a running suite: live bars on a terminal, plain lines elsewhere. rich follows the terminal and `NO_COLOR`."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Column

from lora_bench.plan.cell import Cell, Waiting
from lora_bench.plan.make_plan import Plan
from lora_bench.records.record import Record
from lora_bench.records.spec import RunSpec
from lora_bench.report.text import learning_rate
from lora_bench.training.job import Event
from lora_bench.util.redaction import visible, without_secrets

# At 80 columns a bar leaves room for the name of its run.
WIDE, WIDE_BAR, NARROW_BAR = 100, 24, 6
# Seconds of work after which its speed corrects the estimates.
SETTLED_SECONDS = 10.0
# A log says how far a run is after so many seconds, and then every so many.
FIRST_SECONDS, BETWEEN_SECONDS = 30.0, 60.0


class QuietOnBrokenPipe(Console):
    """A console that goes quiet when a pipe's reader, such as `| head`, has gone. Shown text cannot control the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces that a thing is shown as, without control characters of its own."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(visible(piece.text, lines=True), piece.style)

    def on_broken_pipe(self) -> None:
        """Stop printing, and drop the rest of the buffer."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_name(spec: RunSpec) -> str:
    """A run in a few words: task, base model, method with its size, seed."""
    size = f" ({_size(spec)})" if spec.method.size is not None else ""
    return f"{spec.task.name} · {spec.model.name} · {spec.method.label}{size} · seed {spec.seed}"


def _size(spec: RunSpec) -> str:
    return f"{spec.method.size} {spec.method.options[spec.method.size]}" if spec.method.size is not None else ""


def run_names(cells: Sequence[Cell], *, short: bool = False) -> dict[str, str]:
    """Return names that tell runs apart, by run id; *short* leaves out a task and base model that all of them have."""
    specs = [cell.job.spec for cell in cells]
    rates: dict[tuple[str, str, str], set[float]] = {}
    for spec in specs:
        key = (spec.task.name, spec.model.name, spec.method.label)
        rates.setdefault(key, set()).add(spec.training.learning_rate)
    tasks, models = {spec.task.name for spec in specs}, {spec.model.name for spec in specs}
    names = {}
    for cell, spec in zip(cells, specs, strict=True):
        several = len(rates[spec.task.name, spec.model.name, spec.method.label]) > 1
        rate = [f"rate {learning_rate(spec.training.learning_rate)}"] if cell.job.trial or several else []
        if short:
            # A name may lose its end: what tells runs apart comes first.
            task = [spec.task.name] if len(tasks) > 1 else []
            model = [spec.model.name] if len(models) > 1 else []
            size = [_size(spec)] if spec.method.size is not None else []
            names[spec.run_id] = " · ".join([spec.method.label, f"seed {spec.seed}", *rate, *task, *model, *size])
        else:
            names[spec.run_id] = " · ".join([run_name(spec), *rate])
    return names


def result_line(record: Record, name: str | None = None) -> str:
    """Return the result of a run in a line; *name* tells it from others."""
    name = name or run_name(record.spec)
    if record.status != "ok":
        return f"{name}: {record.status} ({record.reason})"
    score = f"{record.spec.task.metric} {record.score:.4f}" if record.score is not None else "no score"
    seconds = f", trained in {record.speed.train_seconds:.0f} s" if record.speed is not None else ""
    return f"{name}: {score}{seconds}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """Shows the progress of a suite; this one shows nothing."""

    def say(self, message: str) -> None:
        """Show a line."""

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """Show the runs that are about to begin."""

    def event(self, event: Event) -> None:
        """Show that a run began, or finished a step."""

    def finished(self, record: Record) -> None:
        """Show that a run ended."""


class Lines(Display):
    """Print one line when a run ends and one a minute between, for logs; with *quiet* only of a run that did not end `ok`.

    Runs become known in waves: trials first, then the runs that their scores choose. One counter has all of them.
    """

    def __init__(self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.quiet = quiet
        self.clock = clock
        self.next_line = clock() + FIRST_SECONDS
        self.names: dict[str, str] = {}
        self.left: set[str] = set()
        self.later = 0
        self.count = 0

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(without_secrets(message), markup=False, highlight=False, soft_wrap=True)

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        self.names |= run_names(cells)
        self.left = {cell.job.run_id for cell in cells}
        self.later = sum(waiting.runs for waiting in waiting_for(plan, cells))
        self.say(announcement(plan, cells, workers))
        self.next_line = self.clock() + FIRST_SECONDS

    def event(self, event: Event) -> None:
        """Print how far a run is, if no line has told of the work for a while."""
        if event.run_id in self.left and self.clock() >= self.next_line:
            of = "" if event.steps is None else f" of {event.steps}"
            self.say(f"{self.names[event.run_id]}: step {event.step}{of}")
            self.next_line = self.clock() + BETWEEN_SECONDS

    def finished(self, record: Record) -> None:
        line = result_line(record, self.names.get(record.run_id))
        # A run that cannot be trained was never among those to do.
        if record.run_id in self.left and record.status != "interrupted":
            self.left.remove(record.run_id)
            self.count += 1
            line = f"[{self.count}/{self.count + len(self.left) + self.later}] {line}"
        self._show(record, line)

    def _show(self, record: Record, line: str) -> None:
        self.next_line = self.clock() + BETWEEN_SECONDS
        if not self.quiet or record.status not in ("ok", "interrupted"):
            self.console.print(without_secrets(line), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class OwnLines(Lines):
    """Print a line when a run begins here and when it ends; of other workers' runs only the failures."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(console, quiet=quiet)
        self.own: set[str] = set()

    def event(self, event: Event) -> None:
        """Print that a run has begun, at its first step: before, it may turn out that another process has claimed it."""
        if event.step and event.run_id not in self.own:
            self.own.add(event.run_id)
            self.say(f"began {event.run_id} {self.names[event.run_id]}")

    def finished(self, record: Record) -> None:
        if record.run_id not in self.own and record.status == "ok":
            return
        self._show(record, f"ended {record.run_id} {result_line(record, self.names.get(record.run_id))}")


class Bars(Display):
    """Show a bar for the whole suite and one for each run that is being trained, each on a line of its own."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # A name that is too long loses its end, and no bar takes a second line.
        name = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = [
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=NARROW_BAR if console.width < WIDE else WIDE_BAR),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
            *([TimeElapsedColumn()] if console.width >= WIDE else []),
        ]
        self.progress = Progress(*columns, console=console, transient=True, expand=True)
        self.cells: dict[str, Cell] = {}
        self.names: dict[str, str] = {}
        self.short_names: dict[str, str] = {}
        self.count = 0
        self.bars: dict[str, TaskID] = {}
        self.began: dict[str, float] = {}
        self.whole: TaskID | None = None
        self.workers = 1
        self.first: float | None = None
        # Estimated seconds of the runs that ended, and of those that wait for others.
        self.done_seconds = 0.0
        self.later_seconds = 0.0

    def say(self, message: str) -> None:
        self.console.print(without_secrets(message), markup=False, highlight=False, style="dim")

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """Show how much there is to do; the bar of the suite goes on from the runs that were planned before."""
        self.console.print(announcement(plan, cells, workers), markup=False, highlight=False)
        for bar in self.bars.values():
            self.progress.remove_task(bar)
        self.bars.clear()
        self.cells = {cell.job.spec.run_id: cell for cell in cells}
        self.names |= run_names(cells)
        self.short_names = run_names(cells, short=True)
        self.workers = max(1, workers)
        if not cells:
            return
        waiting = waiting_for(plan, cells)
        # The estimates of a wave come from the records of the last one, so its speed tells nothing of theirs.
        self.first, self.done_seconds = None, 0.0
        self.later_seconds = sum(one.seconds for one in waiting)
        total = self.count + len(cells) + sum(one.runs for one in waiting)
        if self.whole is None:
            self.whole = self.progress.add_task("runs", total=total, note="starting workers")
        else:
            self.progress.update(self.whole, total=total, note="starting workers")

    def event(self, event: Event) -> None:
        cell = self.cells.get(event.run_id)
        if cell is None:
            return
        if event.run_id not in self.bars:
            self.bars[event.run_id] = self.progress.add_task(
                self.short_names[event.run_id], total=event.steps, note="loading"
            )
            self.began[event.run_id] = time.monotonic()
            self.first = self.first or self.began[event.run_id]
            self._remaining()
            return
        loss = f"loss {event.loss:.3f}" if event.loss is not None else ""
        note = ", ".join(filter(None, [loss, self._left(event)])) if event.step != event.steps else "scoring"
        self.progress.update(self.bars[event.run_id], completed=event.step, total=event.steps, note=note)
        self._remaining()

    def finished(self, record: Record) -> None:
        if record.run_id in self.bars:
            self.progress.remove_task(self.bars.pop(record.run_id))
        line = result_line(record, self.names.get(record.run_id))
        self.console.print(line, markup=False, highlight=False)
        cell = self.cells.pop(record.run_id, None)
        if cell is not None and record.run_id in self.began:
            self.done_seconds += cell.estimate.seconds
        if self.whole is not None and cell is not None and record.status != "interrupted":
            self.count += 1
            self.progress.update(self.whole, completed=self.count)
            self._remaining()

    def _left(self, event: Event) -> str:
        if event.steps is None or not event.step:
            return ""
        seconds = time.monotonic() - self.began[event.run_id]
        return f"{duration(seconds / event.step * (event.steps - event.step))} left"

    def _remaining(self) -> None:
        """Say how long all runs will take, at the speed so far once that is known."""
        if self.whole is None:
            return
        if not self.cells:
            self.progress.update(self.whole, note="")
            return
        begun = sum(self.cells[run_id].estimate.seconds * self._share(bar) for run_id, bar in self.bars.items())
        done = self.done_seconds + begun
        left = sum(cell.estimate.seconds for cell in self.cells.values()) - begun + self.later_seconds
        elapsed = time.monotonic() - self.first if self.first is not None else 0.0
        # Estimated seconds for each second that passes: one a worker, until runs show it.
        speed = done / elapsed if done and elapsed >= SETTLED_SECONDS else self.workers
        self.progress.update(self.whole, note=f"about {duration(left / speed)} left")

    def _share(self, bar: TaskID) -> float:
        return self.progress.tasks[self.progress.task_ids.index(bar)].percentage / 100

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.progress.stop()


def waiting_for(plan: Plan, cells: Sequence[Cell]) -> tuple[Waiting, ...]:
    """Return the runs that will follow these; none if only some of the known runs were asked for."""
    asked = {cell.job.run_id for cell in cells}
    whole = all(cell.job.run_id in asked for cell in plan.missing if cell.reason is None)
    return plan.waiting if whole else ()


def announcement(plan: Plan, cells: list[Cell], workers: int) -> str:
    """Return the work ahead in a line."""
    there = len(plan.cells) - len(plan.missing)
    later = sum(waiting.runs for waiting in plan.waiting)
    if not cells:
        return f"{plan.suite.name}: nothing to do, {there} of {len(plan.cells) + later} runs are done"
    following = waiting_for(plan, cells)
    estimated = sum(cell.estimate.seconds for cell in cells) + sum(waiting.seconds for waiting in following)
    seconds = estimated / max(1, workers)
    have = f", {there} done before" if there else ""
    at_once = f", {workers} at once" if workers > 1 else ""
    then = f" with {later} that follow" if following else f"; then {later} more" if later else ""
    return (
        f"{plan.suite.name}: {len(cells)} of {len(plan.cells) + later} runs to do{have}{at_once}, "
        f"about {duration(seconds)}{then}"
    )


def display(console: Console, *, quiet: bool) -> Bars | Lines:
    """Bars on a terminal, lines elsewhere."""
    return Bars(console) if console.is_terminal and not quiet else Lines(console, quiet=quiet)


def own_display() -> Bars | Lines:
    """Return the display of a suite that Python code runs: bars in a terminal, lines in a notebook, nothing elsewhere."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_notebook = type(shell).__name__ == "ZMQInteractiveShell"
    # A notebook's kernel asks for colours, which rich takes for a terminal.
    console = QuietOnBrokenPipe(force_jupyter=False, force_terminal=False if in_notebook else None)
    console.quiet = not in_notebook and not console.is_terminal
    return display(console, quiet=console.quiet)
