"""The tables of what probes measured: speed, memory, storage and use, a line a method and an entry here for each column."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from lora_bench.records.probe_record import ProbeRecord, State
from lora_bench.report import text
from lora_bench.report.blocks import Block, wide_table
from lora_bench.report.frames.record_frame import at
from lora_bench.report.probes.cells import STEP, WIDE, Probed, Value, longer_passes, pass_seconds, pass_shapes, values
from lora_bench.report.text import MISSING, code

# The head of a column and its text for a cell.
Column = tuple[str, Callable[[Probed], str]]


def speed_table(cells: Sequence[Probed]) -> list[Block]:
    """Return steps, their parts and their operations."""
    reference = _reference(cells)
    columns: list[Column] = [
        ("trained", _trained),
        ("step, ms", _shown(STEP, text.milliseconds)),
        ("quartiles", _quartiles),
        _against(reference, STEP),
        ("forward, ms", _shown("speed.forward_seconds", text.milliseconds)),
        ("backward, ms", _shown("speed.backward_seconds", text.milliseconds)),
        ("optimiser, ms", _shown("speed.optimizer_seconds", text.milliseconds)),
        ("tokens/s", _shown("speed.real_tokens_per_second", text.rate)),
        ("host-bound", _shown("speed.host_bound_share", lambda share: MISSING if share is None else f"{share:.0%}")),
        ("GFLOP", _shown("flops.step", lambda flops: figures(None if flops is None else flops / 1e9))),
        _against(reference, "flops.step"),
    ]
    if any(record.wide is not None for cell in cells for record in cell.records):
        columns += [
            ("wide step, ms", _shown(WIDE, text.milliseconds)),
            _against(reference, WIDE),
            ("tokens/s", _shown("wide.real_tokens_per_second", text.rate)),
        ]
    return _table(cells, columns)


def memory_table(cells: Sequence[Probed]) -> list[Block]:
    """Return the table of a training step's memory, by part, and the peaks of each phase, in MiB."""
    kind = next((record.phases.kind for cell in cells for record in cell.records if record.phases is not None), "")
    return _table(
        cells,
        [
            ("weights", _shown("measured.weight_bytes", mebibytes)),
            ("gradients", _shown("measured.gradient_bytes", mebibytes)),
            ("optimiser", _shown("measured.optimizer_bytes", mebibytes)),
            ("activations", _shown("measured.activation_bytes", mebibytes)),
            ("peak", _shown("measured.peak_bytes", mebibytes)),
            ("predicted", _shown("predicted.peak_bytes", mebibytes)),
            _against(_reference(cells), "measured.peak_bytes"),
            (f"{kind} peak", _shown(_above_start("steady_bytes"), mebibytes)),
            ("first step", _shown(_above_start("first_step_bytes"), mebibytes)),
            ("evaluation", _shown(_above_start("evaluation_bytes"), mebibytes)),
            ("saving", _shown(_above_start("saving_bytes"), mebibytes)),
        ],
    )


def stored_table(cells: Sequence[Probed]) -> list[Block]:
    """Return the table of kept files and of the cost of a change of task."""
    kept = [cell for cell in cells if any(record.checkpoint is not None for record in cell.records)]
    if not kept:
        return []
    reference = _reference(kept)
    whole = reference.value("checkpoint.stored_bytes")

    def times_as_large(own: float | None) -> str:
        return MISSING if not own or whole is None else f"{text.rate(whole / own)} times as large"

    return _table(
        kept,
        [
            ("stored, MiB", _shown("checkpoint.stored_bytes", mebibytes)),
            (f"{code(reference.spec.method.label)} is", _shown("checkpoint.stored_bytes", times_as_large)),
            ("adapter, MiB", _shown("checkpoint.adapter_bytes", mebibytes)),
            ("head, MiB", _shown("checkpoint.head_bytes", mebibytes)),
            ("restored, ms", _shown("checkpoint.restore_seconds", text.milliseconds)),
            ("switched, ms", _shown("checkpoint.switch_seconds", text.milliseconds)),
            ("base model loaded, ms", _shown("checkpoint.model_load_seconds", text.milliseconds)),
        ],
    )


def _table(cells: Sequence[Probed], columns: Sequence[Column]) -> list[Block]:
    rows = [[code(cell.spec.method.label), *(shown(cell) for _, shown in columns)] for cell in cells]
    return wide_table(["method", *(name for name, _ in columns)], rows, names=1)


def _shown(value: Value, form: Callable[[float | None], str]) -> Callable[[Probed], str]:
    return lambda cell: form(cell.value(value))


def _reference(cells: Sequence[Probed]) -> Probed:
    return next((cell for cell in cells if cell.is_reference), cells[0])


def _against(reference: Probed, value: Value) -> Column:
    def shown(cell: Probed) -> str:
        own, other = cell.value(value), reference.value(value)
        if cell is reference:
            return "1"
        return MISSING if own is None or not other else f"{own / other:.3g}"

    return f"of {code(reference.spec.method.label)}", shown


def _trained(cell: Probed) -> str:
    parameters = cell.records[0].parameters
    return text.count(parameters.trained if parameters is not None else None)


def _quartiles(cell: Probed) -> str:
    seconds = values(cell.records, STEP)
    if len(seconds) < 3:
        return MISSING
    first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{text.milliseconds(first)} to {text.milliseconds(third)}"


def _above_start(phase: str) -> Callable[[ProbeRecord], float | None]:
    """Return the peak of a phase above the memory in use before the base model was loaded."""

    def value(record: ProbeRecord) -> float | None:
        peak, start = at(record, f"phases.{phase}"), at(record, "phases.start_bytes")
        return None if peak is None or start is None else peak - start

    return value


def figures(value: float | None) -> str:
    """Return a number with three figures, however small it is."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(number_of_bytes: float | None) -> str:
    """Bytes as MiB with three figures, without the unit."""
    return figures(None if number_of_bytes is None else number_of_bytes / text.MIB)


def use_table(cells: Sequence[Probed]) -> list[Block]:
    """Return a line a method and shape: how long the base model takes, and how much longer the adapted and the merged one.

    What is more is taken within processes: the median over them, with its span.
    """
    rows, reference = [], _reference(cells)
    for cell in cells:
        gap = tiny(cell.value("inference.merged_difference"))
        mixed = text.change(cell.value("inference.one_adapter_seconds"), cell.value("inference.mixed_batch_seconds"))
        for shape in pass_shapes(cell):
            base, adapted, merged = (
                cell.value(partial(pass_seconds, shape=shape, state=state))
                for state in ("unadapted", "adapted", "merged")
            )
            operations = text.change(reference.value("flops.forward"), cell.value("flops.forward"))
            rows.append(
                [code(cell.spec.method.label), f"{shape[0]} × {shape[1]}", text.milliseconds(base), text.milliseconds(adapted),
                 _more(cell, shape, "adapted"), operations, text.milliseconds(merged), _more(cell, shape, "merged"), gap, mixed]
            )  # fmt: skip
            gap = mixed = MISSING  # of all shapes of a cell
    header = ["method", "shape", "base model", "adapted", "more", f"operations, to {code(reference.spec.method.label)}",
              "merged", "more", "merged differs by", "two adapters in a batch"]  # fmt: skip
    return wide_table(header, rows, names=2) if rows else []


def _more(cell: Probed, shape: tuple[int, int], state: State) -> str:
    shares = longer_passes(cell, shape, state)
    if not shares:
        return MISSING
    median, span = text.signed_percent(statistics.median(shares)), text.span(shares, text.signed_percent)
    return median if span == median else f"{median} ({span})"


def tiny(value: float | None) -> str:
    """Return a number far below 1."""
    return MISSING if value is None else f"{value:.1e}".replace("-", "−")
