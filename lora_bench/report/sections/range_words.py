"""The range of an answer in words: the base models, the tasks and the work that it is about."""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.text import code, inert, listed, plural

# More names than this are counted.
MOST_NAMES = 3


def range_words(places: Sequence[tuple[Setting, ModelTable]]) -> str:
    """Return a sentence such as "Range: RoBERTa-base on `sst2`, after 80 steps; not tested on others."."""
    models = {(table.model.shown, table.weights) for _, table in places}
    tasks = dict.fromkeys(setting.spec.task.name for setting, _ in places)
    on = listed([code(task) for task in tasks]) if len(tasks) <= MOST_NAMES else plural(len(tasks), "task")
    shown = sorted({inert(name, 60) for name, _ in models})
    these = listed(shown) if len(shown) <= MOST_NAMES else f"these {len(models)} base models"
    steps = {setting.spec.training.steps for setting, _ in places}
    number = next(iter(steps)) if len(steps) == 1 else None
    after = f", after {plural(number, 'step')}" if number is not None else ""
    return f"Range: {these} on {on}{after}; not tested on others."
