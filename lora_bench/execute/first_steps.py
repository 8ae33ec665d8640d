"""How fast runs are on this machine now, by a few steps of each beside the other, before a plan is made."""

import tempfile
from dataclasses import replace
from pathlib import Path

from lora_bench.errors import BadInput
from lora_bench.execute.options import RunOptions
from lora_bench.execute.run_suite import Silent, run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import Task
from lora_bench.util.signals import CODES, Stopped

# Rows of a split that is scored, as scoring is not what is measured.
SCORED_ROWS = 16


def slowdowns(suite: Suite, rows: int, seconds: float) -> dict[str, float]:
    """Do the runs of a suite of one table of so many *rows*; return how many times its estimate a run of each method takes.

    A method that does not end in so many *seconds* is missing; all are, if the rows are too few for splits as small as these.
    Raise Stopped if a signal stopped the runs.
    """
    ((task, base),) = suite.tasks
    suite = replace(suite, tasks=((_less_scored(task, rows), base),))
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = make_plan(suite, Path(folder) / suite.name)
            outcome = run_suite(suite, RunOptions(runs=folder, minutes=seconds / 60, pack=False), display=Silent())
        except BadInput:
            return {}
    if outcome.interrupted in CODES:
        raise Stopped(outcome.interrupted)
    planned = {cell.job.run_id: cell.estimate.seconds for cell in plan.cells}
    found = {}
    for record in outcome.records:
        speed = record.speed
        if record.status == "ok" and speed is not None and speed.examples_per_second and speed.train_examples:
            # By the mean of all steps but the first: a few long batches take much of the time.
            taken = speed.train_examples / speed.examples_per_second + (speed.evaluation_seconds or 0.0)
            found[record.spec.method.label] = taken / planned[record.run_id]
    return found


def _less_scored(task: Task, rows: int) -> Task:
    """Return a task with as few rows to score as a split may have, where they are shares of its table."""
    share = SCORED_ROWS / rows
    if task.split is None or task.split.test is None or share > task.split.test:
        return task
    few = {"train": 1 - 2 * share, "selection": share, "test": share}
    return task.model_copy(update={"split": task.split.model_copy(update=few)})
