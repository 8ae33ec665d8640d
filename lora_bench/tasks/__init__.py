"""Tasks: declared in YAML, loaded as examples in splits, encoded for a model, and scored.

`declaration` and `sources` declare the YAML, and `load_task` reads a task and checks its keys together. `folders` finds its
files below a data directory. `files` (with `releases`) and `source_tables` read rows of files, assets and the hub.
`row_examples` makes examples of them, as the task's kind says, and `examples` the splits. `task_scores` scores predictions.
"""

from lora_bench.kinds.support.row_values import Split
from lora_bench.tasks.dealing import SPLITS
from lora_bench.tasks.declaration import Task, definition, task_from_definition
from lora_bench.tasks.examples import TaskData, hub_sha256, load_data, load_unlabelled, pinned, released_data, values_of
from lora_bench.tasks.folders import as_laid_out, find_folder, in_folder
from lora_bench.tasks.load_task import load_task, task_from_document
from lora_bench.tasks.sources import Release
from lora_bench.tasks.task_scores import encode, majority_score, score, split_scores, unavailable_metrics

__all__ = [
    "SPLITS", "Release", "Split", "Task", "TaskData", "as_laid_out", "definition", "encode", "find_folder",
    "hub_sha256", "in_folder", "load_data", "load_task", "load_unlabelled", "majority_score", "pinned",
    "released_data", "score", "split_scores", "task_from_definition", "task_from_document", "unavailable_metrics",
    "values_of",
]  # fmt: skip
