"""What the probes of a suite found, as lines of Markdown: speed, memory, use and storage, and how far to trust them.

Every number is one of `lora_bench.report.probed`, and what a second, unchanged measurement of a cell shows stands before any
difference. What was not measured is a dash, and its reason is listed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from lora_bench.probe_record import Latency, ProbeRecord, ProbeSpec, State
from lora_bench.published.claims import known_claims
from lora_bench.report import text
from lora_bench.report.claims import claims_lines
from lora_bench.report.probed import (
    REFERENCE,
    STEP,
    WIDE,
    Probed,
    Value,
    noise_floor,
    probed_cells,
    unchanged_difference,
    values,
)
from lora_bench.report.text import MISSING, code, inert


def render_probes(records: Sequence[ProbeRecord]) -> str:
    """A report of probes alone, as GitHub Markdown."""
    suites = text.listed([inert(suite) for suite in sorted({record.suite for record in records})])
    return "\n".join([f"# {suites}", "", *probe_lines(records)]) + "\n"


def probe_lines(records: Sequence[ProbeRecord]) -> list[str]:
    """The section of a report that says what the methods cost, as lines of Markdown; empty where nothing was probed."""
    if not records:
        return []
    cells = probed_cells(records)
    lines = ["## What each method costs", "", *_introduction(cells), ""]
    for group in _groups(cells):
        lines += [f"### {_group_name(group[0].spec)}", ""]
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
    return [*lines, *_unmeasured(cells), *_claims(records), *_commands(records)]


def _claims(records: Sequence[ProbeRecord]) -> list[str]:
    """What a paper claims, for suites that are there to be held against it."""
    lines = []
    for suite in sorted({record.suite for record in records}):
        claims = known_claims(suite)
        if claims is not None:
            lines += claims_lines(claims, [record for record in records if record.suite == suite])
    return lines


def _groups(cells: Sequence[Probed]) -> list[list[Probed]]:
    """Cells that may be held against each other: one base model at one shape."""
    groups: dict[tuple[object, ...], list[Probed]] = {}
    for cell in cells:
        spec = cell.spec
        key = (
            spec.model.sha256, spec.model.shown, spec.kind, spec.labels, spec.batch_size, spec.length, spec.precision,
            spec.attention, spec.threads, spec.device,
        )  # fmt: skip
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def _group_name(spec: ProbeSpec) -> str:
    kind = f"classification into {spec.labels}" if spec.kind == "classification" else spec.kind
    shape = f"{spec.batch_size} × {spec.length} tokens"
    parts = [inert(spec.model.shown), kind, shape, spec.precision]
    parts.append("CUDA" if spec.device == "cuda" else text.plural(spec.threads, "thread"))
    if spec.attention is not None:
        parts.append(f"{spec.attention} attention")
    return ", ".join(parts)


def _introduction(cells: Sequence[Probed]) -> list[str]:
    records = [record for cell in cells for record in (*cell.records, *cell.twins)]
    if not records:
        return ["No cell could be measured."]
    counts = sorted({len(cell.records) for cell in cells if cell.records} or {0})
    span = "" if len(counts) == 1 else f"{counts[0]} to "
    devices = sorted({_device(record) for record in records})
    lines = [
        f"Every cell was measured in {span}{counts[-1]} fresh process{'es' if counts[-1] != 1 else ''} "
        f"on {text.listed(devices)}, {_company(records)}: fixed shapes, random tokens without padding, a bare loop with no "
        "data loading, evaluation or "
        "saving between steps, the methods in turn. A step time is the geometric mean over the processes, each of which "
        "gives the median of its steps; every other number is a median over the processes.",
        "",
        _noise(cells),
    ]
    return lines


def _company(records: Sequence[ProbeRecord]) -> str:
    """Whether the processes were alone on their device."""
    shared = sum(record.exclusive is False for record in records)
    if shared:
        return f"**{shared} of {len(records)} with other work going on beside it**, so times are rough"
    if any(record.exclusive is None for record in records):
        return "where nobody could tell whether other work was going on"
    return "each alone on its device"


def _noise(cells: Sequence[Probed]) -> str:
    """How far to trust a difference of step times."""
    floor = noise_floor(cells)
    if floor is None:
        sentence = (
            "**Noise floor: not known**, since it takes two processes of a cell: no difference can be told from noise."
        )
    else:
        sentence = f"**Noise floor: {_share(floor)}.** Step times that differ by less are not told apart here."
    pairs = [
        f"by {_percent(change)} ({code(cell.spec.method.label)} on {inert(cell.spec.model.shown)})"
        for cell in cells
        if (change := unchanged_difference(cell)) is not None
    ]
    return (
        f"{sentence} Measured a second time unchanged, the step differed {text.listed(pairs)}." if pairs else sentence
    )


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
    own, other = cell.value(value), reference.value(value)
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
            _mebibytes(cell.value("measured.weight_bytes")),
            _mebibytes(cell.value("measured.gradient_bytes")),
            _mebibytes(cell.value("measured.optimizer_bytes")),
            _mebibytes(cell.value("measured.activation_bytes")),
            _mebibytes(cell.value("measured.peak_bytes")),
            _mebibytes(cell.value("predicted.peak_bytes")),
            _against(cell, reference, "measured.peak_bytes"),
            _mebibytes(cell.value(above_start("steady_bytes"))),
            _mebibytes(cell.value(above_start("first_step_bytes"))),
            _mebibytes(cell.value(above_start("evaluation_bytes"))),
            _mebibytes(cell.value(above_start("saving_bytes"))),
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
        own, whole = cell.value("checkpoint.stored_bytes"), reference.value("checkpoint.stored_bytes")
        rows.append(
            [
                code(cell.spec.method.label),
                _mebibytes(own),
                MISSING if not own or whole is None else f"{text.rate(whole / own)} times as large",
                _mebibytes(cell.value("checkpoint.adapter_bytes")),
                _mebibytes(cell.value("checkpoint.head_bytes")),
                text.milliseconds(cell.value("checkpoint.restore_seconds")),
                text.milliseconds(cell.value("checkpoint.switch_seconds")),
                text.milliseconds(cell.value("checkpoint.model_load_seconds")),
            ]
        )
    return text.table(header, rows)


def _figures(value: float | None) -> str:
    """Three figures, however small the number is."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mebibytes(number_of_bytes: float | None) -> str:
    return _figures(None if number_of_bytes is None else number_of_bytes / text.MIB)


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
            gap = cell.value("inference.merged_difference")
            mixed = cell.value("inference.mixed_batch_seconds")
            single = cell.value("inference.one_adapter_seconds")
            row += [
                _tiny(gap) if first else MISSING,
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

    return cell.value(value)


def _tiny(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}".replace("-", "−")


def _share(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _percent(share: float) -> str:
    return f"{'+' if share >= 0 else '−'}{_share(abs(share))}"


def _failures(cells: Sequence[Probed]) -> list[str]:
    lines: dict[str, None] = {}
    for cell in cells:
        for record in cell.failures:
            reason = f": {inert(record.reason)}" if record.reason else ""
            peak = record.predicted.peak_bytes if record.predicted is not None else None
            held = f"; its step was to hold {_mebibytes(peak)} MiB" if peak is not None else ""
            lines[f"* {code(cell.spec.method.label)}: **{record.status.replace('_', ' ')}**{reason}{held}"] = None
    return [*lines, ""] if lines else []


def _unmeasured(cells: Sequence[Probed]) -> list[str]:
    """What is missing, and why: a line for each reason, with the fields and the methods that it is of."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        for record in (*cell.records, *cell.twins):
            for name, reason in record.unmeasured.items():
                reasons.setdefault((reason, name), {})[cell.spec.method.label] = None
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, name), labels in sorted(reasons.items()):
        together.setdefault((reason, tuple(labels)), []).append(name)
    if not together:
        return []
    everywhere = {cell.spec.method.label for cell in cells if cell.records or cell.twins}
    lines = ["### Not measured", ""]
    for (reason, methods), names in together.items():
        whose = "" if set(methods) == everywhere else f" of {text.listed([code(label) for label in methods])}"
        lines.append(f"* {text.listed([code(name) for name in names])}{whose}: {inert(reason)}")
    return [*lines, ""]


def _commands(records: Sequence[ProbeRecord]) -> list[str]:
    commands = sorted({record.command for record in records})
    return ["Made by:", "", *text.fenced(commands)]
