"""Results of a suite's probes: speed, memory, use and storage, and how far to trust them.

Every number comes from `lora_bench.report.probes.cells`. The noise floor, from a second measurement of an unchanged cell,
stands before any difference. A missing measurement is a dash, and its reason is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from lora_bench.kinds import find_kind
from lora_bench.records.again import again
from lora_bench.records.probe_record import ProbeRecord, ProbeSpec
from lora_bench.report import text
from lora_bench.report.blocks import Block, Commands, Heading, TextList
from lora_bench.report.model.rows import grouped
from lora_bench.report.probes.cells import Probed, noise_floor, probed_cells, unchanged_difference
from lora_bench.report.probes.claims import claims_section, known_claims
from lora_bench.report.probes.probe_headline import ProbeHeadline, probe_headline
from lora_bench.report.probes.probe_tables import mebibytes, memory_table, speed_table, stored_table, use_table
from lora_bench.report.text import code, inert


def headline_of_probes(records: Sequence[ProbeRecord]) -> ProbeHeadline:
    """Return the headline of a report of probes alone."""
    cells = probed_cells(records)
    return probe_headline(cells, _groups(cells), _conditions(cells))


def probes_page(records: Sequence[ProbeRecord]) -> list[Block]:
    """Return a report of probes alone."""
    suites = text.listed([inert(suite) for suite in sorted({record.suite for record in records})])
    first = headline_of_probes(records).blocks(_commands(records))
    return [Heading(1, suites), *first, *probe_section(records)]


def probe_section(records: Sequence[ProbeRecord]) -> list[Block]:
    """Return the section of a report on the cost of the methods; empty where nothing was probed."""
    if not records:
        return []
    cells = probed_cells(records)
    blocks: list[Block] = [*_claims(records), Heading(2, "What each method costs"), *_introduction(cells)]
    for group in _groups(cells):
        blocks.append(Heading(3, _group_name(group[0].spec)))
        measured = [cell for cell in group if cell.records]
        if measured:
            for title, made in (
                ("Training speed", speed_table(measured)),
                ("Memory of a training step, MiB", memory_table(measured)),
                ("Stored", stored_table(measured)),
                ("Forward passes, ms", use_table(measured)),
            ):
                if made:
                    blocks += [f"**{title}**", *made]
        blocks += _failures(group)
    commands = sorted(set(_commands(records)))
    end: list[Block] = ["Made by:", Commands(commands)] if commands else []
    return [*blocks, *_unmeasured(cells), *end]


def _commands(records: Sequence[ProbeRecord]) -> list[str]:
    return [shown for record in records if (shown := again(record.command))]


def _claims(records: Sequence[ProbeRecord]) -> list[Block]:
    """Return the claims of a paper beside the records, for each suite that tests them."""
    blocks: list[Block] = []
    for suite, own in sorted(grouped(records, lambda record: record.suite).items()):
        claims = known_claims(suite)
        blocks += claims_section(claims, own) if claims is not None else []
    return blocks


def _conditions(cells: Sequence[Probed]) -> str:
    measured = [cell for cell in cells if cell.records]
    devices = sorted({_device(record) for cell in measured for record in cell.records})
    names = [*dict.fromkeys(inert(cell.spec.model.shown, 60) for cell in measured)]
    if len(names) > 1 and all(name.endswith(_RANDOM) for name in names):
        models = f"{text.listed([name.removesuffix(_RANDOM) for name in names])}, all with random weights"
    else:
        models = text.listed(names)
    batches = dict.fromkeys(f"{cell.spec.batch_size} × {cell.spec.length} tokens" for cell in measured)
    precisions = dict.fromkeys(cell.spec.precision for cell in measured)
    return f"{models}; steps of {text.listed([*batches])} in {text.listed([*precisions])} on {text.listed(devices)}"


# The end of a shape's name.
_RANDOM = " (random weights)"


def _groups(cells: Sequence[Probed]) -> list[list[Probed]]:
    """Cells that may be compared: one base model at one shape."""
    key = attrgetter(
        "model.sha256", "model.shown", "kind", "labels", "batch_size", "length", "precision", "attention", "threads", "device"
    )  # fmt: skip
    return [*grouped(cells, lambda cell: key(cell.spec)).values()]


def _group_name(spec: ProbeSpec) -> str:
    kind = find_kind(spec.kind).shown(spec.labels)
    parts = [inert(spec.model.shown), kind, *_shape(spec)]
    if spec.attention is not None:
        parts.append(f"{spec.attention} attention")
    return ", ".join(parts)


def _shape(spec: ProbeSpec) -> list[str]:
    device = "CUDA" if spec.device == "cuda" else text.plural(spec.threads, "thread")
    return [f"{spec.batch_size} × {spec.length} tokens", spec.precision, device]


def _introduction(cells: Sequence[Probed]) -> list[Block]:
    records = [record for cell in cells for record in (*cell.records, *cell.twins)]
    if not records:
        return ["No cell could be measured."]
    counts = sorted({len(cell.records) for cell in cells if cell.records} or {0})
    span = "" if len(counts) == 1 else f"{counts[0]} to "
    devices = sorted({_device(record) for record in records})
    return [
        f"Every cell was measured in {span}{counts[-1]} fresh process{'es' if counts[-1] != 1 else ''} "
        f"on {text.listed(devices)}, {_company(records)}: fixed shapes, random tokens without padding, nothing but training "
        "steps, the methods in turn. A step time is the geometric mean over processes of their median step; every other "
        "number is a median over processes, each taken apart: forward, backward and optimiser need not add up to the step.",
        _noise(cells),
    ]


def _company(records: Sequence[ProbeRecord]) -> str:
    shared = sum(record.exclusive is False for record in records)
    if shared:
        return f"**{shared} of {len(records)} with other work beside it**, so times are rough"
    if any(record.exclusive is None for record in records):
        return "where it is not recorded whether other work ran"
    return "each alone on its device"


def _noise(cells: Sequence[Probed]) -> str:
    floor = noise_floor(cells)
    if floor is None:
        sentence = "**Noise floor: not known**, since no cell has two processes: no difference can be told from noise."
    else:
        sentence = f"**Noise floor: {text.percent(floor)}.** Step times that differ by less are not told apart here."
    pairs = [
        f"by {text.signed_percent(change)} ({code(cell.spec.method.label)} on {inert(cell.spec.model.shown)})"
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


def _failures(cells: Sequence[Probed]) -> list[Block]:
    lines: dict[str, None] = {}
    for cell in cells:
        for record in cell.failures:
            reason = f": {inert(record.reason)}" if record.reason else ""
            peak = record.predicted.peak_bytes if record.predicted is not None else None
            held = f"; its step was to hold {mebibytes(peak)} MiB" if peak is not None else ""
            lines[f"{code(cell.spec.method.label)}: **{record.status.replace('_', ' ')}**{reason}{held}"] = None
    return [TextList([*lines])] if lines else []


def _unmeasured(cells: Sequence[Probed]) -> list[Block]:
    """Return the missing measurements: a line for each reason, with its fields and methods."""
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
    items = []
    for (reason, methods), names in together.items():
        whose = "" if set(methods) == everywhere else f" of {text.listed([code(label) for label in methods])}"
        items.append(f"{text.listed([code(name) for name in names])}{whose}: {inert(reason)}")
    return [Heading(3, "Not measured"), TextList(items)]
