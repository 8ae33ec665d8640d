"""Count the FLOPs of the training steps of a run.

A step is done on fake tensors of each padded shape, and the operations of its matrix products are added up, forward and
backward. Attention is counted as its matrix products, whatever kernel computes it. A run has as many shapes as its batches have
lengths. In between, a count is interpolated if five counts lie on one parabola: at a given batch size some parts of a step do
not depend on the length, some grow with it, and attention grows with its square. Where an encoder reads the input and a decoder
writes, a batch has two lengths, and attention from one to the other grows with their product: then counts are taken from a
surface of the second degree, if eight of them lie on it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import version
from typing import Any

from lora_bench.errors import UnsupportedPair, first_line
from lora_bench.kinds import KindName, find_kind
from lora_bench.methods import Method
from lora_bench.models.loading import load_model
from lora_bench.models.registry import BaseModel
from lora_bench.records.budget import TARGETS, rows_of
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import cache_folder
from lora_bench.util.sealed_json import keep, kept
from lora_bench.version import __version__

Example = Any


def batch_flops(
    count: Callable[[int, int], int], examples: Sequence[Example], batch_size: int, accumulation: int
) -> Callable[[Sequence[Example]], int]:
    """Return a function that counts the FLOPs of a batch of examples, by *count* for rows of a padded length.

    *examples* are all of the batches, unpadded. A batch is split into *accumulation* parts, each padded to its own longest
    example.
    """
    part, count = batch_size // accumulation, functools.cache(count)
    lengths = sorted({len(row["input_ids"]) for example in examples for row in rows_of([example])})
    full = at_lengths(lambda length: count(part, length), lengths)

    def of_part(examples: Sequence[Example]) -> int:
        rows = rows_of(examples)
        longest = max(len(row["input_ids"]) for row in rows)
        return full[longest] if len(rows) == part else count(len(rows), longest)

    return lambda batch: sum(of_part(batch[start : start + part]) for start in range(0, len(batch), part))


def batch_flops_apart(
    count: Callable[[int, int, int], int], examples: Sequence[Example], batch_size: int, accumulation: int
) -> Callable[[Sequence[Example]], int]:
    """Return a function that counts the FLOPs of a batch of examples whose inputs and texts to write are apart.

    *count* takes rows and the padded lengths of inputs and of texts; the rest is as for `batch_flops`.
    """
    part = batch_size // accumulation
    inputs, texts = zip(*(_lengths(example) for example in examples), strict=True)
    full = at_two_lengths(functools.partial(count, part), sorted(set(inputs)), sorted(set(texts)))

    def of_part(rows: Sequence[Example]) -> int:
        inputs, texts = zip(*map(_lengths, rows), strict=True)
        counted: Callable[[int, int], int] = full if len(rows) == part else functools.partial(count, len(rows))
        return counted(max(inputs), max(texts))

    return lambda batch: sum(of_part(batch[start : start + part]) for start in range(0, len(batch), part))


def _lengths(example: Example) -> tuple[int, int]:
    return len(example["input_ids"]), len(example[TARGETS])


def at_two_lengths(
    count: Callable[[int, int], int], inputs: Sequence[int], texts: Sequence[int]
) -> Callable[[int, int], int]:
    """Return a count at any two of these lengths, in rising order; on a surface of the second degree if eight counts lie on it.

    The surface is a parabola along each length and a share of their product. Six counts give it, and two others test it.
    """
    count = functools.cache(count)
    if len(inputs) < 4 or len(texts) < 4:
        return count
    x, y = ([lengths[third * (len(lengths) - 1) // 3] for third in range(4)] for lengths in (inputs, texts))
    along = _parabola([(own, count(own, y[0])) for own in x[:3]])
    across = _parabola([(other, count(x[0], other)) for other in y[:3]])

    def apart(own: int, other: int) -> Fraction:
        return along(own) + across(other) - count(x[0], y[0])

    share = (count(x[1], y[1]) - apart(x[1], y[1])) / ((x[1] - x[0]) * (y[1] - y[0]))

    def surface(own: int, other: int) -> Fraction:
        return apart(own, other) + share * (own - x[0]) * (other - y[0])

    if any(surface(*pair) != count(*pair) for pair in ((x[3], y[3]), (x[2], y[1]))):
        return count
    return lambda own, other: int(surface(own, other))


def at_lengths(count: Callable[[int], int], lengths: Sequence[int]) -> dict[int, int]:
    """Return a count at each of *lengths*, in rising order; interpolated if five counts lie on one parabola.

    Where a part of a model stops growing (DeBERTa's relative positions), two parabolas meet. A parabola through three counts on
    both sides misses the other two, and each half is examined on its own.
    """
    count = functools.cache(count)
    last = len(lengths) - 1
    if last < 5:
        return {length: count(length) for length in lengths}
    seen = [lengths[quarter * last // 4] for quarter in range(5)]
    parabola = _parabola([(length, count(length)) for length in seen[::2]])
    if all(parabola(length) == count(length) for length in seen[1::2]):
        values = {length: parabola(length) for length in lengths}
        if all(value.denominator == 1 for value in values.values()):
            return {length: int(value) for length, value in values.items()}
    middle = last // 2
    return {**at_lengths(count, lengths[: middle + 1]), **at_lengths(count, lengths[middle:])}


def _parabola(points: Sequence[tuple[int, int]]) -> Callable[[int], Fraction]:
    """Return the parabola through three points, in exact arithmetic."""

    def at(x: int) -> Fraction:
        total = Fraction(0)
        for index, (own, value) in enumerate(points):
            others = [other for place, (other, _) in enumerate(points) if place != index]
            total += value * Fraction((x - others[0]) * (x - others[1]), (own - others[0]) * (own - others[1]))
        return total

    return at


def step_flops(
    base_model: BaseModel,
    method: Method,
    *,
    kind: KindName,
    labels: int,
    rows: int,
    length: int,
    text: int | None = None,
) -> int:
    """Return the FLOPs of the forward and backward passes of a batch, from its shape alone; cached.

    Of the base model only the configuration is read. *text* is the padded length of texts to write that are apart from the
    inputs.

    Raises:
        UnsupportedPair: If the method cannot adapt the base model, or its computation depends on values.
    """
    asked = {
        "model": base_model.sha256, "method": method.name, "options": method.model_dump(), "kind": kind, "labels": labels,
        "rows": rows, "length": length, **({} if text is None else {"text": text}),
        "versions": [__version__, version("transformers"), version("peft"), version("torch")],
    }  # fmt: skip
    path = cache_folder("flops") / f"{content_hash(asked)}.json"
    # A third-party method may change under the same versions, so its counts are not cached.
    is_kept = type(method).__module__.startswith("lora_bench.")
    found = kept(path) if is_kept else None
    if found is not None:
        return int(found["flops"])
    from lora_bench.training.measure.step_bytes import predict_step

    # A fused kernel would hide its matrix products from the counter.
    model, head = load_model(base_model, kind=kind, labels=labels, attention="eager", on_meta=True)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    batch, real = find_kind(kind).batch_shapes(rows, length, labels, text), find_kind(kind).real_labels
    try:
        adapted = method.apply(model, head=head)
        _, flops = predict_step(adapted, batch, "float32", fused_attention=False, real=real)
    except RuntimeError as error:
        reason = first_line(error)
        raise UnsupportedPair(f"the FLOPs of a step cannot be counted from shapes: {reason}") from error
    if is_kept:
        keep(path, {"flops": flops.step})
    return flops.step
