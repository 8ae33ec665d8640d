"""Read the Trainer's log history of a run: its learning curve, evaluations and scores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_bench.records.record import CurvePoint

# Approximate number of losses of a learning curve; each is a mean over the logs since the previous one.
CURVE_POINTS = 50

# Facts that an evaluation logs about itself, after its prefix; they are no scores.
_BOOKKEEPING = {
    "epoch", "jit_compilation_time", "model_preparation_time", "num_tokens", "runtime", "samples_per_second",
    "steps_per_second",
}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its scores without `eval_`, and its duration."""

    step: int
    scores: dict[str, float]
    seconds: float


def evaluation_of(metrics: Mapping[str, Any], step: int) -> Evaluation | None:
    """Return the evaluation with these *metrics*, or None if they are of no evaluation.

    The Trainer names every score by a prefix, `eval` by default, and logs `<prefix>_runtime` with them.
    """
    prefix = _prefix(metrics)
    if prefix is None:
        return None
    named = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if name.startswith(f"{prefix}_")}
    scores = {
        "_".join([*evaluated_set(metrics), name]): float(value)
        for name, value in named.items()
        if name not in _BOOKKEEPING and _is_number(value)
    }
    return Evaluation(step, scores, float(metrics[f"{prefix}_runtime"]))


def evaluated_set(metrics: Mapping[str, Any]) -> list[str]:
    """Return the name of the evaluated set, of several or by a prefix of the script's own; empty for the only one."""
    before = (_prefix(metrics) or "").removeprefix("eval").lstrip("_")
    return [before] if before else []


def _prefix(metrics: Mapping[str, Any]) -> str | None:
    prefixes = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime") and key != "train_runtime"]
    return prefixes[0] if len(prefixes) == 1 else None


def evaluations(history: Iterable[Mapping[str, Any]]) -> list[Evaluation]:
    """Return every evaluation in a log history, in order; those of several splits at one step are one."""
    found: list[Evaluation] = []
    for entry in history:
        one = evaluation_of(entry, int(entry.get("step", 0)))
        if one is None:
            continue
        last = found[-1] if found else None
        if last is not None and last.step == one.step and not set(last.scores) & set(one.scores):
            found[-1] = Evaluation(one.step, {**last.scores, **one.scores}, last.seconds + one.seconds)
        else:
            found.append(one)
    return found


def curve_of(history: Sequence[Mapping[str, Any]]) -> tuple[CurvePoint, ...]:
    """Return some fifty losses, but for those of NaN gradients, which the Trainer replaces, and every evaluation's scores."""
    losses = [
        (int(entry["step"]), float(entry["loss"]))
        for entry in history
        if _is_number(entry.get("loss"))
        and not (isinstance(norm := entry.get("grad_norm"), float) and math.isnan(norm))
    ]
    window = max(1, -(-len(losses) // CURVE_POINTS))
    groups = [losses[start : start + window] for start in range(0, len(losses), window)]
    points = [
        CurvePoint(step=group[-1][0], loss=round(sum(loss for _, loss in group) / len(group), 6)) for group in groups
    ]
    points += [CurvePoint(step=one.step, scores=one.scores) for one in evaluations(history) if one.scores]
    return tuple(sorted(points, key=lambda point: (point.step, point.loss is None)))


def why_diverged(history: Sequence[Mapping[str, Any]], *, scaled: bool) -> str | None:
    """Return why training diverged, or None if the log shows no sign of it.

    The Trainer logs a NaN loss as a number (`logging_nan_inf_filter`), so the norm of the gradients is checked too. Where
    losses are *scaled* for float16, single steps overflow by design and are skipped.
    """
    losses = [
        (entry[name], entry.get("step"))
        for entry in history
        for name in ("loss", "train_loss")
        if isinstance(entry.get(name), int | float)
    ]
    if losses and not math.isfinite(losses[-1][0]):
        return f"the training loss is {losses[-1][0]} at step {losses[-1][1]}"
    for entry in history:
        norm = entry.get("grad_norm")
        if isinstance(norm, int | float) and not math.isfinite(norm) and not scaled:
            return f"the gradients are {norm} at step {entry.get('step')}"
    return None


def _is_number(value: Any) -> bool:
    if value is None or isinstance(value, bool | str):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):  # lists and arrays, such as the scores of each class
        return False
