"""The cells of probe records, and how far two measurements of an unchanged cell may differ.

The process is the unit of replication. A cell's step time is the geometric mean over the medians of its processes. So the noise
floor is of the very numbers shown. Every other number is a median over the processes; one that was not measured is a dash.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from lora_bench.records.probe_record import ProbeRecord, ProbeSpec, State
from lora_bench.report import text
from lora_bench.report.frames.record_frame import at
from lora_bench.report.model.rows import grouped

STEP = "speed.step_seconds_median"
WIDE = "wide.step_seconds_median"

Value = str | Callable[[ProbeRecord], float | None]


@dataclass(frozen=True)
class Probed:
    """A cell with the records of its processes: those that are `ok`, those of a second, unchanged measurement, and others."""

    spec: ProbeSpec
    records: tuple[ProbeRecord, ...]
    twins: tuple[ProbeRecord, ...]
    failures: tuple[ProbeRecord, ...]

    @property
    def is_reference(self) -> bool:
        """True if the cell trains all weights."""
        return self.spec.method.name == "full"

    def value(self, of: Value) -> float | None:
        """Return a field by its path, or a value computed from a record, over the processes that have it: see the module."""
        known = values(self.records, of)
        if not known:
            return None
        return statistics.geometric_mean(known) if of in (STEP, WIDE) else statistics.median(known)


def values(records: Sequence[ProbeRecord], of: Value) -> list[float]:
    """Return a field by its path, or a value computed from a record, of each record that has it."""
    found = [at(record, of) if isinstance(of, str) else of(record) for record in records]
    return [one for one in found if one is not None]


def pass_seconds(record: ProbeRecord, shape: tuple[int, int], state: State) -> float | None:
    """Return the time of a forward pass of a batch size and length."""
    latencies = record.inference.latencies if record.inference is not None else ()
    same = (one for one in latencies if (one.batch_size, one.length, one.state) == (*shape, state))
    return next((one.seconds_median for one in same), None)


def longer_passes(cell: Probed, shape: tuple[int, int], state: State) -> list[float]:
    """Return by how much longer a pass took than the base model's in the same process, as a share, of each process."""
    both = [[pass_seconds(record, shape, of) for of in ("unadapted", state)] for record in cell.records]
    return [own / base - 1 for base, own in both if base and own is not None]


def pass_shapes(cell: Probed) -> list[tuple[int, int]]:
    """Return the batch sizes and lengths of a cell's forward passes, ascending."""
    latencies = [one for record in cell.records if record.inference for one in record.inference.latencies]
    return sorted({(one.batch_size, one.length) for one in latencies})


def probed_cells(records: Sequence[ProbeRecord]) -> list[Probed]:
    """Return the cells of probe records, in the order of their models and methods, whatever the order of the records."""
    cells = []
    for group in grouped(sorted(records, key=lambda one: one.run_id), lambda record: record.probe_id).values():
        ok = [record for record in group if record.status == "ok"]
        cells.append(
            Probed(
                spec=group[0].spec,
                records=tuple(record for record in ok if not record.twin),
                twins=tuple(record for record in ok if record.twin),
                failures=tuple(record for record in group if record.status != "ok"),
            )
        )
    return sorted(cells, key=_order)


def _order(cell: Probed) -> tuple[object, ...]:
    spec = cell.spec
    return (
        text.natural(spec.model.shown), spec.kind, spec.batch_size, spec.length, spec.shown_precision,
        not cell.is_reference, text.natural(spec.method.label), spec.probe_id,
    )  # fmt: skip


def comparable(cells: Sequence[Probed]) -> list[list[Probed]]:
    """Return the cells that may be compared: those of one base model at one shape."""
    key = attrgetter(
        "model.sha256", "model.shown", "kind", "labels", "batch_size", "length", "shown_precision", "attention", "threads",
        "device",
    )  # fmt: skip
    return [*grouped(cells, lambda cell: key(cell.spec)).values()]


def device_name(record: ProbeRecord) -> str:
    """Return the device of a process as a reader should see it."""
    environment = record.environment
    if environment is None:
        return record.spec.device
    if environment.device is not None and environment.device != "cpu":
        return text.inert(environment.device)
    return f"{text.inert(environment.cpu or 'a CPU')} ({text.plural(record.spec.threads, 'thread')})"


def noise_floor(cells: Sequence[Probed]) -> float | None:
    """Return the share by which two step times of an unchanged cell may differ: 19 of 20 such pairs differ by less.

    docs/probes.md#the-noise-floor has the formula. Where numbers of processes differ, their harmonic mean is taken. None where
    no measurement has two.
    """
    # Only here, so that what merely has reports at hand loads no scipy.
    from scipy.stats import t as student

    measurements = [values(records, STEP) for cell in cells for records in (cell.records, cell.twins)]
    logs = [[math.log(seconds) for seconds in steps] for steps in measurements if len(steps) > 1]
    freedom = sum(len(one) - 1 for one in logs)
    if not freedom:
        return None
    squares = sum((value - statistics.fmean(one)) ** 2 for one in logs for value in one)
    processes = statistics.harmonic_mean([len(one) for one in logs])
    width = float(student.ppf(0.975, freedom)) * math.sqrt(squares / freedom) * math.sqrt(2 / processes)
    return math.expm1(width)


def unchanged_difference(cell: Probed) -> float | None:
    """Return the change in step time from a cell's first measurement to its second, unchanged one, as a signed share."""
    first, again = values(cell.records, STEP), values(cell.twins, STEP)
    if not first or not again:
        return None
    return statistics.geometric_mean(again) / statistics.geometric_mean(first) - 1
