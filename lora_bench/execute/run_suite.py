"""Do a suite: plan it, do the missing runs, and return every record.

The same command again does only the missing runs. A pair that does not work, or a method that no size fits to the budget,
becomes a record with its reason at once. Several processes may work on one folder: a record is written once.
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.execute.choices import clear_states, settle
from lora_bench.execute.executors.local import LocalWorkers, worker_environments
from lora_bench.execute.executors.ray import RayWorkers, connected
from lora_bench.execute.options import RunOptions, in_this_process
from lora_bench.execute.outcome import Outcome
from lora_bench.execute.progress import Display, own_display
from lora_bench.execute.scheduler import Deadline, Scheduler, SuiteExecutor
from lora_bench.methods import broken_plug_ins
from lora_bench.models.shapes import refuse_shapes
from lora_bench.pack.group_runs import most_members, packs
from lora_bench.plan.cell import Cell
from lora_bench.plan.cost_estimate import BYTES_PER_WEIGHT, WORKER_BYTES, default_workers
from lora_bench.plan.make_plan import Plan, make_plan
from lora_bench.records.baseline_folder import StoredRuns
from lora_bench.records.environment import card_memory, cuda_devices, too_few_devices
from lora_bench.records.outcomes import at_work, is_done_again, is_untried
from lora_bench.records.record import Record, Status
from lora_bench.records.run_lock import Watch, others_at_work
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import free_bytes
from lora_bench.suite.consent import check_permissions, require_permission
from lora_bench.suite.load_suite import Suite, load_suite
from lora_bench.suite.probe_suite import ProbeSuite
from lora_bench.training.job import Job
from lora_bench.training.measure.step_costs import CONTEXT_BYTES, GAPS
from lora_bench.util.atomic_files import check_writable, remove_orphans
from lora_bench.util.failpoints import reach

# Statuses of a run whose cause may be gone the next time.
RETRIED = ("failed", "timeout", "out_of_memory")

# A run may be silent for its whole estimated time, and at least for this long: reading a large data set, or the first step on a
# device.
LEAST_PATIENCE_SECONDS = 1800.0


class Silent(Display):
    """A display that shows nothing."""


def runs_folder(suite: Suite | ProbeSuite, runs: Path, series: str | None = None) -> Path:
    """Return the folder of a suite's runs: `RUNS/SUITE`, or `RUNS/SUITE/SERIES` for a series."""
    return runs / suite.name / series if series else runs / suite.name


def run_suite(
    suite: Suite | str | Path,
    options: RunOptions | None = None,
    *,
    display: Display | None = None,
    **named: Any,
) -> Outcome:
    """Do every run of a suite that has no record yet.

    Args:
        suite: A suite, its name, or its file.
        options: Options for its runs.
        display: Shows progress; by default in a terminal and in a notebook. `Silent()` shows nothing.
        named: Options by name, such as `workers=2`; see `RunOptions`.

    Raises:
        BadInput: With every fault of the suite, its data and its models, or with all code that is not allowed; nothing has
            been written then.
        LoraBenchError: If a clock ends runs, and several would run at once, or another process does runs of the suite on this
            machine; or if the options contradict each other.
        WorkBroken: If a file or the system fails in the middle of the work.
    """
    options = replace(options or RunOptions(), **named)
    if display is None:
        with own_display() as display:
            return run_suite(suite, options, display=display)
    screen = display
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    suite = replace(suite, code=suite.code | check_permissions(options.allow_code, suite))
    require_permission(suite)
    refuse_shapes(entry.model for entry in suite.models)
    folder = options.folder or runs_folder(suite, Path(options.runs), options.series)
    for name, fault in broken_plug_ins().items():
        screen.say(f"warning: the plug-in {name} cannot be imported, so its methods are missing: {fault}")
    taken: set[str] = set()
    told: set[str] = set()
    interrupted, working = None, False
    minutes = options.minutes
    deadline = None if minutes is None else Deadline(time.monotonic() + 60 * minutes, options.afterwards)
    stored = None if options.continue_from is None else StoredRuns(Path(options.continue_from))

    def untried(record: Record) -> bool:
        # A run that this command repeated counts as tried, however it ended.
        again = options.retry and record.status in RETRIED and record.run_id not in taken
        return again or is_untried(record)

    with at_work(lambda: bool(taken), lambda: working), connected(options.ray) as cluster:
        while True:
            reach("suite.plan")
            plan = make_plan(
                suite, folder, series=options.series, data_dir=options.data_dir, only=options.only,
                progress=screen.say, untried=untried, slowdowns=options.slowdowns,
            )  # fmt: skip
            wanted = _wanted(plan, options, taken)
            if stored is not None and _copied(plan, stored):
                continue
            remove_orphans(folder)
            # A run requested by its id needs no choice.
            if _put_damage_aside(plan, screen) or (not options.only and settle(plan, screen.say)):
                continue
            if not options.only:
                clear_states(plan)
            for sentence in dict.fromkeys(plan.decided):
                if sentence not in told:
                    screen.say(sentence)
                    told.add(sentence)
            if interrupted is not None or (taken and not wanted):
                break
            if not taken:
                _check_company(wanted, folder)
                _say_lost(plan, options, screen)
                if wanted:
                    for caution in plan.cautions:
                        screen.say(f"warning: {caution}")
            taken.update(cell.job.run_id for cell in wanted)
            if deadline is not None:
                for record in filter(None, (cell.record for cell in plan.cells)):
                    deadline.note(record)
            reach("suite.planned")
            work = _begun(plan, wanted, folder, screen, options, cluster, deadline)
            working = working or work is not None
            interrupted = work.run() if work is not None else None
            # Trials choose later runs, and runs start from others. Runs that waited for these are known now, and choices are
            # made again, because a record may have changed meanwhile.
            if not wanted or not (plan.waiting or plan.chosen):
                break
        outcome = _outcome(plan, folder, taken, interrupted, wait=options.wait)
    return outcome


def _outcome(plan: Plan, folder: Path, taken: set[str], interrupted: str | None, *, wait: bool) -> Outcome:
    # Read before the records: a process that finishes meanwhile publishes its record first.
    held = set() if wait or interrupted else _held(plan, taken)
    # Records that this command did not touch were read when the suite was planned.
    ended = [cell.job.folder.record() if cell.job.run_id in taken else cell.record for cell in plan.cells]
    records = [record for record in ended if record is not None]
    # A run of a choice that no longer holds is unknown.
    undone = taken & {cell.job.run_id for cell in plan.cells} - {record.run_id for record in records}
    later = sum(waiting.runs for waiting in plan.waiting)
    return Outcome(
        suite=plan.suite.name,
        folder=folder,
        records=tuple(records),
        done=len(taken),
        interrupted=interrupted,
        undone=tuple(cell.job.spec for cell in plan.cells if cell.job.run_id in undone - held),
        elsewhere=len(undone & held),
        later=later,
    )


def _copied(plan: Plan, stored: StoredRuns) -> bool:
    """Copy the missing runs that are stored elsewhere. Return True if there were any."""
    missing = [cell.job for cell in plan.missing if cell.job.run_id in stored.records]
    return any([stored.copy(job.run_id, job.folder) for job in missing])


def _put_damage_aside(plan: Plan, screen: Display) -> bool:
    """Move damaged records to the quarantine, and report them. Return True if there were any."""
    damaged = [damage for cell in plan.cells if (damage := cell.job.folder.put_damage_aside(cell.record)) is not None]
    for damage in damaged:
        screen.say(f"warning: {damage}")
    return bool(damaged)


def _say_lost(plan: Plan, options: RunOptions, screen: Display) -> None:
    """Say which predictions are gone, by which scores lack intervals over items; with `--retry` they are made again."""
    lost = [path for cell in plan.cells if (path := _lost(cell)) is not None]
    if lost and not options.retry:
        beside = f" and {len(lost) - 1} more are" if len(lost) > 1 else " is"
        screen.say(
            f"warning: {lost[0]}{beside} gone, so the report lacks intervals over the test items; --retry makes them again"
        )


def _lost(cell: Cell) -> Path | None:
    """Return the predictions of a reported run that are gone; those of a trial have had their use."""
    if cell.record is None or cell.job.trial:
        return None
    return cell.job.folder.lost_predictions(cell.record)


def _held(plan: Plan, taken: Collection[str]) -> set[str]:
    """Return the ids of runs without a record that other processes have."""
    folders = {cell.job.run_id: cell.job.folder for cell in plan.cells if cell.job.run_id in taken}
    return {
        run_id for run_id, folder in folders.items() if folder.record() is None and not Watch().is_free(folder.path)
    }


def _begun(
    plan: Plan,
    wanted: list[Cell],
    folder: Path,
    screen: Display,
    options: RunOptions,
    cluster: Any,
    deadline: Deadline | None,
) -> Scheduler | None:
    """Publish records of runs that cannot be done; return the work on the others, if any, which stops at the *deadline*."""
    if wanted:
        check_writable(folder, "--runs")
    _check_disk(wanted, folder)
    # The longest come first, so that none remains alone at the end; where time ends the work, all methods' runs of a seed.
    runnable = [cell for cell in wanted if cell.reason is None]
    runnable.sort(key=lambda cell: (0 if deadline is None else cell.job.spec.seed, -cell.estimate.seconds))
    timed, workers = _timed(runnable), options.workers
    if timed and workers is not None and workers > 1:
        raise LoraBenchError(f"use --workers 1 in place of {workers}: {_use_up(timed)}")
    executor = _executor(runnable, folder, options, cluster) if runnable else None
    for cell in wanted:
        # Another process may have repeated it meanwhile.
        if cell.record is not None and cell.record == cell.job.folder.record():
            cell.job.folder.retry(cell.record)
    for cell in wanted:
        if cell.reason is not None:
            screen.finished(_publish(cell, "unsupported" if cell.blocked is None else "failed", cell.reason))
    screen.planned(plan, runnable, 0 if executor is None else executor.workers)
    if executor is None:
        return None
    cells = {cell.job.run_id: cell for cell in runnable}
    return Scheduler(
        [cell.job for cell in runnable],
        executor,
        screen,
        units=partial(_units, cells, executor, options),
        publish_lost=lambda lost: _publish(cells[lost.job.run_id], lost.status, lost.reason),
        wait=options.wait,
        deadline=deadline,
    )


def _units(
    cells: Mapping[str, Cell], executor: SuiteExecutor, options: RunOptions, jobs: Sequence[Job]
) -> list[list[Job]]:
    """Return units of work: packs of runs that may share their steps, and single runs."""
    workers, among = executor.workers, options.among
    alone = [replace(job, exclusive=workers <= 1, cut=options.cut) for job in jobs]
    if not options.pack:
        return [[job] for job in alone]
    most = partial(_most_members, cells, workers, on_gpu=executor.on_gpu)
    units = packs(alone, max(1, workers) * among, most)
    if among > 1 and any(len(unit) > 1 for unit in units):
        # If all processes began with one pack, each would get a few members.
        first = os.getpid() % len(units)
        return [*units[first:], *units[:first]]
    return units


def _timed(cells: list[Cell]) -> list[PlannedSpec]:
    return [cell.job.spec for cell in cells if cell.reason is None and cell.job.spec.training.uses("train_seconds")]


def _use_up(timed: list[PlannedSpec]) -> str:
    """Return the reason why runs that a clock ends are done alone."""
    return (
        f"{len(timed)} runs are ended by train_seconds, such as {timed[0].method.label} on {timed[0].model.name} for "
        f"{timed[0].task.name}: work beside them would use up their time"
    )


def _check_company(cells: list[Cell], folder: Path) -> None:
    timed, others = _timed(cells), others_at_work(folder)
    if timed and others:
        raise LoraBenchError(
            f"wait for process {others[0]}, which does runs in {folder} on this machine: {_use_up(timed)}"
        )


def _wanted(plan: Plan, options: RunOptions, taken: Collection[str]) -> list[Cell]:
    """Return the cells to do not taken up so far: without a record, ended from outside, or with *retry* failed."""
    known, only = dict.fromkeys(cell.job.run_id for cell in plan.cells), options.only
    for run_id in only:
        # A finished run may have become unknown, now that another learning rate is chosen.
        if run_id not in known and run_id not in taken:
            later = sum(waiting.runs for waiting in plan.waiting)
            unknown = f" ({later} runs are not known before others are done)" if later else ""
            raise LoraBenchError(
                f"the suite {plan.suite.name!r} has no run {run_id!r}{did_you_mean(run_id, known)}{unknown}"
            )
    again = [
        cell
        for cell in plan.cells
        if cell.record is not None
        and (
            is_done_again(cell.record)
            or cell.job.run_id in plan.untried
            or (options.retry and (cell.record.status in RETRIED or _lost(cell) is not None))
        )
    ]
    return [
        cell
        for cell in [*plan.missing, *again]
        if cell.job.run_id not in taken and (not only or cell.job.run_id in only)
    ]


def _check_disk(cells: list[Cell], folder: Path) -> None:
    needed, free = sum(cell.estimate.disk_bytes for cell in cells), free_bytes(folder)
    if needed > free:
        raise LoraBenchError(
            f"not enough disk space: the runs would leave about {needed / 2**20:,.0f} MiB in {folder}, and "
            f"{free / 2**20:,.0f} MiB are free; make room, or set keep_weights: none"
        )


def _publish(cell: Cell, status: Status, reason: str) -> Record:
    """Publish the record of a run that has no score and wrote no record itself."""
    return cell.job.folder.publish(cell.job.record(status, reason, parameters=cell.fit.parameters))


def _executor(cells: list[Cell], folder: Path, options: RunOptions, cluster: Any) -> SuiteExecutor:
    threads = max(cell.job.spec.training.threads for cell in cells)
    processes = max(cell.job.spec.training.processes for cell in cells)
    seconds = {cell.job.run_id: cell.estimate.seconds for cell in cells}

    def patience(job: Job) -> float | None:
        if options.timeout is not None:
            return options.timeout or None
        return max(LEAST_PATIENCE_SECONDS, seconds[job.run_id])

    log, costs, timed = folder / "workers.log", [cell.estimate for cell in cells], bool(_timed(cells))
    if cluster is not None:
        if processes > 1:
            raise LoraBenchError(
                f"--ray cannot train one run over {processes} processes; leave --ray out, or set training.processes to 1"
            )
        needed = max(cost.memory_bytes for cost in costs) + WORKER_BYTES
        asked = 1 if timed else options.workers
        pool = RayWorkers(cluster, asked, threads=threads, memory_bytes=needed, log=log, patience=patience)
        pool.workers = min(pool.workers, len(cells))
        return pool
    missing = too_few_devices(processes, cuda_devices()) if processes > 1 else None
    if missing is not None:
        raise LoraBenchError(f"{missing}; give this command more of them, or set training.processes to fewer")
    workers = options.workers
    if workers is None:
        workers = default_workers(costs, threads, timed=timed, processes=processes)
    if in_this_process(workers):
        from lora_bench.execute.executors.inline import ThisProcess

        return ThisProcess()
    workers = min(workers, len(cells))
    return LocalWorkers(workers, log, worker_environments(workers, processes), patience=patience)


def _most_members(cells: Mapping[str, Cell], workers: int, job: Job, *, on_gpu: bool) -> int:
    cell = cells[job.run_id]
    if cell.fit.shape is None:
        return 1
    import psutil

    recipe = cell.job.spec.training
    flops = 4.0 * cell.fit.shape.multiplied * recipe.batch_size * recipe.max_length
    if on_gpu:
        card = card_memory()
        together = -(-max(1, workers) // max(1, len(cuda_devices())))  # workers that share a card
        free = None if card is None else int(card * (1 - GAPS)) // together - CONTEXT_BYTES
    else:
        free = int(psutil.virtual_memory().available) // max(1, workers)
    base = BYTES_PER_WEIGHT * cell.fit.parameters.total if cell.fit.parameters is not None else 0
    return most_members(flops, cell.estimate.memory_bytes, free_bytes=free, on_gpu=on_gpu, shared_bytes=base)
