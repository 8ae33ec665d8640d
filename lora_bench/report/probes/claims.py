"""A paper's claims about parameters, memory, speed, latency and storage, each beside what the probes of a suite found.

The claims are facts in a file beside the suite, and `_QUANTITIES` has the columns of each table. What explains the numbers is
in docs/probes.md. Nothing is said of a number that was not measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_bench.records.probe_record import ProbeRecord, State
from lora_bench.report import text
from lora_bench.report.blocks import Block, Heading, TextList, TextTable, wide_table
from lora_bench.report.model.rows import grouped
from lora_bench.report.probes.cells import REFERENCE, STEP, Probed, Value, pass_seconds, pass_shapes, probed_cells
from lora_bench.report.probes.paper_claims import Claim, Claims, Quantity
from lora_bench.report.probes.probe_tables import figures, mebibytes, tiny
from lora_bench.report.text import MISSING, change, code, inert, plural, signed_percent

# The method of the claims, which adapts a frozen model, and the number of tasks of one of them.
CLAIMED = "lora"
TASKS = 100

_TITLE = "The paper's claims"
_WHY = "What explains these numbers: [docs/probes.md](/docs/probes.md#the-lora-papers-claims)."


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A row of a table.

    Args:
        model: Base model or shape, as a reader should see it.
        method: Method, likewise.
        cell: The measured step or pass of the method; None where a claim is of a cell that was not measured.
        whole: The same step with all weights trained, if it was measured.
        shape: Batch size and length of a forward pass.
        claim: The claim, where each has a row of its own.
    """

    model: str
    method: str
    cell: Probed | None
    whole: Probed | None = None
    shape: tuple[int, int] = (1, 1)
    claim: Claim | None = None

    def both(self, of: Value) -> tuple[float | None, float | None]:
        """Return a value of all weights and of the method."""
        whole, own = (None if cell is None else cell.value(of) for cell in (self.whole, self.cell))
        return whole, own

    def seconds(self, state: State) -> float | None:
        """Return the time of a forward pass."""
        return self.both(lambda record: pass_seconds(record, self.shape, state))[1]

    def longer(self, state: State) -> list[float]:
        """Return by how much longer a pass took than the base model's in the same process, as shares, of each process."""
        records = self.cell.records if self.cell is not None else ()
        both = [[pass_seconds(record, self.shape, of) for of in ("unadapted", state)] for record in records]
        return [own / base - 1 for base, own in both if base and own is not None]


# The head of a column and its text for a row.
Column = tuple[str, Callable[[Subject], str]]
Form = Callable[[float | None], str]


@dataclass(frozen=True)
class ClaimTable:
    """The rows and columns of a claimed quantity.

    Args:
        title: Heading of its part.
        subjects: Gives the rows from the claims and the measured cells.
        columns: Columns beside base model and method.
        short: Value, name, words and form of the ratio of all weights' to the method's, for the small table.
    """

    title: str
    subjects: Callable[[Sequence[Claim], Sequence[Probed]], list[Subject]]
    columns: Sequence[Column]
    short: tuple[Value, str, str, Form] | None = None


def claims_section(claims: Claims, records: Sequence[ProbeRecord]) -> list[Block]:
    """Return the section that puts *claims* beside *records*; empty where nothing was measured."""
    cells = [cell for cell in probed_cells(records) if cell.records]
    if not cells:
        return []
    blocks: list[Block] = [
        Heading(2, _TITLE),
        f"Claims of {inert(claims.paper)}, each beside what was measured here. {_WHY}",
    ]
    for quantity, of_it in grouped(claims.claims, lambda claim: claim.quantity).items():
        measured = _QUANTITIES[quantity]
        # Where each claim has a row, what it says stands there.
        said = dict.fromkeys(
            f"Claimed in {inert(claim.where)}, {inert(claim.of)}."
            if measured.subjects is _each_claim
            else f"Claimed: {inert(claim.printed)} ({inert(claim.where)}; {inert(claim.of)})."
            for claim in of_it
        )
        blocks += [Heading(3, measured.title), TextList([*said]), *_table(measured, of_it, cells)]
    return blocks


def _table(measured: ClaimTable, claims: Sequence[Claim], cells: Sequence[Probed]) -> list[Block]:
    rows = []
    for subject in measured.subjects(claims, cells):
        found = [cell(subject) for _, cell in measured.columns]
        if subject.claim is not None or any(value != MISSING for value in found):
            rows.append([subject.model, subject.method, *found])
    header = ["shape", "method", *(name for name, _ in measured.columns)]
    return wide_table(header, rows, names=2) if rows else ["Not measured here."]


def claims_table(claims: Claims, records: Sequence[ProbeRecord]) -> list[Block]:
    """Return the claims on training in a small table, each beside what was measured; empty where nothing was."""
    pairs = _pairs(claims.claims, [cell for cell in probed_cells(records) if cell.records])
    rows = []
    for claim in claims.claims:
        short = _QUANTITIES[claim.quantity].short
        if short is None:
            continue
        of, name, words, form = short
        ratios = [whole / own for whole, own in (pair.both(of) for pair in pairs) if whole and own]
        if ratios:
            printed = f"{inert(claim.printed.split(' (')[0])} ({inert(claim.of)})"
            rows.append([name, printed, words.format(text.span(ratios, form))])
    if not rows:
        return []
    models = plural(len({pair.model for pair in pairs}), "base model")
    header = ["a paper's claim", f"in {inert(claims.paper.split(',')[0])}", f"here, on {models}"]
    beside = f"Claims of {inert(claims.paper)}, beside LoRA here. [All claims](#the-papers-claims)."
    return [TextTable(header, rows, numbers_from=len(header)), beside]


def _subject(cell: Probed, cells: Sequence[Probed], shape: tuple[int, int] = (1, 1)) -> Subject:
    return Subject(
        model=inert(cell.spec.model.shown.removeprefix("shape:")),
        method=code(cell.spec.method.label),
        cell=cell,
        whole=_whole_of(cell, cells),
        shape=shape,
    )


def _whole_of(cell: Probed, cells: Sequence[Probed]) -> Probed | None:
    """Return the cell that trains all weights in the same step."""
    left_out = {"method", "latency_shapes", "wide_tokens"}
    step = cell.spec.model_dump(exclude=left_out)
    same = (one for one in cells if one.spec.method.name == REFERENCE and one.spec.model_dump(exclude=left_out) == step)
    return next(same, None)


def _pairs(claims: Sequence[Claim], cells: Sequence[Probed]) -> list[Subject]:
    """Return each cell of the claimed method beside the one that trains all weights."""
    found = [_subject(cell, cells) for cell in cells if cell.spec.method.name == CLAIMED]
    return [subject for subject in found if subject.whole is not None]


def _each_cell(claims: Sequence[Claim], cells: Sequence[Probed]) -> list[Subject]:
    return [_subject(cell, cells) for cell in cells]


def _each_pass(claims: Sequence[Claim], cells: Sequence[Probed]) -> list[Subject]:
    """Return each forward pass of each cell that was merged."""
    return [
        _subject(cell, cells, shape)
        for cell in cells
        for shape, states in pass_shapes(cell).items()
        if "merged" in states
    ]


def _each_claim(claims: Sequence[Claim], cells: Sequence[Probed]) -> list[Subject]:
    return [
        Subject(
            model=inert((claim.model or "any").removeprefix("shape:")),
            method=code(claim.method or CLAIMED),
            cell=cell,
            whole=None if cell is None else _whole_of(cell, cells),
            shape=claim.shape or (1, 1),
            claim=claim,
        )
        for claim in claims
        for cell in [next((one for one in cells if _is_of(claim, one)), None)]
    ]


def _is_of(claim: Claim, cell: Probed) -> bool:
    return cell.spec.model.name == claim.model and cell.spec.method.label == claim.method


def _times(large: float | None, small: float | None) -> str:
    return MISSING if large is None or not small else figures(large / small)


def _whole_percent(share: float | None) -> str:
    return MISSING if share is None else text.percent(share, 0)


def _value(name: str, of: Value, form: Form) -> Column:
    return name, lambda row: form(row.both(of)[1])


def _both(name: str, of: Value, form: Form, ratio: str = "", adapted: str = "adapted") -> list[Column]:
    """Return the columns of a value of all weights and of the method, and of their ratio if it has a name."""
    columns: list[Column] = [(name, lambda row: form(row.both(of)[0])), _value(adapted, of, form)]
    return [*columns, (ratio, lambda row: _times(*row.both(of)))] if ratio else columns


def _spared(part: str, of: Value) -> Column:
    """Return the column of the time that a part of a step spares."""

    def spared(row: Subject) -> str:
        whole, own = row.both(of)
        if whole is None or own is None:
            return MISSING
        return f"{'−' if whole < own else ''}{text.milliseconds(abs(whole - own))}"

    return f"{part}, ms less", spared


def _fixed(record: ProbeRecord) -> float | None:
    """Return the bytes of weights, gradients and states."""
    held = record.measured
    return None if held is None else held.weight_bytes + held.gradient_bytes + held.optimizer_bytes


def _left(record: ProbeRecord) -> float | None:
    """Return the share of activations in the peak."""
    held = record.measured
    if held is None or held.activation_bytes is None or not held.peak_bytes:
        return None
    return held.activation_bytes / held.peak_bytes


def _of_tasks(row: Subject) -> tuple[float | None, float | None]:
    """Return the bytes of so many tasks: files of all weights, and one base model with the files of adapters."""
    (whole, own), (weights, _) = row.both("checkpoint.stored_bytes"), row.both("checkpoint.adapter_bytes")
    adapted = None if own is None or weights is None else weights + TASKS * own
    return None if whole is None else TASKS * whole, adapted


def _pass(row: Subject) -> str:
    return f"{row.shape[0]} × {row.shape[1]}"


def _median_longer(state: State) -> Callable[[Subject], str]:
    return lambda row: signed_percent(statistics.median(shares)) if (shares := row.longer(state)) else MISSING


def _range_longer(state: State) -> Callable[[Subject], str]:
    return lambda row: (
        f"{signed_percent(min(shares))} to {signed_percent(max(shares))}" if (shares := row.longer(state)) else MISSING
    )


def _gibibytes(digits: int, value: float | None) -> str:
    return MISSING if value is None else f"{value / text.GIB:.{digits}f}"


def _count(value: float | None) -> str:
    return text.count(None if value is None else int(value))


_LOADED, _RESTORED = "checkpoint.model_load_seconds", "checkpoint.restore_seconds"
_SWITCHED = "checkpoint.switch_seconds"
_BASE: Column = ("base model, ms", lambda row: text.milliseconds(row.seconds("unadapted")))

_QUANTITIES: dict[Quantity, ClaimTable] = {
    "trained_weights": ClaimTable(
        "Fewer trained weights",
        _pairs,
        _both("all weights", "parameters.adapter", _count, "times fewer", "trained"),
        ("parameters.adapter", "trained weights, without heads", "{} times fewer", figures),
    ),
    "step_memory": ClaimTable(
        "Less memory in training",
        _pairs,
        [
            *_both("peak of all weights, MiB", "measured.peak_bytes", text.mebibytes, "times less"),
            *_both("weights, gradients and states, MiB, of all weights", _fixed, text.mebibytes, "times less"),
            *_both("activations, MiB, of all weights", "measured.activation_bytes", text.mebibytes),
            _value("of the adapted peak", _left, _whole_percent),
        ],
        ("measured.peak_bytes", "memory in training", "{} times less", figures),
    ),
    "stored_weights": ClaimTable(
        "Smaller checkpoints",
        _pairs,
        [
            *_both("all weights, MiB", "checkpoint.adapter_bytes", mebibytes, "times smaller", "adapter"),
            *_both("files with the head, MiB", "checkpoint.stored_bytes", mebibytes, "times smaller"),
        ],
        ("checkpoint.adapter_bytes", "stored weights, without heads", "{} times smaller", figures),
    ),
    "step_speed": ClaimTable(
        "Faster training",
        _pairs,
        [
            *_both("step of all weights, ms", STEP, text.milliseconds),
            ("time", lambda row: change(*row.both(STEP))),
            ("tokens/s", lambda row: change(*row.both(STEP)[::-1])),
            ("operations", lambda row: change(*row.both("flops.step"))),
            _spared("forward pass", "speed.forward_seconds"),
            _spared("backward pass", "speed.backward_seconds"),
            _spared("optimiser", "speed.optimizer_seconds"),
        ],
        (STEP, "speed of training", "{} faster", lambda ratio: _whole_percent(None if ratio is None else ratio - 1)),
    ),
    "merged_latency": ClaimTable(
        "No latency when merged",
        _each_pass,
        [
            ("forward pass", _pass),
            _BASE,
            ("merged", _median_longer("merged")),
            ("processes", _range_longer("merged")),
            _value("outputs differ by", "inference.merged_difference", tiny),
        ],
    ),
    "adapted_latency": ClaimTable(
        "The latency of adapters",
        _each_claim,
        [
            ("forward pass", _pass),
            ("claimed", lambda row: inert(row.claim.printed) if row.claim is not None else MISSING),
            _BASE,
            ("here", _median_longer("adapted")),
            ("processes", _range_longer("adapted")),
            ("operations", lambda row: change(*row.both("flops.forward"))),
        ],
    ),
    "task_switch": ClaimTable(
        "Quick switches between tasks",
        _each_cell,
        [
            _value("base model loaded, ms", _LOADED, text.milliseconds),
            _value("next task from files, ms", _RESTORED, text.milliseconds),
            ("times quicker", lambda row: _times(row.both(_LOADED)[1], row.both(_RESTORED)[1])),
            _value("next task from memory, ms", _SWITCHED, text.milliseconds),
            ("times quicker", lambda row: _times(row.both(_LOADED)[1], row.both(_SWITCHED)[1])),
        ],
    ),
    "hundred_tasks": ClaimTable(
        "A hundred tasks",
        _pairs,
        [
            ("all weights, GiB", lambda row: _gibibytes(1, _of_tasks(row)[0])),
            ("adapted", lambda row: _gibibytes(2, _of_tasks(row)[1])),
            ("times less", lambda row: _times(*_of_tasks(row))),
        ],
    ),
}
