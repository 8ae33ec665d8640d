"""A paper's claims of a model in use, latency and changes of task, each beside the measurement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lora_bench.records.probe_record import ProbeRecord, State
from lora_bench.report import text
from lora_bench.report.probes.cells import Probed
from lora_bench.report.probes.claim_pairs import (
    CLAIMED,
    NOTHING,
    ClaimPair,
    method_of,
    model_of,
    percent,
    times,
    times_sign,
    whole_of,
)
from lora_bench.report.probes.paper_claims import Claim
from lora_bench.report.text import MISSING, code, inert


def merged_latency(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """Forward passes of the merged model."""
    rows = []
    for cell in cells:
        for shape in _shapes(cell):
            more, base = _more(cell, shape, "merged"), _seconds(cell, shape, "unadapted")
            if more:
                gap = cell.value("inference.merged_difference")
                rows.append(
                    [model_of(cell), method_of(cell), times_sign(shape), text.milliseconds(base), *_spread(more),
                     MISSING if gap is None else f"{gap:.1e}".replace("-", "−")]
                )  # fmt: skip
    if not rows:
        return NOTHING
    header = ["shape", "method", "forward pass", "base model, ms", "merged", "processes", "outputs differ by"]
    return [
        *text.table(header, rows, numbers_from=3),
        "",
        "A merged model has the base model's modules and no other, so what differs from 0 is noise: in each process base model "
        "and merged model take turns, and the range is over the processes. The tables of each shape compare medians over "
        "processes and so may differ. Outputs differ by the rounding of float32, since "
        "(W + BA) x is not summed in the order of W x + B (A x).",
    ]


def adapted_latency(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """Forward passes of the adapted model."""
    rows, explained = [], dict[str, None]()
    for claim in claims:
        cell = next((one for one in cells if _is_of(claim, one)), None)
        shown = (claim.model or "any").removeprefix("shape:"), claim.method or CLAIMED, claim.shape or (1, 1)
        ours, operations = [MISSING, MISSING, MISSING], MISSING
        if cell is not None and (more := _more(cell, shown[2], "adapted")):
            ours = [text.milliseconds(_seconds(cell, shown[2], "unadapted")), *_spread(more)]
            whole = whole_of(cell, cells)
            both = ClaimPair(whole, cell).both("flops.forward") if whole is not None else None
            operations = MISSING if both is None else percent(both[1] / both[0] - 1)
            explained[cell.spec.device] = None
        rows.append([inert(shown[0]), code(shown[1]), times_sign(shown[2]), inert(claim.printed), *ours, operations])
    header = ["shape", "method", "forward pass", "claimed", "base model, ms", "here", "processes", "operations"]
    where = "; ".join(dict.fromkeys(f"{claim.where}, {claim.of}" for claim in claims))
    lines = [f"Claimed in {inert(where)}.", "", *text.table(header, rows, numbers_from=3)]
    if explained:
        lines += ["", *(_ADAPTED[device] for device in explained)]
    return lines


_ADAPTED = {
    "cpu": "Adapters cannot be merged. What they add in operations is in the last column, and a CPU, which is busy with "
    "arithmetic in a pass of this size, has little more to do than that. On a GPU a pass of one short input waits for its "
    "operations to be launched one after another, and each adapter adds several to every layer: that, and not arithmetic, is "
    "what the paper's percentages show, so they fall as the batch grows.",
    "cuda": "Adapters cannot be merged. What they add in operations is in the last column. A pass of one short input waits for "
    "its operations to be launched one after another, and each adapter adds several to every layer, so the share is largest "
    "where the batch is smallest.",
}


def task_switch(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """Going from one task to another."""
    rows = []
    for cell in cells:
        restored, loaded = cell.value("checkpoint.restore_seconds"), cell.value("checkpoint.model_load_seconds")
        switched = cell.value("checkpoint.switch_seconds")
        if restored is not None and loaded is not None:
            rows.append(
                [model_of(cell), method_of(cell), text.milliseconds(loaded), text.milliseconds(restored),
                 times(loaded, restored), text.milliseconds(switched), MISSING if not switched else times(loaded, switched)]
            )  # fmt: skip
    if not rows:
        return NOTHING
    header = ["shape", "method", "base model loaded, ms", "next task from files, ms", "times quicker",
              "next task from memory, ms", "times quicker"]  # fmt: skip
    return [
        *text.table(header, rows, numbers_from=2),
        "",
        "From files, what was stored is put onto a loaded base model; from memory, an adapter takes the place of another that "
        "is loaded beside it. Files are in the system's cache. Merged weights have no such switch: the update is subtracted "
        "and another added, and a batch cannot be of several tasks, as the paper says.",
    ]


def _is_of(claim: Claim, cell: Probed) -> bool:
    return cell.spec.model.name == claim.model and cell.spec.method.label == claim.method


def _shapes(cell: Probed) -> list[tuple[int, int]]:
    found = {
        (latency.batch_size, latency.length)
        for record in cell.records
        if record.inference is not None
        for latency in record.inference.latencies
    }
    return sorted(found)


def _pass_seconds(record: ProbeRecord, shape: tuple[int, int], state: State) -> float | None:
    latencies = record.inference.latencies if record.inference is not None else ()
    same = (one for one in latencies if (one.batch_size, one.length, one.state) == (*shape, state))
    return next((one.seconds_median for one in same), None)


def _seconds(cell: Probed, shape: tuple[int, int], state: State) -> float | None:
    return cell.value(lambda record: _pass_seconds(record, shape, state))


def _more(cell: Probed, shape: tuple[int, int], state: State) -> list[float]:
    """By how much longer a pass took than the base model's in the same process, of each process, as shares."""
    both = [(_pass_seconds(record, shape, "unadapted"), _pass_seconds(record, shape, state)) for record in cell.records]
    return [own / base - 1 for base, own in both if base and own is not None]


def _spread(shares: Sequence[float]) -> list[str]:
    """The median of shares, and their range."""
    return [percent(statistics.median(shares)), f"{percent(min(shares))} to {percent(max(shares))}"]
