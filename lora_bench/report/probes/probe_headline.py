"""The headline of a report of probes alone: the cost of each method beside the reference, and its limits."""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.report import text
from lora_bench.report.model.overview import PEAK
from lora_bench.report.probes.cells import REFERENCE, STEP, Probed, Value, noise_floor
from lora_bench.report.text import MISSING, code, plural

STORED = "checkpoint.stored_bytes"


def headline_lines(
    cells: Sequence[Probed],
    groups: Sequence[Sequence[Probed]],
    records: Sequence[ProbeRecord],
    conditions: str,
    claimed: Sequence[str],
) -> list[str]:
    """The headline, a small table and the next step, as lines of Markdown.

    Args:
        cells: Every cell.
        groups: Those of one base model at one shape each.
        records: What the cells were made of.
        conditions: On what they were measured.
        claimed: Sentences on the claims of a paper.
    """
    pairs = _pairs(groups)
    if not pairs:
        return ["**Nothing can be compared: no base model has both the reference and another method measured.**"]
    others = [pair for found in pairs.values() for pair in found]
    said = [
        form.format(span)
        for value, form in ((STEP, "takes {} of the time"), (PEAK, "{} of the memory"))
        if (span := _span(others, value)) is not None
    ]
    smaller = _span(others, STORED, inverse=True)
    said += [f"leaves a file {smaller} times smaller"] if smaller is not None else []
    floor = noise_floor(cells)
    told = (
        "no difference of times can be told from noise"
        if floor is None
        else f"times closer than {100 * floor:.1f} % are not told apart"
    )
    label = code(next(iter(pairs.values()))[0][1].spec.method.label)
    who = code(next(iter(pairs))) if len(pairs) == 1 else f"each of {plural(len(pairs), 'other method')}"
    lines = [f"**Compared with {label}, {who} {text.listed(said)}.**", ""]
    lines += [
        f"These are costs: nothing here says which method scores better. Strength: **measured**, {told}. "
        f"Range: {conditions}. [How it was measured](#what-each-method-costs)."
    ]
    lines += [line for sentence in claimed for line in ("", sentence)]
    header = ["method", "measured on", "training time", "peak memory", "file, times smaller"]
    rows = [
        [
            code(name),
            text.listed([*dict.fromkeys(text.inert(cell.spec.model.shown, 60) for cell, _ in found)]),
            *(_span(found, value) or MISSING for value in (STEP, PEAK)),
            _span(found, STORED, inverse=True) or MISSING,
        ]
        for name, found in pairs.items()
    ]
    lines += [
        "",
        *text.table(header, rows, numbers_from=2),
        "",
        f"Compared with {label} on the same base model and shape.{_apart(pairs)}",
    ]
    commands = [record.command for record in records if record.command is not None]
    if commands:
        lines += [
            "",
            f"**Next:** [what each method costs](#what-each-method-costs), or measure again: {code_command(commands[0])}.",
        ]
    return lines


def _apart(pairs: dict[str, list[tuple[Probed, Probed]]]) -> str:
    """A note that methods measured on other base models are not ranked."""
    on = {frozenset(cell.spec.model.shown for cell, _ in found) for found in pairs.values()}
    return " Methods measured on different base models are not ranked among each other." if len(on) > 1 else ""


def code_command(command: str) -> str:
    """A command as code, if nothing in it could end the code."""
    shown = text.plain(command)
    return f"`{shown}`" if not set(shown) & set("`|<>&$@#\\") and "://" not in shown else text.inert(command)


def _pairs(groups: Sequence[Sequence[Probed]]) -> dict[str, list[tuple[Probed, Probed]]]:
    """Each method beside the reference of its group, by label."""
    found: dict[str, list[tuple[Probed, Probed]]] = {}
    for group in groups:
        measured = [cell for cell in group if cell.records]
        reference = next((cell for cell in measured if cell.spec.method.name == REFERENCE), None)
        for cell in measured:
            if reference is not None and cell is not reference:
                found.setdefault(cell.spec.method.label, []).append((cell, reference))
    return found


def _span(pairs: Sequence[tuple[Probed, Probed]], value: Value, *, inverse: bool = False) -> str | None:
    """The smallest and the largest multiple of the reference's, such as "0.54 to 0.60", or of the method's if *inverse*."""
    known = [(cell.value(value), reference.value(value)) for cell, reference in pairs]
    ratios = sorted(other / own if inverse else own / other for own, other in known if own and other)
    if not ratios:
        return None
    return " to ".join(dict.fromkeys(map(_figures, (ratios[0], ratios[-1]))))


def _figures(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
