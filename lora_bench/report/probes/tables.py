"""The tables of what probes measured: speed, memory, storage and use, a line a method.

Each number is one of `lora_bench.report.probes.cells`; what was not measured is a dash.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from lora_bench.records.probe_record import Latency, ProbeRecord, State
from lora_bench.report import text
from lora_bench.report.probes.cells import REFERENCE, STEP, WIDE, Probed, Value, values
from lora_bench.report.text import MISSING, code


def _reference(cells: Sequence[Probed]) -> Probed:
    return next((cell for cell in cells if cell.spec.method.name == REFERENCE), cells[0])


def _against(cell: Probed, reference: Probed, value: Value) -> str:
    """A value as a multiple of the reference's."""
    own, other = cell.value(value), reference.value(value)
    if cell is reference:
        return "1"
    return MISSING if own is None or not other else f"{own / other:.3g}"


def speed_table(cells: Sequence[Probed]) -> list[str]:
    """Steps, their parts and their operations."""
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
        seconds = values(cell.records, STEP)
        quartiles = (
            " to ".join(text.milliseconds(_quartile(seconds, number)) for number in (1, 3))
            if len(seconds) > 2
            else MISSING
        )
        share = cell.value("speed.host_bound_share")
        flops = cell.value("flops.step")
        row = [
            code(cell.spec.method.label),
            text.count(cell.records[0].parameters.trained if cell.records[0].parameters is not None else None),
            text.milliseconds(cell.value(STEP)),
            quartiles,
            _against(cell, reference, STEP),
            text.milliseconds(cell.value("speed.forward_seconds")),
            text.milliseconds(cell.value("speed.backward_seconds")),
            text.milliseconds(cell.value("speed.optimizer_seconds")),
            text.rate(cell.value("speed.real_tokens_per_second")),
            MISSING if share is None else f"{share:.0%}",
            _figures(None if flops is None else flops / 1e9),
            _against(cell, reference, "flops.step"),
        ]
        if wide:
            row += [
                text.milliseconds(cell.value(WIDE)),
                _against(cell, reference, WIDE),
                text.rate(cell.value("wide.real_tokens_per_second")),
            ]
        rows.append(row)
    return text.table(header, rows)


def _quartile(values: Sequence[float], number: int) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[number - 1]


def memory_table(cells: Sequence[Probed]) -> list[str]:
    """What a training step holds, and the peaks of each phase, in MiB."""
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
            mebibytes(cell.value("measured.weight_bytes")),
            mebibytes(cell.value("measured.gradient_bytes")),
            mebibytes(cell.value("measured.optimizer_bytes")),
            mebibytes(cell.value("measured.activation_bytes")),
            mebibytes(cell.value("measured.peak_bytes")),
            mebibytes(cell.value("predicted.peak_bytes")),
            _against(cell, reference, "measured.peak_bytes"),
            mebibytes(cell.value(above_start("steady_bytes"))),
            mebibytes(cell.value(above_start("first_step_bytes"))),
            mebibytes(cell.value(above_start("evaluation_bytes"))),
            mebibytes(cell.value(above_start("saving_bytes"))),
        ]
        for cell in cells
    ]
    return text.table(header, rows)


def stored_table(cells: Sequence[Probed]) -> list[str]:
    """What must be kept, and what a change of task takes."""
    kept = [cell for cell in cells if any(record.checkpoint is not None for record in cell.records)]
    if not kept:
        return []
    reference = _reference(kept)
    name = code(reference.spec.method.label)
    header = ["method", "stored, MiB", f"{name} is", "adapter, MiB", "head, MiB", "restored, ms", "switched, ms",
              "base model loaded, ms"]  # fmt: skip

    rows = []
    for cell in kept:
        own, whole = cell.value("checkpoint.stored_bytes"), reference.value("checkpoint.stored_bytes")
        rows.append(
            [
                code(cell.spec.method.label),
                mebibytes(own),
                MISSING if not own or whole is None else f"{text.rate(whole / own)} times as large",
                mebibytes(cell.value("checkpoint.adapter_bytes")),
                mebibytes(cell.value("checkpoint.head_bytes")),
                text.milliseconds(cell.value("checkpoint.restore_seconds")),
                text.milliseconds(cell.value("checkpoint.switch_seconds")),
                text.milliseconds(cell.value("checkpoint.model_load_seconds")),
            ]
        )
    return text.table(header, rows)


def _figures(value: float | None) -> str:
    """Three figures, however small the number is."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(number_of_bytes: float | None) -> str:
    """Bytes as MiB with three figures, without the unit."""
    return _figures(None if number_of_bytes is None else number_of_bytes / text.MIB)


def use_table(cells: Sequence[Probed]) -> list[str]:
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
                row += [text.milliseconds(own), MISSING if own is None or not base else percent(own / base - 1)]
            first = index == 0
            gap = cell.value("inference.merged_difference")
            mixed = cell.value("inference.mixed_batch_seconds")
            single = cell.value("inference.one_adapter_seconds")
            row += [
                _tiny(gap) if first else MISSING,
                percent(mixed / single - 1) if first and mixed is not None and single else MISSING,
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

    return cell.value(value)


def _tiny(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}".replace("-", "−")


def share_of(share: float) -> str:
    """A share in per cent."""
    return f"{share:.1%}".replace("%", " %")


def percent(share: float) -> str:
    """A change in per cent, with its sign."""
    return f"{'+' if share >= 0 else '−'}{share_of(abs(share))}"
