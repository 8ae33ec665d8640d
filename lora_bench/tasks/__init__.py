"""Tasks: declared in YAML, loaded as examples in three splits, encoded for a model and scored.

`declaration` is the YAML key by key, `tables` reads rows from files, assets and the hub, `examples` makes splits of
them and lists what is wrong, `scoring` holds predictions against them.
"""

from lora_bench.tasks.declaration import Task, definition, load_task, task_from_definition, task_from_document
from lora_bench.tasks.examples import SPLITS, Split, TaskData, load_data
from lora_bench.tasks.scoring import encode, majority_score, score

__all__ = [
    "SPLITS",
    "Split",
    "Task",
    "TaskData",
    "definition",
    "encode",
    "load_data",
    "load_task",
    "majority_score",
    "score",
    "task_from_definition",
    "task_from_document",
]
