"""Set aside runs of a choice that no longer holds, and restore them when it holds again.

    runs/<suite>/<run_id>/superseded.json    the record of a run that the current records do not choose

The state that a short trial leaves for a longer one is removed once that is done, or another rate goes on.

A learning rate is chosen by trials, and a start by the runs of another task. When such a record is made again the choice may
change, and the folder then has runs of the earlier choice. No report reads them there. A choice among more rates than before
may also be the same: its runs then state the search as it is now.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from lora_bench.errors import BadInput
from lora_bench.plan.make_plan import Plan
from lora_bench.records.budget import Budget
from lora_bench.records.checkpoint_files import remove_checkpoints
from lora_bench.records.layout import RECORD
from lora_bench.records.outcomes import goes_on, is_done_again
from lora_bench.records.record import Record
from lora_bench.records.spec import RunSpec
from lora_bench.records.store import RunFolder, read_record
from lora_bench.util.atomic_files import sync_folder

SUPERSEDED = "superseded.json"
# Ids of runs in one line.
SHOWN = 3


def settle(plan: Plan, say: Callable[[str], None]) -> bool:
    """Set aside runs of choices that do not hold, and restore those that hold again. Return True if any record changed."""
    aside = [record for record in _not_chosen(plan) if _move(RunFolder(plan.runs / record.run_id), RECORD, SUPERSEDED)]
    if aside:
        say(
            f"warning: {_shown([record.run_id for record in aside])} no longer chosen by the current records, "
            f"and not reported; each record was moved to {SUPERSEDED} in its folder of {plan.runs}"
        )
    back = [cell for cell in plan.chosen if cell.record is None and _move(cell.job.folder, SUPERSEDED, RECORD)]
    if back:
        say(
            f"{_shown([cell.job.run_id for cell in back])} chosen again by the current records: the record of each was restored"
        )
    restated = [cell for cell in plan.cells if cell.record is not None and _restate(cell.job.folder, cell.job.budget)]
    return bool(back or restated)


def clear_states(plan: Plan) -> None:
    """Remove the handovers and checkpoints of finished runs from which no run of a plan may go on any more."""
    unfinished = [
        cell
        for cell in plan.cells
        if cell.record is None or cell.job.run_id in plan.untried or is_done_again(cell.record)
    ]
    needed = {cell.job.after for cell in unfinished}
    undecided = {
        (cell.place, cell.job.rung) for waiting in plan.waiting for cell in waiting.cells if cell.job.after is not None
    }
    for cell in plan.cells:
        folder, rung = cell.job.folder, cell.job.rung
        if cell.record is None or goes_on(cell.record):
            continue
        hands_over = cell.job.run_id in needed or (rung is not None and (cell.place, rung + 1) in undecided)
        states = [path for path in (folder.checkpoints, *([] if hands_over else [folder.handover])) if path.is_dir()]
        lock = folder.try_lock() if states else None
        if lock is None:
            continue
        with lock:
            if folder.record() == cell.record:  # else another process does it again
                for path in states:
                    remove_checkpoints(path)


def _not_chosen(plan: Plan) -> Iterator[Record]:
    """Yield the records that differ from a run of a choice only in the choice."""
    planned = {cell.job.run_id for cell in plan.cells}
    of_choices = [*plan.chosen, *(cell for waiting in plan.waiting for cell in waiting.cells)]
    alike = {_without_choice(cell.job.spec) for cell in of_choices}
    for path in sorted(plan.runs.glob(f"*/{RECORD}")) if alike else []:
        if path.parent.name not in planned:
            with contextlib.suppress(BadInput):  # no report reads a damaged record either
                record = read_record(path)
                if _without_choice(record.spec) in alike:
                    yield record


def _without_choice(spec: RunSpec) -> str:
    """Return the id that a run would have without its choice."""
    chosen = {name: value for name, value in spec.method.chosen.items() if name in spec.method.options}
    method = spec.method.model_copy(update={"chosen": chosen})
    training = spec.training.model_copy(update={"learning_rate": None})
    # An adapter was given by the user.
    start = spec.start if spec.start is not None and spec.start.run_id is None else None
    return spec.model_copy(update={"method": method, "training": training, "start": start}).run_id


def _move(folder: RunFolder, name: str, to: str) -> bool:
    """Rename a file of a run, unless another process has the run. Return True if it was renamed."""
    if not (folder.path / name).is_file():
        return False
    lock = folder.try_lock()
    if lock is None:
        return False
    with lock:
        if not (folder.path / name).is_file() or (to == RECORD and folder.record() is not None):
            return False
        (folder.path / name).replace(folder.path / to)
        sync_folder(folder.path)
    return True


def _restate(folder: RunFolder, budget: Budget | None) -> bool:
    """Let a record state the number of trials of today's suite, which changes no run. Return True if it stated another."""
    record = folder.record()
    if record is None or record.budget is None or budget is None or record.budget.trials == budget.trials:
        return False
    lock = folder.try_lock()
    if lock is None:
        return False
    with lock:
        folder.renew(record.model_copy(update={"budget": record.budget.model_copy(update={"trials": budget.trials})}))
    return True


def _shown(run_ids: Sequence[str]) -> str:
    """Return the first few of some runs and how many follow, with the verb."""
    named = ", ".join(run_ids[:SHOWN])
    more = f" and {len(run_ids) - SHOWN:,} more" if len(run_ids) > SHOWN else ""
    return f"run {named} is" if len(run_ids) == 1 else f"runs {named}{more} are"
