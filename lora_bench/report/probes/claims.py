"""A paper's claims about parameters, memory, speed, latency and storage, each beside what the probes of a suite found.

The claims are facts in a file beside the suite. `_MEASURED` says what each claimed quantity comes to here: one number for each
base model, or each forward pass. What explains the numbers is in docs/probes.md.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from lora_bench.documents import Strict, read_yaml, validate
from lora_bench.records.probe_record import ProbeRecord, State
from lora_bench.report.blocks import Block, Heading, TextTable
from lora_bench.report.probes.cells import STEP, Probed, Value, longer_passes, pass_shapes, probed_cells
from lora_bench.report.probes.probe_tables import figures
from lora_bench.report.text import MISSING, code, inert, percent, plural, signed_percent, span
from lora_bench.util.paths import folders

FILE = "claims.yaml"

# The method of the claims, which adapts a frozen model, and the number of tasks of one of them.
CLAIMED = "lora"
TASKS = 100

Quantity = Literal[
    "trained_weights", "step_memory", "stored_weights", "step_speed", "merged_latency", "adapted_latency", "task_switch",
    "hundred_tasks",
]  # fmt: skip


class Claim(Strict):
    """A claim of a paper on a quantity, as *printed*, with its place there and what the paper measured.

    If it is compared with one alone, it names the base model, the label of the method, or batch size and length of a forward
    pass.
    """

    quantity: Quantity
    where: str
    of: str
    printed: str
    model: str | None = None
    method: str | None = None
    shape: tuple[int, int] | None = None


class Claims(Strict):
    """The claims of a *paper*, which stands with authors, year, title and address, in the order of the report."""

    paper: str
    claims: tuple[Claim, ...] = Field(min_length=1)


def known_claims(suite: str) -> Claims | None:
    """Return the claims that the baseline of a suite's name tests, or None; BadInput names every fault of their file."""
    files = (folder / suite / FILE for folder in folders("baselines"))
    return next((read_claims(file) for file in files if file.is_file()), None)


def read_claims(file: Path) -> Claims:
    """Return the claims in a file, or raise BadInput with its every fault."""
    return validate(Claims, read_yaml(file))


def claims_section(claims: Claims, records: Sequence[ProbeRecord]) -> list[Block]:
    """Return the section that puts *claims* beside *records*; empty where nothing was measured."""
    cells = [cell for cell in probed_cells(records) if cell.records]
    if not cells:
        return []
    rows = []
    for claim in claims.claims:
        here = _MEASURED[claim.quantity]
        found = here.values(claim, cells)
        method, shape = code(claim.method or CLAIMED), f", {claim.shape[0]} × {claim.shape[1]}" if claim.shape else ""
        of_one = f" on {inert(claim.model.removeprefix('shape:'))}" if claim.model is not None else ""
        rows.append(
            [
                here.name.format(method=method, shape=shape),
                inert(claim.printed),
                f"{inert(claim.of)} ({inert(claim.where)})",
                here.words.format(span(found, here.form)) + of_one if found else MISSING,
            ]
        )
    models = plural(len({cell.spec.model.shown for cell in cells}), "base model")
    return [
        Heading(2, "The paper's claims"),
        f"Claims of {inert(claims.paper)}, beside the least and the greatest number here. "
        "What explains them: [docs/probes.md](/docs/probes.md#the-lora-papers-claims).",
        TextTable(["claim", "in the paper", "of", f"here, on {models}"], rows, numbers_from=4),
    ]


class _Measure(NamedTuple):
    """What a claimed quantity comes to here: its name, its numbers, and the words for one of them or for their span."""

    name: str
    values: Callable[[Claim, Sequence[Probed]], list[float]]
    words: str = "{}"
    form: Callable[[float], str] = figures


def _beside_whole(cells: Sequence[Probed]) -> list[tuple[Probed, Probed]]:
    """Return the cells that train all weights, each with one of the claimed method in the same step."""

    def step(cell: Probed) -> dict[str, object]:
        return cell.spec.model_dump(exclude={"method", "latency_shapes", "wide_tokens"})

    own = [cell for cell in cells if cell.spec.method.name == CLAIMED]
    return [(whole, cell) for cell in own for whole in cells if whole.is_reference and step(whole) == step(cell)]


def _times(of: Value) -> Callable[[Claim, Sequence[Probed]], list[float]]:
    """Return by how many times all weights exceed the claimed method."""

    def values(claim: Claim, cells: Sequence[Probed]) -> list[float]:
        both = [(whole.value(of), own.value(of)) for whole, own in _beside_whole(cells)]
        return [whole / own for whole, own in both if whole and own]

    return values


def _hundred_tasks(claim: Claim, cells: Sequence[Probed]) -> list[float]:
    """Return how much smaller one base model with the files of so many adapters is than as many whole models."""
    found = []
    for whole, own in _beside_whole(cells):
        weights, files = whole.value("checkpoint.adapter_bytes"), whole.value("checkpoint.stored_bytes")
        adapter = own.value("checkpoint.stored_bytes")
        if weights is not None and files is not None and adapter is not None:
            found.append(TASKS * files / (weights + TASKS * adapter))
    return found


def _switches(claim: Claim, cells: Sequence[Probed]) -> list[float]:
    """Return how much longer the base model takes to load than the next task does from memory."""
    own = [cell for cell in cells if cell.spec.method.name == CLAIMED]
    both = [[cell.value(f"checkpoint.{name}_seconds") for name in ("model_load", "switch")] for cell in own]
    return [loaded / switched for loaded, switched in both if loaded and switched]


def _longer(cells: Sequence[Probed], state: State, shape: tuple[int, int] | None = None) -> list[float]:
    """Return the medians that the table of forward passes has, of one shape or of all."""
    shapes = ((cell, own) for cell in cells for own in pass_shapes(cell) if shape in (None, own))
    return [statistics.median(shares) for cell, own in shapes if (shares := longer_passes(cell, own, state))]


def _adapted(claim: Claim, cells: Sequence[Probed]) -> list[float]:
    own = [cell for cell in cells if (cell.spec.model.name, cell.spec.method.label) == (claim.model, claim.method)]
    return _longer(own, "adapted", claim.shape)


_MEASURED: dict[Quantity, _Measure] = {
    "trained_weights": _Measure("trained weights, without heads", _times("parameters.adapter"), "{} times fewer"),
    "step_memory": _Measure("memory in training", _times("measured.peak_bytes"), "{} times less"),
    "stored_weights": _Measure("stored weights, without heads", _times("checkpoint.adapter_bytes"), "{} times smaller"),
    "step_speed": _Measure("speed of training", _times(STEP), "{} faster", lambda times: percent(times - 1, 0)),
    "merged_latency": _Measure("latency when merged", lambda _, cells: _longer(cells, "merged"), form=signed_percent),
    "adapted_latency": _Measure("latency of {method}{shape}", _adapted, form=signed_percent),
    "task_switch": _Measure(
        "switches between tasks", _switches, "{} times as quick as to load the base model, from memory"
    ),
    "hundred_tasks": _Measure(f"files of {TASKS} tasks", _hundred_tasks, "{} times less"),
}
