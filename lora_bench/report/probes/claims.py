"""A paper's claims about parameters, memory, speed, latency and storage, each beside what the probes of a suite found.

The claims are facts in a file beside the suite. Nothing is said of a number that was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.report.probes import claims_of_training, claims_of_use
from lora_bench.report.probes.cells import STEP, Probed, probed_cells
from lora_bench.report.probes.claim_pairs import CLAIMED, ClaimPair, percent_of, span, times_of, whole_of
from lora_bench.report.probes.paper_claims import Claim, Claims, Quantity
from lora_bench.report.text import inert, plural, table


def claims_lines(claims: Claims, records: Sequence[ProbeRecord]) -> list[str]:
    """The section that holds *claims* against *records*, as lines of Markdown; empty where nothing was measured."""
    cells = [cell for cell in probed_cells(records) if cell.records]
    if not cells:
        return []
    pairs = [
        ClaimPair(whole, cell)
        for cell in cells
        if cell.spec.method.name == CLAIMED and (whole := whole_of(cell, cells)) is not None
    ]
    lines = ["## The paper's claims", "", f"Claims of {inert(claims.paper)}, each beside what was measured here.", ""]
    by_quantity: dict[Quantity, list[Claim]] = {}
    for claim in claims.claims:
        by_quantity.setdefault(claim.quantity, []).append(claim)
    for quantity, of_it in by_quantity.items():
        title, made = _SECTIONS[quantity]
        lines += [f"### {title}", ""]
        if quantity != "adapted_latency":
            lines += [
                f"* Claimed: {inert(claim.printed)} ({inert(claim.where)}; {inert(claim.of)})." for claim in of_it
            ]
            lines.append("")
        lines += [*made(of_it, cells, pairs), ""]
    return lines


def claims_table(claims: Claims, records: Sequence[ProbeRecord]) -> list[str]:
    """The claims on training in a small table, each beside what was measured; empty where nothing was."""
    cells = [cell for cell in probed_cells(records) if cell.records]
    pairs = [
        ClaimPair(whole, cell)
        for cell in cells
        if cell.spec.method.name == CLAIMED and (whole := whole_of(cell, cells)) is not None
    ]
    rows = []
    for claim in claims.claims:
        found = [pair.both(_VALUES[claim.quantity].of) for pair in pairs] if claim.quantity in _VALUES else []
        ratios = [both[0] / both[1] for both in found if both is not None and both[1]]
        if ratios:
            printed = inert(claim.printed.split(" (")[0])
            value = _VALUES[claim.quantity]
            rows.append([value.what, f"{printed} ({inert(claim.of)})", value.said.format(span(ratios, value.shown))])
    if not rows:
        return []
    models = {pair.whole.spec.model.shown for pair in pairs}
    header = [
        "a paper's claim",
        f"in {inert(claims.paper.split(',')[0])}",
        f"here, on {plural(len(models), 'base model')}",
    ]
    return [
        *table(header, rows, numbers_from=len(header)),
        "",
        f"Claims of {inert(claims.paper)}, beside LoRA here. [All claims](#the-papers-claims).",
    ]


@dataclass(frozen=True)
class _Claimed:
    """A claim on training: the measured value, its name, and the ratio of all weights' to the adapter's in words."""

    of: str | Callable[[ProbeRecord], float | None]
    what: str
    said: str
    shown: Callable[[float], str] = times_of


def _faster(ratio: float) -> str:
    return percent_of(ratio - 1)


_VALUES: dict[Quantity, _Claimed] = {
    "trained_weights": _Claimed("parameters.adapter", "trained weights, without heads", "{} times fewer"),
    "step_memory": _Claimed("measured.peak_bytes", "memory in training", "{} times less"),
    "stored_weights": _Claimed("checkpoint.adapter_bytes", "stored weights, without heads", "{} times smaller"),
    "step_speed": _Claimed(STEP, "speed of training", "{} faster", _faster),
}

_SECTIONS: dict[
    Quantity, tuple[str, Callable[[Sequence[Claim], Sequence[Probed], Sequence[ClaimPair]], list[str]]]
] = {
    "trained_weights": ("Fewer trained weights", claims_of_training.trained_weights),
    "step_memory": ("Less memory in training", claims_of_training.step_memory),
    "stored_weights": ("Smaller checkpoints", claims_of_training.stored_weights),
    "step_speed": ("Faster training", claims_of_training.step_speed),
    "merged_latency": ("No latency when merged", claims_of_use.merged_latency),
    "adapted_latency": ("The latency of adapters", claims_of_use.adapted_latency),
    "task_switch": ("Quick switches between tasks", claims_of_use.task_switch),
    "hundred_tasks": ("A hundred tasks", claims_of_training.hundred_tasks),
}  # fmt: skip
