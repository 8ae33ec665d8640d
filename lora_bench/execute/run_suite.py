"""From a suite to its records: plan, do what is missing, and give back every record.

The same command again does only what is missing. What cannot run (a pair that does not work, a method that no size of which
meets the budget) becomes a record with its reason at once. Two processes may work on one folder: a record is written once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.execute.executors.base import Event, Lost
from lora_bench.execute.executors.choice import Chosen, choose, connected_to, in_this_process, on_cluster
from lora_bench.execute.shared_folder import do_with_others
from lora_bench.methods import broken_plug_ins
from lora_bench.pack.plan import most_members, packs
from lora_bench.plan.cell import Cell
from lora_bench.plan.cost_estimate import WORKER_BYTES, default_workers
from lora_bench.plan.make_plan import Plan, make_plan
from lora_bench.records.environment import cuda_devices, too_few_devices
from lora_bench.records.outcomes import DISK_FULL, at_work, is_attempt, is_done_again
from lora_bench.records.record import Record, Status
from lora_bench.records.run_lock import Elsewhere, Watch, others_at_work
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import free_bytes
from lora_bench.suite.load import Suite, load_suite
from lora_bench.training.job import Job
from lora_bench.util.atomic_files import check_writable, remove_orphans
from lora_bench.util.failpoints import reach
from lora_bench.util.filenames import file_name
from lora_bench.util.signals import stopping_on_signals

# Statuses that a run has for reasons that may be gone the next time.
RETRIED = ("failed", "timeout", "out_of_memory")

# A run may be silent for as long as all of it is likely to take, and at least for so long: reading a large data set, or
# the first step on a device.
LEAST_PATIENCE_SECONDS = 1800.0


class Display(Protocol):
    """Shown what happens; see `lora_bench.cli.progress`."""

    def say(self, message: str) -> None:
        """A line for the reader."""

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """The runs that are about to be done."""

    def event(self, event: Event) -> None:
        """A run began, or did a step."""

    def finished(self, record: Record) -> None:
        """A run ended."""


class Silent:
    """A display that shows nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def planned(self, plan: Plan, cells: list[Cell], workers: int) -> None:
        """Nothing."""

    def event(self, event: Event) -> None:
        """Nothing."""

    def finished(self, record: Record) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Outcome:
    """What became of a suite.

    Args:
        records: Every record of the suite, old and new, in the suite's order.
        done: How many runs were wanting and taken up, those that cannot run and those that were stopped among them.
        interrupted: What stopped the work, the name of a signal or `disk_full`, or None.
        undone: How many runs were taken up and have no record: the work was stopped, or a worker was told to stop alone.
        elsewhere: How many were left to the processes that are at them, where nobody was to be waited for.
        later: How many are not known before others are done.
    """

    records: tuple[Record, ...]
    done: int
    interrupted: str | None
    undone: int = 0
    elsewhere: int = 0
    later: int = 0


@dataclass(frozen=True)
class How:
    """How runs are done; see `run_suite`."""

    workers: int | None
    timeout: float | None
    pack: bool
    cut: bool
    among: int = 1
    wait: bool = True
    ray: Any = None


class Named(Protocol):
    """What has runs: a suite, or a suite of probes."""

    @property
    def name(self) -> str:
        """Its name."""


def runs_folder(suite: Named, runs: Path, series: str | None = None) -> Path:
    """The folder of a suite's runs: `RUNS/SUITE`, or `RUNS/SUITE/SERIES` for a series."""
    return runs / suite.name / series if series else runs / suite.name


def run_suite(
    suite: Suite | str | Path,
    *,
    runs: str | Path = "runs",
    workers: int | None = None,
    only: Collection[str] = (),
    retry: bool = False,
    series: str | None = None,
    data_dir: Path | None = None,
    display: Display | None = None,
    timeout: float | None = None,
    pack: bool = True,
    cut: bool = True,
    folder: Path | None = None,
    among: int = 1,
    wait: bool = True,
    ray: str | None = None,
) -> Outcome:
    """Do every run of a suite that has no record yet.

    Args:
        suite: A suite, its name, or its file.
        runs: The folder that holds `SUITE/RUN_ID`.
        workers: Runs at once; 0 does them in this process; None chooses from cores, devices and memory.
        only: Run ids to do, and no others; empty for all.
        retry: Do runs again that failed, timed out or ran out of memory.
        series: Label of a repeat of the whole suite with seeds of its own.
        data_dir: Folder that holds data sets in the layout in which they circulate.
        display: Shown what happens.
        timeout: Seconds that a run may make no progress before it is ended; 0 for any time; None follows its estimate.
        pack: Whether runs that may share a base take their steps together; see `lora_bench.pack`.
        cut: Whether DeBERTa's relative positions are cut to what rows reach; see `lora_bench.models.deberta_positions`.
        folder: The folder of the suite's runs, where it is not `RUNS/SUITE` or `RUNS/SUITE/SERIES`.
        among: How many processes do this at once, so that packs leave each of them something to do.
        wait: Whether to wait for runs that others are at, and to do what is known then.
        ray: Address of a Ray cluster that does the runs: HOST:PORT, "auto", or "local" for one of this machine that ends
            with the work. Its nodes see *runs*, the data and the base models under the same paths.

    Raises:
        BadInput: With every fault of the suite, its data and its models, before anything is written.
        LoraBenchError: If a clock ends runs, and they are to be done at once, or another process is at runs of the suite on
            this machine; or if runs that are done in this process are to be ended when they make no progress.
        WorkBroken: If a file or the system fails in the middle of the work.
    """
    shown = display or Silent()
    if ray is not None and workers == 0:
        raise LoraBenchError("--workers 0 does the runs in this process, and --ray on a cluster; leave one of them out")
    if timeout and ray is None and in_this_process(workers):
        way = "leave --timeout out on Windows" if workers != 0 else "give --timeout with --workers 1 or more"
        raise LoraBenchError(f"a run without progress is ended with its process, and this one does the runs: {way}")
    if series is not None:
        try:
            file_name(series)
        except ValueError as error:
            raise LoraBenchError(f"the series is no file's name: {error}") from None
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    folder = folder or runs_folder(suite, Path(runs), series)
    taken: set[str] = set()
    interrupted = None
    for name, fault in broken_plug_ins().items():
        shown.say(f"warning: the plug-in {name} cannot be imported, and its methods are not known: {fault}")
    with at_work(lambda: bool(taken)), connected_to(ray) as cluster:
        how = How(workers, timeout, pack, cut, among, wait, cluster)
        while True:
            reach("suite.plan")
            plan = make_plan(suite, folder, series=series, data_dir=data_dir, only=only, progress=shown.say)
            wanted = [cell for cell in _wanted(plan, only, retry) if cell.job.run_id not in taken]
            remove_orphans(folder)
            damaged = [
                said for cell in plan.cells if (said := cell.job.folder.put_damage_aside(cell.record)) is not None
            ]
            if damaged:
                for said in damaged:
                    shown.say(f"warning: {said}")
                continue
            if not taken:
                _check_company(wanted, folder)
            taken.update(cell.job.run_id for cell in wanted)
            reach("suite.planned")
            interrupted = _round(plan, wanted, folder, shown, how)
            # Trials choose what is run after them, and runs start from others: what waited for these is known now.
            if interrupted is not None or not wanted or not plan.waiting:
                break
    # Looked at before the records: whoever is done meanwhile leaves one first.
    held = set() if wait or interrupted else _held(plan, taken)
    # Those that this command had no part in were read when the suite was planned.
    found = [cell.job.folder.record() if cell.job.run_id in taken else cell.record for cell in plan.cells]
    records = [record for record in found if record is not None]
    undone = taken - {record.run_id for record in records}
    later = sum(waiting.runs for waiting in plan.waiting)
    return Outcome(tuple(records), len(taken), interrupted, len(undone - held), len(undone & held), later)


def _held(plan: Plan, taken: Collection[str]) -> set[str]:
    """The ids of runs without a record that other processes are at."""
    folders = {cell.job.run_id: cell.job.folder for cell in plan.cells if cell.job.run_id in taken}
    return {
        run_id for run_id, folder in folders.items() if folder.record() is None and not Watch().is_free(folder.path)
    }


def _round(plan: Plan, wanted: list[Cell], folder: Path, shown: Display, how: How) -> str | None:
    """Do the runs that are known; what stopped them, or None."""
    if wanted:
        check_writable(folder, "--runs")
    _check_disk(wanted, folder)
    # The longest first, so that no long run is left alone at the end.
    runnable = sorted((cell for cell in wanted if cell.reason is None), key=lambda cell: -cell.estimate.seconds)
    timed, workers = _timed(runnable), how.workers
    if timed and workers is not None and workers > 1:
        raise LoraBenchError(f"{workers} workers are asked for, and {_use_up(timed)}; take --workers 1")
    executor = _executor(runnable, folder, how) if runnable else None
    for cell in wanted:
        # Another process may have done it again meanwhile.
        if cell.record is not None and cell.record == cell.job.folder.record():
            cell.job.folder.retry(cell.record)
    for cell in wanted:
        if cell.reason is not None:
            shown.finished(_publish(cell, "unsupported" if cell.blocked is None else "failed", cell.reason))
    if executor is None:
        shown.planned(plan, runnable, 0)
        return None
    shown.planned(plan, runnable, executor.workers)
    return _do(runnable, executor, folder, shown, how)


def _timed(cells: list[Cell]) -> list[PlannedSpec]:
    """The specs of the runs that a clock may end."""
    return [cell.job.spec for cell in cells if cell.reason is None and cell.job.spec.training.uses("train_seconds")]


def _use_up(timed: list[PlannedSpec]) -> str:
    """Why runs that a clock ends are done alone."""
    return (
        f"{len(timed)} runs are ended by train_seconds, such as {timed[0].method.label} on {timed[0].model.name} for "
        f"{timed[0].task.name}: work beside them would use up their time"
    )


def _check_company(cells: list[Cell], folder: Path) -> None:
    timed, others = _timed(cells), others_at_work(folder)
    if timed and others:
        raise LoraBenchError(
            f"process {others[0]} is at runs in {folder} on this machine, and {_use_up(timed)}; wait until it is done"
        )


def _wanted(plan: Plan, only: Collection[str], retry: bool) -> list[Cell]:
    """The cells to do: those without a record or that somebody ended, and with *retry* those whose record says a failure."""
    known = dict.fromkeys(cell.job.run_id for cell in plan.cells)
    for run_id in only:
        if run_id not in known:
            later = sum(waiting.runs for waiting in plan.waiting)
            unknown = f" ({later} runs are not known before others are done)" if later else ""
            raise LoraBenchError(
                f"the suite {plan.suite.name!r} has no run {run_id!r}{did_you_mean(run_id, known)}{unknown}"
            )
    again = [
        cell
        for cell in plan.cells
        if cell.record is not None and (is_done_again(cell.record) or (retry and cell.record.status in RETRIED))
    ]
    return [cell for cell in [*plan.missing, *again] if not only or cell.job.run_id in only]


def _check_disk(cells: list[Cell], folder: Path) -> None:
    needed, free = sum(cell.estimate.disk_bytes for cell in cells), free_bytes(folder)
    if needed > free:
        raise LoraBenchError(
            f"the runs would leave about {needed / 2**20:,.0f} MiB in {folder}, and {free / 2**20:,.0f} MiB are free; "
            "make room, or set keep_weights: none"
        )


def _publish(cell: Cell, status: Status, reason: str) -> Record:
    """The record of a run that gave no score and wrote none itself."""
    return cell.job.folder.publish(cell.job.record(status, reason, parameters=cell.fit.parameters))


def _executor(cells: list[Cell], folder: Path, how: How) -> Chosen:
    """What does the runs."""
    threads = max(cell.job.spec.training.threads for cell in cells)
    processes = max(cell.job.spec.training.processes for cell in cells)
    workers = how.workers
    seconds = {cell.job.run_id: cell.estimate.seconds for cell in cells}

    def patience(job: Job) -> float | None:
        return (how.timeout or None) if how.timeout is not None else max(LEAST_PATIENCE_SECONDS, seconds[job.run_id])

    log, costs, timed = folder / "workers.log", [cell.estimate for cell in cells], bool(_timed(cells))
    if how.ray is not None:
        if processes > 1:
            raise LoraBenchError(
                f"a run over {processes} processes is done by the workers of one machine, and not by an actor of Ray; "
                "leave --ray out, or set training.processes to 1"
            )
        needed = max(cost.memory_bytes for cost in costs) + WORKER_BYTES
        asked = 1 if timed else workers
        chosen = on_cluster(how.ray, asked, threads=threads, memory_bytes=needed, patience=patience, log=log)
        return replace(chosen, workers=min(chosen.workers, len(cells)))
    missing = too_few_devices(processes, cuda_devices()) if processes > 1 else None
    if missing is not None:
        raise LoraBenchError(f"{missing}; give this command more of them, or set training.processes to fewer")
    if workers is None:
        workers = default_workers(costs, threads, timed=timed, processes=processes)
    return choose(min(workers, len(cells)), patience=patience, log=log, processes=processes)


def _do(cells: list[Cell], executor: Chosen, folder: Path, shown: Display, how: How) -> str | None:
    """Do the runs; what stopped them, the name of a signal or `disk_full`, or None."""
    by_id, workers = {cell.job.run_id: cell for cell in cells}, executor.workers
    full = False

    def done(jobs: Sequence[Job]) -> Generator[Record | Elsewhere | Lost[Job], None, None]:
        alone = [replace(job, exclusive=workers <= 1, cut=how.cut) for job in jobs]
        units = packs(alone, max(1, workers) * how.among, most) if how.pack else [[job] for job in alone]
        if how.among > 1 and any(len(unit) > 1 for unit in units):
            # Of a pack that all begin with, each would get a few members.
            first = os.getpid() % len(units)
            units = [*units[first:], *units[:first]]
        return executor.execute(units, shown.event)

    def most(job: Job) -> int:
        return _most_members(by_id[job.run_id], workers, on_gpu=executor.on_gpu)

    def publish_lost(lost: Lost[Job]) -> Record | None:
        # A worker that a stop caught before its first step had nothing to save.
        if lost.status != "timeout" and (stopped or full):
            return None
        return _publish(by_id[lost.job.run_id], lost.status, lost.reason)

    jobs = [cell.job for cell in cells]
    with (
        stopping_on_signals(executor.stop) as stopped,
        closing(
            do_with_others(jobs, done, lambda: bool(stopped) or full, shown.say, publish_lost, wait=how.wait)
        ) as results,
    ):
        for result in results:
            reach("suite.finished")
            shown.finished(result)
            if not full and result.status == "failed" and is_attempt(result):
                # What comes after it would fail too: the others are stopped, and leave what they can.
                full = True
                executor.stop("SIGTERM")
    return stopped[0] if stopped else DISK_FULL if full else None


def _most_members(cell: Cell, workers: int, *, on_gpu: bool) -> int:
    """How many runs like this a pack has at most."""
    if cell.fit.shape is None:
        return 1
    import psutil

    recipe = cell.job.spec.training
    flops = 4.0 * cell.fit.shape.multiplied * recipe.batch_size * recipe.max_length
    free = None if on_gpu else int(psutil.virtual_memory().available) // max(1, workers)
    return most_members(flops, cell.estimate.memory_bytes, free_bytes=free)
