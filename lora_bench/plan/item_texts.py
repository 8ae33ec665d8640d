"""The texts of test items for a report: of a user's own data, and of sets whose licence lets everybody pass them on."""

import re
from collections.abc import Sequence
from functools import cache

from lora_bench.errors import LoraBenchError
from lora_bench.plan.inputs import with_local_data
from lora_bench.records.spec import TaskSpec
from lora_bench.report.model.report import TextsOf
from lora_bench.report.model.rows import folds_of
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import Task, TaskData, load_data

# Licences as tasks state them. Any other words, such as a condition on use, are no such licence.
_OPEN = re.compile(
    r"(MIT|BSD [23]-Clause|Apache[- ]2\.0|CC0( 1\.0)?|CC BY(-SA)?( \d\.\d)?|public domain)", re.IGNORECASE
)


def may_show(task: Task) -> bool:
    """Return True for a task on local files without a stated licence, which are the user's own, or with an open licence."""
    return _OPEN.fullmatch(task.licence) is not None or (not task.licence and bool(task.data.files))


def item_texts(suite: Suite) -> TextsOf:
    """Return a function that gives id and texts of each test item of a recorded task of a suite.

    It takes the task, the right answers and, of folds, their seeds. It returns None if the texts may not be shown, or the
    data is not at hand or has changed since the run.
    """
    tasks = {task.task: (task, base) for task, base in suite.tasks}

    @cache
    def data_of(name: str) -> list[TaskData]:
        task, base = tasks[name]
        folds = (None,) if task.folds is None else range(task.folds)
        try:
            task, base = with_local_data(suite, task, base, None)
            whole_train = not suite.rules.selection_from_train
            return [load_data(task, base, whole_train=whole_train, fold=fold) for fold in folds]
        except LoraBenchError:
            return []

    def texts(
        spec: TaskSpec, references: Sequence[int], seeds: Sequence[int | None] = ()
    ) -> Sequence[tuple[str, ...]] | None:
        if spec.name not in tasks or not may_show(tasks[spec.name][0]):
            return None
        found = data_of(spec.name)
        folds = tasks[spec.name][0].folds
        if not found or found[0].sha256 != spec.data_sha256 or folds_of(spec) != folds:
            return None
        known = [seed for seed in seeds if seed is not None]
        tests = [data.splits["test"] for data in (found if folds is None else [found[seed % folds] for seed in known])]
        if [label for test in tests for label in test.labels] != list(references):
            return None
        return [(name, *said) for test in tests for name, said in zip(test.ids, test.texts, strict=True)]

    return texts
