"""The half of a kind of task that works with a model: how examples are encoded, batched, learned and answered.

Each kind names a class of a module here. Importing this package loads no torch; the modules of exercises do.
"""

import importlib
from typing import TYPE_CHECKING

from lora_bench.kinds import find_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_bench.kinds.exercises.base_exercise import Exercise
    from lora_bench.records.spec import PlannedSpec
    from lora_bench.tasks import Task


def exercise_class(kind: str) -> "type[Exercise]":
    """Return the class of a kind's exercises."""
    module, name = find_kind(kind).exercise.split(".")
    found: type[Exercise] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found


def exercise(task: "Task", tokenizer: "PreTrainedTokenizerBase", spec: "PlannedSpec", seed: int = 0) -> "Exercise":
    """Return the exercise of a run's task."""
    return exercise_class(task.kind)(task, tokenizer, spec, seed)
