"""A paper's claims of trained weights, memory, speed and stored bytes, each beside the measurement.

Explanations of a difference follow from the same records: from counts, from the parts of a step and of its memory, and from
operations.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.report import text
from lora_bench.report.probes.cells import STEP, Probed, noise_floor
from lora_bench.report.probes.claim_pairs import (
    NOTHING,
    ClaimPair,
    mebibytes,
    method_of,
    model_of,
    percent,
    percent_of,
    span,
    times,
    times_of,
)
from lora_bench.report.probes.paper_claims import Claim
from lora_bench.report.text import MISSING

TASKS = 100


def trained_weights(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """Numbers of trained weights."""

    def adapter(record: ProbeRecord) -> float | None:
        return record.parameters.adapter if record.parameters is not None else None

    rows = [
        [
            model_of(pair.whole),
            text.count(int(both[0])),
            method_of(pair.adapted),
            text.count(int(both[1])),
            times(*both),
        ]
        for pair in pairs
        if (both := pair.both(adapter)) is not None
    ]
    if not rows:
        return NOTHING
    return [
        *text.table(["shape", "all weights", "method", "trained", "times fewer"], rows),
        "",
        "Heads are left out on both sides. With rank r on query and value, L layers of width d train 4 L d r weights of about "
        "12 L d², so the factor is 3 d / r, and more where there are large embeddings. GPT-3 has d = 12,288, and 9,216 with "
        "r = 4; width 768 gives 288 with r = 8, and width 1,024 gives 768 with r = 4. The factor is a fact of the "
        "width and of the rank.",
    ]


def step_memory(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """The memory of a training step."""

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
            [model_of(pair.whole), method_of(pair.adapted), *map(text.mebibytes, peaks), times(*peaks),
             *map(text.mebibytes, without), times(*without), *map(text.mebibytes, left)]
        )  # fmt: skip
        shares.append(left[1] / peaks[1])
        ratios.append(peaks[0] / peaks[1])
    if not rows:
        return NOTHING
    all_held, activations = "weights, gradients and states, MiB", "activations, MiB"
    header = ["shape", "method", "peak of all weights, MiB", "adapted", "times less", f"{all_held}, of all weights",
              "adapted", "times less", f"{activations}, of all weights", "adapted"]  # fmt: skip
    return [
        *text.wide_table(header, rows, names=2),
        "",
        "In float32 AdamW holds 16 bytes for a trained weight (itself, its gradient, two states) and 4 for a frozen one, so no "
        f"method can need less than a quarter, and this is where LoRA comes to. What the claim leaves out are activations: "
        f"the backward pass needs them whether weights are frozen or not. Here they are {span(shares, percent_of)} of an "
        f"adapted step's peak, and leave {span(ratios, times_of)} times. They grow with the batch and the "
        "length; weights do not. The paper's 1.2 TB and 350 GB are of a model whose weights outweigh the rest.",
    ]


def stored_weights(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """The section on the weights and files that must be stored."""
    rows = []
    for pair in pairs:
        weights, files = pair.both("checkpoint.adapter_bytes"), pair.both("checkpoint.stored_bytes")
        if weights is not None and files is not None:
            rows.append(
                [model_of(pair.whole), method_of(pair.adapted), *map(mebibytes, weights), times(*weights),
                 *map(mebibytes, files), times(*files)]
            )  # fmt: skip
    if not rows:
        return NOTHING
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


def step_speed(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """The time of a training step, and which parts of it were spared."""
    rows, sentences = [], []
    for pair in pairs:
        steps = pair.both(STEP)
        if steps is None:
            continue
        operations = pair.both("flops.step")
        spared = MISSING if operations is None else percent(operations[1] / operations[0] - 1)
        spec = pair.whole.spec
        rows.append(
            [model_of(pair.whole), method_of(pair.adapted), f"{spec.batch_size} × {spec.length}",
             *map(text.milliseconds, steps), percent(steps[1] / steps[0] - 1), percent(steps[0] / steps[1] - 1), spared]
        )  # fmt: skip
        sentences.append(_where_time_goes(pair, steps))
    if not rows:
        return NOTHING
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


def _where_time_goes(pair: ClaimPair, steps: tuple[float, float]) -> str:
    """The time that each part of a step saves, in milliseconds, and that of the whole step."""
    spared = {name: both[0] - both[1] for name, of in _PARTS.items() if (both := pair.both(of)) is not None}
    parts = [
        f"{name} {text.milliseconds(abs(seconds))} ms {'less' if seconds >= 0 else 'more'}"
        for name, seconds in spared.items()
    ]
    whole = f"{text.milliseconds(abs(steps[0] - steps[1]))} ms {'less' if steps[0] >= steps[1] else 'more'} a step"
    return f"{model_of(pair.whole)}: {whole}: {text.listed(parts)}." if len(parts) == len(_PARTS) else ""


def hundred_tasks(claims: Sequence[Claim], cells: Sequence[Probed], pairs: Sequence[ClaimPair]) -> list[str]:
    """The section on the storage for a hundred tasks."""
    rows = []
    for pair in pairs:
        files, weights = pair.both("checkpoint.stored_bytes"), pair.both("checkpoint.adapter_bytes")
        if files is not None and weights is not None:
            whole, adapted = TASKS * files[0], weights[0] + TASKS * files[1]
            rows.append([model_of(pair.whole), method_of(pair.adapted), f"{whole / text.GIB:.1f}", f"{adapted / text.GIB:.2f}",
                         times(whole, adapted)])  # fmt: skip
    if not rows:
        return NOTHING
    return [
        *text.table(["shape", "method", "all weights, GiB", "adapted", "times less"], rows, numbers_from=2),
        "",
        f"Computed from the stored bytes: {TASKS} times the files of a fully fine-tuned model, against one base model and "
        f"{TASKS} times the files of an adapter with its head. The factor can never be above {TASKS}.",
    ]
