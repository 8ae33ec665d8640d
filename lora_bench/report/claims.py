"""A paper's claims about parameters, memory, speed, latency and storage, each beside what the probes of a suite found.

The claims are facts in a file beside the suite. What is said of a difference follows from the same records: from counts,
from the parts of a step and of its memory, and from operations; nothing is said of a number that was not measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lora_bench.probe_record import ProbeRecord, State
from lora_bench.published.claims import Claim, Claims, Quantity
from lora_bench.report import text
from lora_bench.report.probed import REFERENCE, STEP, Probed, noise_floor, probed_cells
from lora_bench.report.text import MISSING, code, inert

# What a method that adapts a frozen model is held against, and the method of the claims.
CLAIMED = "lora"
TASKS = 100

# AdamW in float32: weight, gradient and two states of a trained weight, against a frozen one alone.
MOST_TIMES_LESS = 4


@dataclass(frozen=True)
class _Pair:
    """The same step with all weights trained, and adapted."""

    whole: Probed
    adapted: Probed

    def both(self, of: str | Callable[[ProbeRecord], float | None]) -> tuple[float, float] | None:
        """A value of either, or None where one lacks it."""
        values = (self.whole.value(of), self.adapted.value(of))
        return None if values[0] is None or values[1] is None else (values[0], values[1])


def claims_lines(claims: Claims, records: Sequence[ProbeRecord]) -> list[str]:
    """The section that holds *claims* against *records*, as lines of Markdown; empty where nothing was measured."""
    cells = [cell for cell in probed_cells(records) if cell.records]
    if not cells:
        return []
    pairs = [
        _Pair(whole, cell)
        for cell in cells
        if cell.spec.method.name == CLAIMED and (whole := _whole(cell, cells)) is not None
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


def _whole(cell: Probed, cells: Sequence[Probed]) -> Probed | None:
    """The cell that trains all weights in the same step."""
    left_out = {"method", "latency_shapes", "wide_tokens"}
    step = cell.spec.model_dump(exclude=left_out)
    same = (one for one in cells if one.spec.method.name == REFERENCE and one.spec.model_dump(exclude=left_out) == step)
    return next(same, None)


def _model(cell: Probed) -> str:
    return inert(cell.spec.model.shown.removeprefix("shape:"))


def _name(cell: Probed) -> str:
    return code(cell.spec.method.label)


_NOTHING = ["Not measured here."]


def _trained_weights(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    def adapter(record: ProbeRecord) -> float | None:
        return record.parameters.adapter if record.parameters is not None else None

    rows = [
        [_model(pair.whole), text.count(int(both[0])), _name(pair.adapted), text.count(int(both[1])), _times(*both)]
        for pair in pairs
        if (both := pair.both(adapter)) is not None
    ]
    if not rows:
        return _NOTHING
    return [
        *text.table(["shape", "all weights", "method", "trained", "times fewer"], rows),
        "",
        "Heads are left out on both sides. With rank r on query and value, L layers of width d train 4 L d r weights of about "
        "12 L d², so the factor is 3 d / r, and more where there are large embeddings. GPT-3 has d = 12,288, and 9,216 with "
        "r = 4; width 768 gives 288 with r = 8, and width 1,024 gives 768 with r = 4. The factor is a fact of the "
        "width and of the rank.",
    ]


def _step_memory(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    def fixed(record: ProbeRecord) -> float | None:
        held = record.measured
        return None if held is None else held.weight_bytes + held.gradient_bytes + held.optimizer_bytes

    rows, shares, ratios = [], [], []
    for pair in pairs:
        peaks, without = pair.both("measured.peak_bytes"), pair.both(fixed)
        left = pair.both("measured.activation_bytes")
        if peaks is None or without is None or left is None:
            continue
        rows.append(
            [_model(pair.whole), _name(pair.adapted), *map(text.mebibytes, peaks), _times(*peaks),
             *map(text.mebibytes, without), _times(*without), *map(text.mebibytes, left)]
        )  # fmt: skip
        shares.append(left[1] / peaks[1])
        ratios.append(peaks[0] / peaks[1])
    if not rows:
        return _NOTHING
    all_held, activations = "weights, gradients and states, MiB", "activations, MiB"
    header = ["shape", "method", "peak of all weights, MiB", "adapted", "times less", f"{all_held}, of all weights",
              "adapted", "times less", f"{activations}, of all weights", "adapted"]  # fmt: skip
    return [
        *text.table(header, rows, numbers_from=2),
        "",
        "In float32 AdamW holds 16 bytes for a trained weight (itself, its gradient, two states) and 4 for a frozen one, so no "
        f"method can need less than a quarter, and this is where LoRA comes to. What the claim leaves out are activations: "
        f"the backward pass needs them whether weights are frozen or not. Here they are {_span(shares, _percent_of)} of an "
        f"adapted step's peak, and leave {_span(ratios, _times_of)} times. They grow with the batch and the "
        "length; weights do not. The paper's 1.2 TB and 350 GB are of a model whose weights outweigh the rest.",
    ]


def _stored_weights(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    rows = []
    for pair in pairs:
        weights, files = pair.both("checkpoint.adapter_bytes"), pair.both("checkpoint.stored_bytes")
        if weights is not None and files is not None:
            rows.append(
                [_model(pair.whole), _name(pair.adapted), *map(_mebibytes, weights), _times(*weights),
                 *map(_mebibytes, files), _times(*files)]
            )  # fmt: skip
    if not rows:
        return _NOTHING
    header = ["shape", "method", "all weights, MiB", "adapter", "times smaller", "files with the head, MiB", "adapted",
              "times smaller"]  # fmt: skip
    return [
        *text.table(header, rows, numbers_from=2),
        "",
        "Both sides are float32, so without heads the factor is that of the counts above. A classifier's head, which both must "
        "keep, is as large as a small adapter, and takes a part of the factor away.",
    ]


_PARTS = {
    "forward pass": "speed.forward_seconds",
    "backward pass": "speed.backward_seconds",
    "optimiser": "speed.optimizer_seconds",
}


def _step_speed(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    rows, sentences = [], []
    for pair in pairs:
        steps = pair.both(STEP)
        if steps is None:
            continue
        operations = pair.both("flops.step")
        spared = MISSING if operations is None else _percent(operations[1] / operations[0] - 1)
        spec = pair.whole.spec
        rows.append(
            [_model(pair.whole), _name(pair.adapted), f"{spec.batch_size} × {spec.length}",
             *map(text.milliseconds, steps), _percent(steps[1] / steps[0] - 1), _percent(steps[0] / steps[1] - 1), spared]
        )  # fmt: skip
        sentences.append(_where_time_goes(pair, steps))
    if not rows:
        return _NOTHING
    header = [
        "shape",
        "method",
        "tokens a step",
        "step of all weights, ms",
        "adapted",
        "time",
        "tokens/s",
        "operations",
    ]
    floor = noise_floor(cells)
    noise = "not known" if floor is None else f"{floor:.1%}".replace("%", " %")
    return [
        *text.table(header, rows, numbers_from=2),
        "",
        f"The noise floor of step times is {noise}. A frozen weight needs no gradient, which spares about a third of a "
        "step's operations (more where a part of the model comes before all that is trained, as DeBERTa's projections of "
        "relative positions do), and no update, whose cost does not depend on the number of tokens: the fewer tokens a step "
        "has, the larger is its part. What was spared here:",
        "",
        *(f"* {sentence}" for sentence in sentences if sentence),
    ]


def _where_time_goes(pair: _Pair, steps: tuple[float, float]) -> str:
    """Which parts of a step became shorter, of all that it became shorter by."""
    spared = {name: both[0] - both[1] for name, of in _PARTS.items() if (both := pair.both(of)) is not None}
    parts = [
        f"{name} {text.milliseconds(abs(seconds))} ms {'less' if seconds >= 0 else 'more'}"
        for name, seconds in spared.items()
    ]
    whole = f"{text.milliseconds(abs(steps[0] - steps[1]))} ms {'less' if steps[0] >= steps[1] else 'more'} a step"
    return f"{_model(pair.whole)}: {whole}: {text.listed(parts)}." if len(parts) == len(_PARTS) else ""


def _merged_latency(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    rows = []
    for cell in cells:
        for shape in _shapes(cell):
            more, base = _more(cell, shape, "merged"), _seconds(cell, shape, "unadapted")
            if more:
                gap = cell.value("inference.merged_difference")
                rows.append(
                    [_model(cell), _name(cell), _times_sign(shape), text.milliseconds(base), *_spread(more),
                     MISSING if gap is None else f"{gap:.1e}".replace("-", "−")]
                )  # fmt: skip
    if not rows:
        return _NOTHING
    header = ["shape", "method", "forward pass", "base model, ms", "merged", "processes", "outputs differ by"]
    return [
        *text.table(header, rows, numbers_from=3),
        "",
        "A merged model has the base model's modules and no other, so what differs from 0 is noise: in each process base model "
        "and merged model take turns, and the range is over the processes. Outputs differ by the rounding of float32, since "
        "(W + BA) x is not summed in the order of W x + B (A x).",
    ]


def _adapted_latency(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    rows, explained = [], dict[str, None]()
    for claim in claims:
        cell = next((one for one in cells if _is_of(claim, one)), None)
        shown = (claim.model or "any").removeprefix("shape:"), claim.method or CLAIMED, claim.shape or (1, 1)
        ours, operations = [MISSING, MISSING, MISSING], MISSING
        if cell is not None and (more := _more(cell, shown[2], "adapted")):
            ours = [text.milliseconds(_seconds(cell, shown[2], "unadapted")), *_spread(more)]
            whole = _whole(cell, cells)
            both = _Pair(whole, cell).both("flops.forward") if whole is not None else None
            operations = MISSING if both is None else _percent(both[1] / both[0] - 1)
            explained[cell.spec.device] = None
        rows.append([inert(shown[0]), code(shown[1]), _times_sign(shown[2]), inert(claim.printed), *ours, operations])
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


def _task_switch(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    rows = []
    for cell in cells:
        restored, loaded = cell.value("checkpoint.restore_seconds"), cell.value("checkpoint.model_load_seconds")
        switched = cell.value("checkpoint.switch_seconds")
        if restored is not None and loaded is not None:
            rows.append(
                [_model(cell), _name(cell), text.milliseconds(loaded), text.milliseconds(restored),
                 _times(loaded, restored), text.milliseconds(switched), MISSING if not switched else _times(loaded, switched)]
            )  # fmt: skip
    if not rows:
        return _NOTHING
    header = ["shape", "method", "base model loaded, ms", "next task from files, ms", "times quicker",
              "next task from memory, ms", "times quicker"]  # fmt: skip
    return [
        *text.table(header, rows, numbers_from=2),
        "",
        "From files, what was stored is put onto a loaded base model; from memory, an adapter takes the place of another that "
        "is loaded beside it. Files are in the system's cache. Merged weights have no such switch: the update is subtracted "
        "and another added, and a batch cannot be of several tasks, as the paper says.",
    ]


def _hundred_tasks(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[_Pair]) -> list[str]:
    rows = []
    for pair in pairs:
        files, weights = pair.both("checkpoint.stored_bytes"), pair.both("checkpoint.adapter_bytes")
        if files is not None and weights is not None:
            whole, adapted = TASKS * files[0], weights[0] + TASKS * files[1]
            rows.append([_model(pair.whole), _name(pair.adapted), f"{whole / text.GIB:.1f}", f"{adapted / text.GIB:.2f}",
                         _times(whole, adapted)])  # fmt: skip
    if not rows:
        return _NOTHING
    return [
        *text.table(["shape", "method", "all weights, GiB", "adapted", "times less"], rows, numbers_from=2),
        "",
        f"Computed from the stored bytes: {TASKS} times the files of a fully fine-tuned model, against one base model and "
        f"{TASKS} times the files of an adapter with its head. The factor can never be above {TASKS}.",
    ]


_SECTIONS: dict[
    Quantity, tuple[str, Callable[[Sequence[Claim], Sequence[Probed], Sequence[_Pair]], list[str]]]
] = {
    "trained_weights": ("Fewer trained weights", _trained_weights),
    "step_memory": ("Less memory in training", _step_memory),
    "stored_weights": ("Smaller checkpoints", _stored_weights),
    "step_speed": ("Faster training", _step_speed),
    "merged_latency": ("No latency when merged", _merged_latency),
    "adapted_latency": ("The latency of adapters", _adapted_latency),
    "task_switch": ("Quick switches between tasks", _task_switch),
    "hundred_tasks": ("A hundred tasks", _hundred_tasks),
}  # fmt: skip


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
    return [_percent(statistics.median(shares)), f"{_percent(min(shares))} to {_percent(max(shares))}"]


def _times(large: float, small: float) -> str:
    return MISSING if not small else _times_of(large / small)


def _times_of(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _times_sign(shape: tuple[int, int]) -> str:
    return f"{shape[0]} × {shape[1]}"


def _percent_of(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _percent(share: float) -> str:
    return f"{'+' if share >= 0 else '−'}{abs(share):.1%}".replace("%", " %")


def _span(values: Iterable[float], shown: Callable[[float], str]) -> str:
    """The least and the greatest of values, or the one."""
    found = sorted(values)
    low, high = shown(found[0]), shown(found[-1])
    return low if low == high else f"{low} to {high}"


def _mebibytes(number: float) -> str:
    value = number / text.MIB
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
