"""From a suite to the records of its probes: one process after another, each alone on its device.

The same command again measures only what is missing. A pair that does not work, and a cell that does not fit, is a record
with its reason, and the other cells are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lora_bench.errors import LoraBenchError
from lora_bench.executors.base import Lost
from lora_bench.executors.local import LocalWorkers
from lora_bench.probe.device import company, used_bytes
from lora_bench.probe.job import ProbeJob
from lora_bench.probe_plan import ProbePlan
from lora_bench.probe_record import ProbeRecord
from lora_bench.probe_store import ProbeFolder
from lora_bench.stopping import stopping_on_signals

Say = Callable[[str], None]

# Statuses that a process has for reasons that may be gone the next time.
RETRIED = ("failed", "timeout", "out_of_memory")


@dataclass(frozen=True)
class ProbeOutcome:
    """What became of a suite's probes.

    Args:
        records: Every record, old and new, in the plan's order.
        interrupted: The signal that stopped the work, or None.
    """

    records: tuple[ProbeRecord, ...]
    interrupted: str | None


def run_probes(
    plan: ProbePlan, *, share: bool = False, retry: bool = False, say: Say = lambda line: None
) -> ProbeOutcome:
    """Measure what has no record yet.

    Args:
        plan: What to measure.
        share: Measure although something else is at work on the device; the records then say that it was.
        retry: Measure again what failed or ran out of memory.
        say: Told a line for each process that is done.

    Raises:
        LoraBenchError: If something else is at work on the device, with its name.
        WorkersLost: If no process can be started.
    """
    folder = ProbeFolder(plan.folder)
    for refused in plan.refused:
        if folder.record(refused.run_id) is None:
            say(shown(folder.publish(refused)))
    if retry:
        for job in plan.jobs:
            found = job.published()
            if found is not None and found.status in RETRIED:
                folder.retry(job.run_id)
    missing, interrupted = plan.missing, None
    if missing:
        missing = _placed(missing, share)
        pool: LocalWorkers[ProbeJob, ProbeRecord] = LocalWorkers(1, plan.folder.parent / "workers.log", fresh=True)
        with stopping_on_signals(pool.stop) as stopped:
            for number, result in enumerate(pool([[job] for job in missing], lambda event: None), start=1):
                if isinstance(result, Lost):
                    if stopped:
                        continue
                    result = result.job.publish(result.job.record("failed", result.reason))
                say(f"[{number}/{len(missing)}] {shown(result)}")
        interrupted = stopped[0] if stopped else None
    records = [found for job in plan.jobs if (found := job.published()) is not None]
    return ProbeOutcome((*plan.refused, *records), interrupted)


def _placed(jobs: list[ProbeJob], share: bool) -> list[ProbeJob]:
    """The jobs with what is known of the device before any work."""
    device = jobs[0].spec.device
    others = company(device)
    if others and not share:
        raise LoraBenchError(
            f"the {'GPU' if device == 'cuda' else 'CPU'} is in use by {', '.join(others)}: wait until it is free, or give "
            "--share to measure all the same; every number is then marked as not exclusive"
        )
    idle = used_bytes() if device == "cuda" else None
    return [replace(job, exclusive=not others, idle_bytes=idle) for job in jobs]


def shown(record: ProbeRecord) -> str:
    """A process of a probe in a line."""
    spec = record.spec
    cell = f"{spec.model.shown} · {spec.method.label} · process {record.repeat}{' (unchanged)' if record.twin else ''}"
    if record.speed is None:
        return f"{cell}: {record.status}{f': {record.reason}' if record.reason else ''}"
    return f"{cell}: {record.speed.step_seconds_median * 1000:.1f} ms a step"
