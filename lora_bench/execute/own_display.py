"""Display of a suite that Python code runs: one output in a notebook, bars in a terminal, nothing elsewhere."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from html import escape
from typing import Any, Self

from rich.console import Console

from lora_bench.execute.progress import Bars, Lines, QuietOnBrokenPipe
from lora_bench.plan.cell import Cell
from lora_bench.plan.make_plan import Plan
from lora_bench.records.record import Record
from lora_bench.training.job import Event
from lora_bench.util.redaction import visible, without_secrets


class NotebookOutput(Lines):
    """Show the counter, the runs that are being trained and the last lines in one output of a notebook, updated in place."""

    LINES, SECONDS = 8, 0.5

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.said: list[str] = []
        self.now: dict[str, Event] = {}
        self.output: Any = None
        self.shown = 0.0

    def say(self, message: str) -> None:
        self.said = [*self.said, visible(without_secrets(message))][-self.LINES :]
        self._show()

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        self.now.clear()
        super().planned(plan, cells, workers)

    def event(self, event: Event) -> None:
        self.now[event.run_id] = event
        if time.monotonic() - self.shown >= self.SECONDS:
            self._show()

    def finished(self, record: Record) -> None:
        self.now.pop(record.run_id, None)
        super().finished(record)

    def html(self) -> str:
        """What it shows."""
        total = self.count + len(self.left) + self.later
        bar = (
            [f'<progress value="{self.count}" max="{total}"></progress> {self.count} of {total} runs'] if total else []
        )
        now = [f"{self.names.get(one.run_id, one.run_id)}: {_step(one)}" for one in self.now.values()]
        lines = [*map(escape, [*self.said, *now]), *bar]
        return f'<div style="line-height: 1.4">{"<br>".join(lines)}</div>'

    def _show(self) -> None:
        from IPython.display import HTML, display

        self.shown = time.monotonic()
        if self.output is None:
            self.output = display(HTML(self.html()), display_id=True)
        else:
            self.output.update(HTML(self.html()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.now.clear()
        self._show()


def _step(event: Event) -> str:
    if event.step and event.step == event.steps:
        return "scoring"
    of = f" of {event.steps}" if event.steps is not None else ""
    return f"step {event.step}{of}" if event.step else "loading"


def own_display() -> AbstractContextManager[Bars | NotebookOutput | None]:
    """Return the display of a suite that Python code runs: for a notebook or a terminal, and None elsewhere."""
    if _in_notebook():
        return NotebookOutput()
    console = QuietOnBrokenPipe()
    return Bars(console) if console.is_terminal else nullcontext()


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"
