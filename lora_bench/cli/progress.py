"""What a person sees while a suite runs: live bars on a terminal, plain lines everywhere else.

Colours follow the terminal and `NO_COLOR`, which rich respects.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment

from lora_bench.execute.executors.base import Event
from lora_bench.plan.cell import Cell
from lora_bench.plan.make_plan import Plan
from lora_bench.records.record import Record
from lora_bench.records.spec import RunSpec
from lora_bench.util.redaction import visible, without_secrets


class QuietOnBrokenPipe(Console):
    """A console that goes quiet when the reader of a pipe such as `| head` has seen enough; the work goes on.

    Colours are rich's alone: what is shown cannot control the terminal, wherever it came from.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces that a thing is shown as, without control characters of its own."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(visible(piece.text, lines=True), piece.style)

    def on_broken_pipe(self) -> None:
        """Say nothing more, and send what is still in the buffer nowhere."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_name(spec: RunSpec) -> str:
    """A run in a few words: task, base model, method with its size, seed."""
    method = spec.method
    size = f" ({method.size} {method.options[method.size]})" if method.size is not None else ""
    return f"{spec.task.name} · {spec.model.name} · {method.label}{size} · seed {spec.seed}"


def result_line(record: Record) -> str:
    """What a run came to, in a line."""
    name = run_name(record.spec)
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


class Lines:
    """One line when a run begins and one when it ends: for logs, and for `--quiet` only the latter's failures."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.total = 0
        self.count = 0

    def say(self, message: str) -> None:
        """A line for the reader."""
        if not self.quiet:
            self.console.print(without_secrets(message), markup=False, highlight=False, soft_wrap=True)

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """Say what is about to be done."""
        self.total = len(cells)
        self.say(announcement(plan, cells, workers))

    def event(self, event: Event) -> None:
        """Nothing: a line a step would drown the rest."""

    def finished(self, record: Record) -> None:
        """Say what a run came to."""
        if record.status == "interrupted":
            self.say(result_line(record))
            return
        self.count += 1
        line = f"[{self.count}/{max(self.total, self.count)}] {result_line(record)}"
        if self.quiet and record.status != "ok":
            self.console.print(line, markup=False, highlight=False)
        self.say(line)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class OwnLines(Lines):
    """A line when a run begins here, and one when it ends: of the runs that others at the folder do, only of what failed."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(console, quiet=quiet)
        self.names: dict[str, str] = {}
        self.own: set[str] = set()

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """Say what is left to be done, by whomever."""
        self.say(announcement(plan, cells, workers))
        self.names |= {cell.job.run_id: run_name(cell.job.spec) for cell in cells}

    def event(self, event: Event) -> None:
        """Say that a run has begun: its first step is done. What comes before may have found that another process is at it."""
        if event.step and event.run_id not in self.own:
            self.own.add(event.run_id)
            self.say(f"began {event.run_id} {self.names[event.run_id]}")

    def finished(self, record: Record) -> None:
        """Say what a run came to."""
        if record.run_id not in self.own and record.status == "ok":
            return
        line = f"ended {record.run_id} {result_line(record)}"
        if self.quiet and record.status not in ("ok", "interrupted"):
            self.console.print(without_secrets(line), markup=False, highlight=False, soft_wrap=True)
        self.say(line)


class Bars:
    """A bar for the whole suite and one for each run that is being done, with step, loss and remaining time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.cells: dict[str, Cell] = {}
        self.bars: dict[str, TaskID] = {}
        self.began: dict[str, float] = {}
        self.whole: TaskID | None = None
        self.workers = 1
        # What finished runs took, and what they were estimated to: the rest is likely to be off by the same factor.
        self.took_seconds = 0.0
        self.estimated_seconds = 0.0

    def say(self, message: str) -> None:
        """Show what is going on; it stays on the screen only where it is news."""
        self.console.print(without_secrets(message), markup=False, highlight=False, style="dim")

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """Show how much there is to do."""
        self.console.print(announcement(plan, cells, workers), markup=False, highlight=False)
        self.cells = {cell.job.spec.run_id: cell for cell in cells}
        self.workers = max(1, workers)
        if cells:
            self.whole = self.progress.add_task("runs", total=len(cells), note="starting workers")

    def event(self, event: Event) -> None:
        """Move the bar of a run."""
        cell = self.cells.get(event.run_id)
        if cell is None:
            return
        if event.run_id not in self.bars:
            self.bars[event.run_id] = self.progress.add_task(run_name(cell.job.spec), total=event.steps, note="loading")
            self.began[event.run_id] = time.monotonic()
            self._remaining()
            return
        loss = f"loss {event.loss:.3f}" if event.loss is not None else ""
        note = f"{loss}  {self._left(event)}" if event.step != event.steps else "scoring"
        self.progress.update(self.bars[event.run_id], completed=event.step, total=event.steps, note=note)

    def finished(self, record: Record) -> None:
        """Take the bar of a run away and leave a line."""
        if record.run_id in self.bars:
            self.progress.remove_task(self.bars.pop(record.run_id))
        self.console.print(result_line(record), markup=False, highlight=False)
        cell = self.cells.pop(record.run_id, None)
        if cell is not None and record.run_id in self.began:
            self.took_seconds += time.monotonic() - self.began[record.run_id]
            self.estimated_seconds += cell.estimate.seconds
        if self.whole is not None and record.status != "interrupted":
            self.progress.advance(self.whole)
            self._remaining()

    def _left(self, event: Event) -> str:
        if event.steps is None or not event.step:
            return ""
        seconds = time.monotonic() - self.began[event.run_id]
        return f"{duration(seconds / event.step * (event.steps - event.step))} left"

    def _remaining(self) -> None:
        if self.whole is not None:
            factor = self.took_seconds / self.estimated_seconds if self.estimated_seconds else 1.0
            seconds = factor * sum(cell.estimate.seconds for cell in self.cells.values()) / self.workers
            self.progress.update(self.whole, note=f"about {duration(seconds)} left" if self.cells else "")

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.progress.stop()


def announcement(plan: Plan, cells: list[Cell], workers: int) -> str:
    """What is about to be done, in a line."""
    there = len(plan.cells) - len(plan.missing)
    later = sum(waiting.runs for waiting in plan.waiting)
    if not cells:
        return f"{plan.suite.name}: nothing to do, {there} of {len(plan.cells) + later} runs have their record"
    seconds = sum(cell.estimate.seconds for cell in cells) / max(1, workers)
    have = f", {there} have their record" if there else ""
    at_once = f", {workers} at once" if workers > 1 else ""
    then = f"; {later} more wait for them" if later else ""
    return (
        f"{plan.suite.name}: {len(cells)} of {len(plan.cells) + later} runs to do{have}{at_once}, "
        f"about {duration(seconds)}{then}"
    )


def display(console: Console, *, quiet: bool) -> Bars | Lines:
    """Bars on a terminal, lines elsewhere."""
    return Bars(console) if console.is_terminal and not quiet else Lines(console, quiet=quiet)
