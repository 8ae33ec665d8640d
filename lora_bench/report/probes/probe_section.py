"""Results of a suite's probes: speed, memory, use and storage, and how far to trust them.

The noise floor, from a second measurement of an unchanged cell, stands before any difference. The reasons of missing
measurements are listed.
"""

from collections.abc import Sequence
from operator import itemgetter

from lora_bench.kinds import find_kind
from lora_bench.records.again import again
from lora_bench.records.probe_record import ProbeRecord, ProbeSpec
from lora_bench.report.blocks import Block, Commands, Heading, TextList
from lora_bench.report.model.rows import grouped
from lora_bench.report.probes.cells import (
    Probed,
    comparable,
    device_name,
    noise_floor,
    probed_cells,
    unchanged_difference,
)
from lora_bench.report.probes.claims import claims_section, known_claims
from lora_bench.report.probes.probe_headline import headline_of_probes
from lora_bench.report.probes.probe_tables import mebibytes, memory_table, speed_table, stored_table, use_table
from lora_bench.report.text import code, inert, listed, percent, plural, signed_percent


def probes_page(records: Sequence[ProbeRecord]) -> list[Block]:
    """Return a report of probes alone."""
    suites = listed([inert(suite) for suite in sorted({record.suite for record in records})])
    first = headline_of_probes(records).blocks(_commands(records))
    return [Heading(1, suites), *first, *probe_section(records)]


def probe_section(records: Sequence[ProbeRecord]) -> list[Block]:
    """Return the section of a report on the cost of the methods; empty where nothing was probed."""
    if not records:
        return []
    cells = probed_cells(records)
    blocks: list[Block] = []
    for suite, own in sorted(grouped(records, lambda record: record.suite).items()):
        claims = known_claims(suite)
        blocks += claims_section(claims, own) if claims is not None else []
    blocks += [Heading(2, "What each method costs"), *_introduction(cells)]
    for group in comparable(cells):
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


def _group_name(spec: ProbeSpec) -> str:
    kind = find_kind(spec.kind).shown(spec.labels)
    device = "CUDA" if spec.device == "cuda" else plural(spec.threads, "thread")
    attention = [f"{spec.attention} attention"] if spec.attention is not None else []
    parts = [inert(spec.model.shown), kind, f"{spec.batch_size} × {spec.length} tokens", spec.shown_precision, device]
    return ", ".join([*parts, *attention])


def _introduction(cells: Sequence[Probed]) -> list[Block]:
    records = [record for cell in cells for record in (*cell.records, *cell.twins)]
    if not records:
        return ["No cell could be measured."]
    counts = sorted({len(cell.records) for cell in cells if cell.records} or {0})
    span = "" if len(counts) == 1 else f"{counts[0]} to "
    devices = sorted({device_name(record) for record in records})
    return [
        f"Every cell was measured in {span}{counts[-1]} fresh process{'es' if counts[-1] != 1 else ''} "
        f"on {listed(devices)}, {_company(records)}: fixed shapes, random tokens without padding, nothing but training "
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
    sentence = "**Noise floor: not known**, since no cell has two processes: no difference can be told from noise."
    if floor is not None:
        sentence = f"**Noise floor: {percent(floor)}.** Step times that differ by less are not told apart here."
    pairs = [
        f"by {signed_percent(change)} ({code(cell.spec.method.label)} on {inert(cell.spec.model.shown)})"
        for cell in cells
        if (change := unchanged_difference(cell)) is not None
    ]
    again = f" Measured a second time unchanged, the step differed {listed(pairs)}." if pairs else ""
    return sentence + again


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
    missing = [
        (reason, name, cell.spec.method.label)
        for cell in cells
        for record in (*cell.records, *cell.twins)
        for name, reason in record.unmeasured.items()
    ]
    labels = {
        of: tuple(dict.fromkeys(one[2] for one in found)) for of, found in grouped(missing, itemgetter(0, 1)).items()
    }
    everywhere = {cell.spec.method.label for cell in cells if cell.records or cell.twins}
    items = []
    for (reason, methods), fields in grouped(sorted(labels), lambda of: (of[0], labels[of])).items():
        whose = "" if set(methods) == everywhere else f" of {listed([*map(code, methods)])}"
        items.append(f"{listed([code(name) for _, name in fields])}{whose}: {inert(reason)}")
    return [Heading(3, "Not measured"), TextList(items)] if items else []
