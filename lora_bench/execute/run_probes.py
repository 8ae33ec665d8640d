"""Do the probes of a suite: one process after another, each alone on its device.

The same command again measures only missing records. A pair that does not work, or a cell that does not fit, becomes a record
with its reason, and the other cells are measured.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from lora_bench.errors import LoraBenchError
from lora_bench.execute.executors.executor import Lost
from lora_bench.execute.executors.local import LocalWorkers
from lora_bench.plan.probe_plan import ProbePlan
from lora_bench.probe.device import company, used_bytes
from lora_bench.probe.probe_job import ProbeJob
from lora_bench.records.environment import CudaDevice
from lora_bench.records.outcomes import DISK_FULL
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.probe_store import ProbeFolder
from lora_bench.training.job import Note, Word
from lora_bench.util.signals import stopping_on_signals

# A process of a probe takes minutes, and sends nothing meanwhile.
PATIENCE_SECONDS = 3600.0


@dataclass(frozen=True)
class ProbeOutcome:
    """Every record of a suite's probes, in the plan's order, and the cause that stopped the work, as `Outcome.interrupted`."""

    records: tuple[ProbeRecord, ...]
    interrupted: str | None


def run_probes(
    plan: ProbePlan,
    *,
    share: bool = False,
    retry: bool = False,
    tell: Callable[[ProbeRecord, str], None] = lambda record, place: None,
    say: Callable[[str], None] = lambda message: None,
) -> ProbeOutcome:
    """Measure the cells without a record.

    *share* measures although other work uses the device, and the records then say so. *retry* measures again those that did not
    end `ok`. *tell* gets each record, and its number among those to do, such as `[2/12]`. Raise LoraBenchError if other work
    uses the device, with its name. Raise WorkersLost if no process can be started.
    """
    folder = ProbeFolder(plan.folder)
    for refused in plan.refused:
        if folder.record(refused.run_id) is None:
            tell(folder.publish(refused), "")
    missing, interrupted = plan.missing(retry=retry), None
    if missing:
        idle = _idle_device(missing[0].card, share)
        for job in missing:
            folder.retry(job.run_id)
        pool: LocalWorkers[ProbeJob, ProbeRecord] = LocalWorkers(
            1, plan.folder.parent / "workers.log", fresh=True, patience=lambda job: PATIENCE_SECONDS
        )
        units = [[replace(job, idle_bytes=idle)] for job in missing]
        full = False

        def note(word: Word) -> None:
            if isinstance(word, Note):
                say(f"note: {word.text}")

        pool.submit(units)
        with stopping_on_signals(pool.stop) as stopped, closing(pool.results(note)) as results:
            for number, result in enumerate(results, start=1):
                if isinstance(result, Lost):
                    if stopped or full:
                        continue  # a stop ended it; the same command measures it again
                    result = result.job.publish(result.job.record(result.status, result.reason))
                tell(result, f"[{number}/{len(missing)}]")
                if result.reason == DISK_FULL:
                    full = True
                    pool.stop("SIGTERM")
        interrupted = stopped[0] if stopped else DISK_FULL if full else None
    records = [found for job in plan.jobs if (found := job.published()) is not None]
    return ProbeOutcome((*plan.refused, *records), interrupted)


def _idle_device(card: CudaDevice | None, share: bool) -> int | None:
    """Return the bytes used on a CUDA device before any work, or None; refuse a device in use, unless it may be shared."""
    others = company(card)
    if others and not share:
        raise LoraBenchError(
            f"wait until the {'CPU' if card is None else 'GPU'} is free: it is in use by {', '.join(others)}; or measure "
            "with `lora-bench probe --share`, which marks the records as not exclusive"
        )
    return None if card is None else used_bytes(card)


def shown(record: ProbeRecord) -> str:
    """Describe a process of a probe in a line."""
    spec = record.spec
    cell = f"{spec.model.shown} · {spec.method.label} · process {record.repeat}{' (unchanged)' if record.twin else ''}"
    if record.speed is None:
        return f"{cell}: {record.status}{f': {record.reason}' if record.reason else ''}"
    return f"{cell}: {record.speed.step_seconds_median * 1000:.1f} ms a step"
