"""What the Trainer's log history says of a run: its learning curve, its evaluations and its scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_bench.records.record import CurvePoint

# Losses of a learning curve, about: each is a mean over the logs since the one before.
CURVE_POINTS = 50

# What an evaluation logs of itself, after its prefix, and no scores.
_BOOKKEEPING = {
    "epoch", "jit_compilation_time", "model_preparation_time", "num_tokens", "runtime", "samples_per_second",
    "steps_per_second",
}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its scores without `eval_`, and how long it took."""

    step: int
    scores: dict[str, float]
    seconds: float


def evaluation_of(metrics: Mapping[str, Any], step: int) -> Evaluation | None:
    """The evaluation that *metrics* are of, or None where they are of none.

    The Trainer names every score by a prefix, `eval` unless a script says another, and logs `<prefix>_runtime` with them.
    """
    prefixes = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime") and key != "train_runtime"]
    if len(prefixes) != 1:
        return None
    (prefix,) = prefixes
    named = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if name.startswith(f"{prefix}_")}
    before = prefix.removeprefix("eval").lstrip("_")
    scores = {
        f"{before}_{name}" if before else name: float(value)
        for name, value in named.items()
        if name not in _BOOKKEEPING and _is_number(value)
    }
    return Evaluation(step, scores, float(metrics[f"{prefix}_runtime"]))


def evaluations(history: Iterable[Mapping[str, Any]]) -> list[Evaluation]:
    """Every evaluation in a log history, in its order; those of several splits at one step are one."""
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
    """Return the learning curve: some fifty losses, and the scores of every evaluation.

    A loss logged with gradients that are NaN is left out: the Trainer's filter puts another number in its place.
    """
    losses = [
        (int(entry["step"]), float(entry["loss"]))
        for entry in history
        if _is_number(entry.get("loss")) and not _is_nan(entry.get("grad_norm"))
    ]
    window = max(1, -(-len(losses) // CURVE_POINTS))
    groups = [losses[start : start + window] for start in range(0, len(losses), window)]
    points = [
        CurvePoint(step=group[-1][0], loss=round(sum(loss for _, loss in group) / len(group), 6)) for group in groups
    ]
    points += [CurvePoint(step=one.step, scores=one.scores) for one in evaluations(history) if one.scores]
    return tuple(sorted(points, key=lambda point: (point.step, point.loss is None)))


def why_diverged(history: Sequence[Mapping[str, Any]], *, scaled: bool) -> str | None:
    """Return why training diverged, or None where the log shows no sign of it.

    The Trainer logs a NaN loss as a number (`logging_nan_inf_filter`), so the norm of the gradients is looked at too.

    Args:
        history: The Trainer's log.
        scaled: Whether losses are scaled for float16: single steps then overflow by design, and are skipped.
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


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; a truth value is none."""
    if value is None or isinstance(value, bool | str):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):  # lists and arrays, such as the scores of each class
        return False
