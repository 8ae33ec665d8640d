"""What the probes of a suite found, as lines of Markdown: speed, memory, use and storage, and how far to trust them.

The process is the unit of replication: a cell's number is the median over its processes, each of which gave a median over
its steps. One cell is measured twice unchanged, and what that shows stands before any difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lora_bench.probe_record import Latency, ProbeRecord, ProbeSpec, State
from lora_bench.report import text
from lora_bench.report.text import MISSING, code, inert

REFERENCE = "full"
STEP = "speed.step_seconds_median"

Value = str | Callable[[ProbeRecord], float | None]


@dataclass(frozen=True)
class Probed:
    """A cell with the records of its processes.

    Args:
        records: Those that are `ok`.
        twins: Those of the same cell measured a second time unchanged.
        failures: Those with another status.
    """

    spec: ProbeSpec
    records: tuple[ProbeRecord, ...]
    twins: tuple[ProbeRecord, ...]
    failures: tuple[ProbeRecord, ...]

    def median(self, value: Value) -> float | None:
        """The median over the processes that have it: of a field by its path, or of what is computed from a record."""
        found = [_of(record, value) if isinstance(value, str) else value(record) for record in self.records]
        known = [one for one in found if one is not None]
        return statistics.median(known) if known else None

    @property
    def step_seconds(self) -> list[float]:
        """The median step of each process."""
        return [record.speed.step_seconds_median for record in self.records if record.speed is not None]


def _of(record: ProbeRecord, path: str) -> float | None:
    """A field of a part of a record, such as `speed.forward_seconds`; null where the part is."""
    part, name = path.split(".")
    found = getattr(record, part)
    value: float | None = getattr(found, name) if found is not None else None
    return value


def probed_cells(records: Sequence[ProbeRecord]) -> list[Probed]:
    """The cells of probe records, in the order of their models and methods."""
    by_id: dict[str, list[ProbeRecord]] = {}
    for record in records:
        by_id.setdefault(record.probe_id, []).append(record)
    cells = []
    for group in by_id.values():
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
        text.natural(spec.model.shown), spec.kind, spec.batch_size, spec.length, spec.precision,
        spec.method.name != REFERENCE, text.natural(spec.method.label), spec.probe_id,
    )  # fmt: skip


def noise_floor(cells: Sequence[Probed]) -> float | None:
    """How much two measurements of an unchanged cell may differ, as a share: 19 of 20 such pairs differ by less.

    From the spread of the processes of every cell around their own mean, on the logarithm, pooled: the half-width of a
    95 % t-interval for the difference of two means of as many processes. Null where no cell has two processes.
    """
    logs = [[math.log(value) for value in cell.step_seconds] for cell in cells if len(cell.step_seconds) > 1]
    freedom = sum(len(values) - 1 for values in logs)
    if not freedom:
        return None
    squares = sum((value - statistics.fmean(values)) ** 2 for values in logs for value in values)
    processes = statistics.harmonic_mean([len(values) for values in logs])
    from scipy.stats import t as student

    width = float(student.ppf(0.975, freedom)) * math.sqrt(squares / freedom) * math.sqrt(2 / processes)
    return math.expm1(width)


def unchanged_difference(cell: Probed) -> float | None:
    """How much the step of a cell's second, unchanged measurement differs from the first, as a share with its sign."""
    again = [record.speed.step_seconds_median for record in cell.twins if record.speed is not None]
    if not again or not cell.step_seconds:
        return None
    means = [statistics.fmean(map(math.log, values)) for values in (again, cell.step_seconds)]
    return math.expm1(means[0] - means[1])


def render_probes(records: Sequence[ProbeRecord]) -> str:
    """A report of probes alone, as GitHub Markdown."""
    suites = text.listed([inert(suite) for suite in dict.fromkeys(record.suite for record in records)])
    return "\n".join([f"# {suites}", "", *probe_lines(records)]) + "\n"


def probe_lines(records: Sequence[ProbeRecord]) -> list[str]:
    """The section of a report that says what the methods cost, as lines of Markdown; empty where nothing was probed."""
    if not records:
        return []
    cells = probed_cells(records)
    lines = ["## What each method costs", "", *_introduction(cells), ""]
    for group in _groups(cells):
        lines += [f"### {_group_name(group[0].spec, cells)}", ""]
        measured = [cell for cell in group if cell.records]
        if measured:
            for title, made in (
                ("Training speed", _speed_table(measured)),
                ("Memory of a training step, MiB", _memory_table(measured)),
                ("Stored", _stored_table(measured)),
                ("Forward passes, ms", _use_table(measured)),
            ):
                if made:
                    lines += [f"**{title}**", "", *made, ""]
        lines += _failures(group)
    return [*lines, *_unmeasured(cells), *_commands(records)]


def _groups(cells: Sequence[Probed]) -> list[list[Probed]]:
    """Cells that may be held against each other: one base model at one shape."""
    groups: dict[tuple[object, ...], list[Probed]] = {}
    for cell in cells:
        spec = cell.spec
        key = (
            spec.model.sha256, spec.model.shown, spec.kind, spec.labels, spec.batch_size, spec.length, spec.precision,
            spec.attention, spec.threads, spec.device, spec.latency_shapes, spec.wide_tokens,
        )  # fmt: skip
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def _group_name(spec: ProbeSpec, cells: Sequence[Probed]) -> str:
    shape = f"{spec.batch_size} × {spec.length} tokens"
    parts = [inert(spec.model.shown), spec.kind, shape, spec.precision]
    if spec.attention is not None:
        parts.append(f"{spec.attention} attention")
    return ", ".join(parts)


def _introduction(cells: Sequence[Probed]) -> list[str]:
    records = [record for cell in cells for record in (*cell.records, *cell.twins)]
    if not records:
        return ["No cell could be measured."]
    processes = sorted({len(cell.records) for cell in cells if cell.records})
    exclusive = all(record.exclusive for record in records)
    alone = "each alone on its device" if exclusive else "**not all of them alone on their device**, so times are rough"
    span = str(processes[0]) if len(processes) == 1 else f"{processes[0]} to {processes[-1]}"
    devices = sorted({_device(record) for record in records})
    lines = [
        f"Every cell was measured in {span} fresh processes on {text.listed(devices)}, {alone}: fixed shapes, random "
        "tokens without padding, a bare loop with no data loading, evaluation or saving between steps, the methods in "
        "turn. A number is the median over the processes.",
    ]
    floor = noise_floor(cells)
    if floor is not None:
        lines += ["", f"**Noise floor: {floor:.1%}.** Step times that differ by less are not told apart here."]
        pairs = [
            f"{code(cell.spec.method.label)} on {inert(cell.spec.model.shown)} by {_percent(change)}"
            for cell in cells
            if (change := unchanged_difference(cell)) is not None
        ]
        if pairs:
            lines[-1] += f" Measured a second time unchanged, the step of {text.listed(pairs)} differed."
    return lines


def _device(record: ProbeRecord) -> str:
    environment = record.environment
    if environment is None:
        return record.spec.device
    if environment.device is not None and environment.device != "cpu":
        return inert(environment.device)
    return f"{inert(environment.cpu or 'a CPU')} ({text.plural(record.spec.threads, 'thread')})"


def _reference(cells: Sequence[Probed]) -> Probed:
    return next((cell for cell in cells if cell.spec.method.name == REFERENCE), cells[0])


def _against(cell: Probed, reference: Probed, value: Value) -> str:
    """A value as a multiple of the reference's."""
    own, other = cell.median(value), reference.median(value)
    if cell is reference:
        return "1"
    return MISSING if own is None or not other else f"{own / other:.3g}"


def _speed_table(cells: Sequence[Probed]) -> list[str]:
    reference = _reference(cells)
    name = code(reference.spec.method.label)
    wide = any(record.wide is not None for cell in cells for record in cell.records)
    header = [
        "method", "trained", "step, ms", "quartiles", f"of {name}", "forward, ms", "backward, ms", "optimiser, ms",
        "tokens/s", "host-bound", "GFLOP", f"of {name}",
    ]  # fmt: skip
    if wide:
        header += ["wide step, ms", f"of {name}", "tokens/s"]
    rows = []
    for cell in cells:
        seconds = cell.step_seconds
        quartiles = (
            f"{text.milliseconds(_quartile(seconds, 1))} to {text.milliseconds(_quartile(seconds, 3))}"
            if len(seconds) > 2
            else MISSING
        )
        share = cell.median("speed.host_bound_share")
        flops = cell.median("flops.step")
        row = [
            code(cell.spec.method.label),
            text.count(cell.records[0].parameters.trained if cell.records[0].parameters is not None else None),
            text.milliseconds(cell.median(STEP)),
            quartiles,
            _against(cell, reference, STEP),
            text.milliseconds(cell.median("speed.forward_seconds")),
            text.milliseconds(cell.median("speed.backward_seconds")),
            text.milliseconds(cell.median("speed.optimizer_seconds")),
            text.rate(cell.median("speed.real_tokens_per_second")),
            MISSING if share is None else f"{share:.0%}",
            MISSING if flops is None else text.rate(flops / 1e9),
            _against(cell, reference, "flops.step"),
        ]
        if wide:
            row += [
                text.milliseconds(cell.median("wide.step_seconds_median")),
                _against(cell, reference, "wide.step_seconds_median"),
                text.rate(cell.median("wide.real_tokens_per_second")),
            ]
        rows.append(row)
    return text.table(header, rows)


def _quartile(values: Sequence[float], number: int) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[number - 1]


def _memory_table(cells: Sequence[Probed]) -> list[str]:
    reference = _reference(cells)
    kind = next((record.phases.kind for cell in cells for record in cell.records if record.phases is not None), "")
    header = [
        "method", "weights", "gradients", "optimiser", "activations", "peak", "predicted",
        f"of {code(reference.spec.method.label)}", f"{kind} peak", "first step", "evaluation", "saving",
    ]  # fmt: skip

    def above_start(phase: str) -> Callable[[ProbeRecord], float | None]:
        def value(record: ProbeRecord) -> float | None:
            phases = record.phases
            peak = getattr(phases, phase) if phases is not None else None
            return None if phases is None or peak is None or phases.start_bytes is None else peak - phases.start_bytes

        return value

    rows = [
        [
            code(cell.spec.method.label),
            text.mebibytes(cell.median("measured.weight_bytes")),
            text.mebibytes(cell.median("measured.gradient_bytes")),
            text.mebibytes(cell.median("measured.optimizer_bytes")),
            text.mebibytes(cell.median("measured.activation_bytes")),
            text.mebibytes(cell.median("measured.peak_bytes")),
            text.mebibytes(cell.median("predicted.peak_bytes")),
            _against(cell, reference, "measured.peak_bytes"),
            text.mebibytes(cell.median(above_start("steady_bytes"))),
            text.mebibytes(cell.median(above_start("first_step_bytes"))),
            text.mebibytes(cell.median(above_start("evaluation_bytes"))),
            text.mebibytes(cell.median(above_start("saving_bytes"))),
        ]
        for cell in cells
    ]
    return text.table(header, rows)


def _stored_table(cells: Sequence[Probed]) -> list[str]:
    kept = [cell for cell in cells if any(record.checkpoint is not None for record in cell.records)]
    if not kept:
        return []
    reference = _reference(kept)
    name = code(reference.spec.method.label)
    header = ["method", "stored, MiB", f"{name} is", "adapter, MiB", "head, MiB", "restored, ms", "switched, ms",
              "base model loaded, ms"]  # fmt: skip

    rows = []
    for cell in kept:
        own, whole = cell.median("checkpoint.stored_bytes"), reference.median("checkpoint.stored_bytes")
        rows.append(
            [
                code(cell.spec.method.label),
                _small(own),
                MISSING if not own or whole is None else f"{text.rate(whole / own)} times as large",
                _small(cell.median("checkpoint.adapter_bytes")),
                _small(cell.median("checkpoint.head_bytes")),
                text.milliseconds(cell.median("checkpoint.restore_seconds")),
                text.milliseconds(cell.median("checkpoint.switch_seconds")),
                text.milliseconds(cell.median("checkpoint.model_load_seconds")),
            ]
        )
    return text.table(header, rows)


def _small(number_of_bytes: float | None) -> str:
    return MISSING if number_of_bytes is None else text.rate(number_of_bytes / text.MIB)


def _use_table(cells: Sequence[Probed]) -> list[str]:
    """A line a method and shape: how long the base model takes, and how much longer the adapted and the merged one."""
    rows = []
    for cell in cells:
        shapes = {
            (latency.batch_size, latency.length): None
            for record in cell.records
            if record.inference is not None
            for latency in record.inference.latencies
        }
        for index, (rows_of, length) in enumerate(sorted(shapes)):
            base = _latency(cell, rows_of, length, "unadapted")
            row = [code(cell.spec.method.label), f"{rows_of} × {length}", text.milliseconds(base)]
            for state in ("adapted", "merged"):
                own = _latency(cell, rows_of, length, state)
                row += [text.milliseconds(own), MISSING if own is None or not base else _percent(own / base - 1)]
            first = index == 0
            gap = cell.median("inference.merged_difference")
            mixed = cell.median("inference.mixed_batch_seconds")
            single = cell.median("inference.one_adapter_seconds")
            row += [
                text.learning_rate(gap).replace("e-", "e−") if first and gap is not None else MISSING,
                _percent(mixed / single - 1) if first and mixed is not None and single else MISSING,
            ]
            rows.append(row)
    header = ["method", "shape", "base model", "adapted", "more", "merged", "more", "merged differs by",
              "two adapters in a batch"]  # fmt: skip
    return text.table(header, rows, numbers_from=2) if rows else []


def _latency(cell: Probed, rows: int, length: int, state: State) -> float | None:
    def value(record: ProbeRecord) -> float | None:
        found: Iterable[Latency] = record.inference.latencies if record.inference is not None else ()
        same = (one for one in found if (one.batch_size, one.length, one.state) == (rows, length, state))
        return next((one.seconds_median for one in same), None)

    return cell.median(value)


def _percent(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−").replace("%", " %")


def _failures(cells: Sequence[Probed]) -> list[str]:
    lines: dict[str, None] = {}
    for cell in cells:
        for record in cell.failures:
            reason = f": {inert(record.reason)}" if record.reason else ""
            lines[f"* {code(cell.spec.method.label)}: **{record.status.replace('_', ' ')}**{reason}"] = None
    return [*lines, ""] if lines else []


def _unmeasured(cells: Sequence[Probed]) -> list[str]:
    """What is missing, and why: a line for each reason."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        for record in (*cell.records, *cell.twins):
            for name, reason in record.unmeasured.items():
                reasons.setdefault((name, reason), {})[cell.spec.method.label] = None
    if not reasons:
        return []
    everywhere = {cell.spec.method.label for cell in cells if cell.records}
    lines = ["### Not measured", ""]
    for (name, reason), labels in sorted(reasons.items()):
        whose = "" if set(labels) == everywhere else f" of {text.listed([code(label) for label in labels])}"
        lines.append(f"* {code(name)}{whose}: {inert(reason)}")
    return [*lines, ""]


def _commands(records: Sequence[ProbeRecord]) -> list[str]:
    commands = list(dict.fromkeys(record.command for record in records))
    return ["Made by:", "", *text.fenced(commands)]
