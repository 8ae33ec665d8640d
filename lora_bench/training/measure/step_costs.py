"""Predict the FLOPs and the memory of training steps, and if a step fits a card, before any weight is loaded.

`lora_bench.training.measure.step_bytes` counts both on fake tensors of each padded shape. A process also needs room for the
CUDA context and for the allocator's gaps. Attention's FLOPs are those of its matrix products, whatever kernel computes it.

A run has as many shapes as its batches have lengths. `at_lengths` interpolates: at a given batch size some parts of a step do
not depend on the length, some grow with it, and attention grows with its square. Where an encoder reads the input and a decoder
writes, a batch has two lengths, and each pair of them is counted.
"""

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError, UnsupportedPair, did_you_mean, first_line
from lora_bench.kinds import KindName, find_kind
from lora_bench.methods import Method
from lora_bench.models.loading import load_model
from lora_bench.models.registry import BaseModel
from lora_bench.records.budget import TARGETS, rows_of
from lora_bench.records.probe_record import Flops, StepBytes
from lora_bench.records.spec import AnyPrecision, Precision
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import cache_folder
from lora_bench.util.sealed_json import keep, kept_as
from lora_bench.version import __version__

Example = Any

# Well-known cards. Memory in GiB, as torch tells it (`total_memory`): less than in their names, because of the driver and of
# error correction. Where drivers differ, the least that users' logs show. Then TFLOP/s of dense matrix products in sixteen bits
# and GB/s of memory, by NVIDIA's data sheets; H100 and later as SXM.
CARDS = {
    "T4 16GB": (14.56, 65, 320),
    "V100 16GB": (15.77, 125, 900),
    "V100 32GB": (31.73, 125, 900),
    "RTX 3090 24GB": (23.56, 71, 936),
    "RTX 4090 24GB": (23.51, 165, 1008),
    "RTX 5090 32GB": (31.33, 210, 1792),
    "RTX 8000 48GB": (44.47, 130, 672),
    "L4 24GB": (21.95, 121, 300),
    "A10 24GB": (22.03, 125, 600),
    "L40S 48GB": (44.39, 362, 864),
    "A100 40GB": (39.38, 312, 1555),
    "A100 80GB": (79.14, 312, 2039),
    "H100 80GB": (79.09, 989, 3350),
    "H200 141GB": (139.71, 989, 4800),
    "B200 180GB": (178.34, 2250, 8000),
}

# Context of a process with its kernels loaded, and share of the allocator's memory lost in gaps.
CONTEXT_BYTES = 700 * 2**20
GAPS = 0.05

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*G(i?)B\b", re.IGNORECASE)


def card_bytes(name: str) -> int:
    """Return the memory of a card: a known one such as "T4" or "A100 80GB", or any with its size, such as "24GB" (24e9 bytes).

    A size may also be in GiB, as in "my card 22.5 GiB". Raise LoraBenchError if the name is unknown, or stands for cards of
    different sizes, and gives no size.
    """
    card, given, found = find_card(name), _SIZE.search(name), _named(name)
    if card is not None:
        return int(CARDS[card][0] * 2**30)
    if given is not None:
        return int(float(given[1]) * (2**30 if given[2] else 10**9))
    if found:
        raise LoraBenchError(f"device {name!r} could be any of {', '.join(found)}: name one")
    raise LoraBenchError(
        f"unknown device {name!r}{did_you_mean(name, CARDS)}: use one of {', '.join(CARDS)}, or a size such as 24GB"
    )


def find_card(name: str) -> str | None:
    """Return the one known card that a name stands for, such as "T4 16GB" for "t4"; None for a size alone."""
    given, found = _SIZE.search(name), _named(name)
    alone = given is not None and name.lower().split() == [given[0].lower()]
    return found[0] if len(found) == 1 and not alone else None


def _named(name: str) -> list[str]:
    words = set(name.lower().split())
    return [card for card in CARDS if words and words <= set(card.lower().split())]


def needed_bytes(step: StepBytes) -> int | None:
    """Return the memory that a process needs on a card for a step, or None if its peak is unknown."""
    return None if step.peak_bytes is None else int(step.peak_bytes * (1 + GAPS)) + CONTEXT_BYTES


def predicted_step(
    base_model: BaseModel,
    method: Method,
    *,
    kind: KindName,
    labels: int,
    batch_size: int,
    length: int,
    precision: Precision,
    base_precision: AnyPrecision = "float32",
    checkpointing: bool = False,
    attention: str | None = None,
    cuda: bool = True,
) -> StepBytes:
    """Return the predicted peak memory of a training step of a method, from shapes alone; cached.

    Of the base model only the configuration is read. Attention is by the kernel path of that name, or the model's own choice;
    *cuda* says that it is one fused kernel where the choice allows it. Raise UnsupportedPair if the method cannot adapt the
    base model.
    """
    fused = cuda and attention != "eager"
    costs = predicted_costs(
        base_model, method, kind, labels, batch_size, length,
        precision=precision, base_precision=base_precision, checkpointing=checkpointing, attention=attention, fused=fused,
    )  # fmt: skip
    return costs.memory


def batch_flops(
    count: Callable[..., int], examples: Sequence[Example], batch_size: int, accumulation: int, *, apart: bool = False
) -> Callable[[Sequence[Example]], int]:
    """Return a function that counts the FLOPs of a batch of examples, by *count* for rows of a padded length.

    *examples* are all of the batches, unpadded. A batch is split into *accumulation* parts, each padded to its own longest
    example. With texts to write *apart* from the inputs, *count* takes the padded length of these too.
    """
    part, count = batch_size // accumulation, functools.cache(count)

    def longest(examples: Sequence[Example]) -> tuple[int, ...]:
        names = ("input_ids", TARGETS) if apart else ("input_ids",)
        return tuple(max(len(row[name]) for row in rows_of(examples)) for name in names)

    full: Callable[..., int] = functools.partial(count, part)
    if not apart:
        full = at_lengths(full, sorted({longest([example])[0] for example in examples})).__getitem__

    def of_part(examples: Sequence[Example]) -> int:
        rows = len(rows_of(examples))
        return full(*longest(examples)) if rows == part else count(rows, *longest(examples))

    return lambda batch: sum(of_part(batch[start : start + part]) for start in range(0, len(batch), part))


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
    inputs. Raise UnsupportedPair if the method cannot adapt the base model, or its computation depends on values.
    """
    try:
        # A fused kernel would hide its matrix products from the counter.
        return predicted_costs(base_model, method, kind, labels, rows, length, text).flops.step
    except RuntimeError as error:
        reason = first_line(error)
        raise UnsupportedPair(f"the FLOPs of a step cannot be counted from shapes: {reason}") from error


class StepCosts(Strict):
    """Memory and FLOPs of a training step."""

    memory: StepBytes
    flops: Flops


_of_process: dict[Path, StepCosts] = {}


def predicted_costs(
    base_model: BaseModel,
    method: Method,
    kind: KindName,
    labels: int,
    rows: int,
    length: int,
    text: int | None = None,
    *,
    precision: Precision = "float32",
    base_precision: AnyPrecision = "float32",
    checkpointing: bool = False,
    attention: str | None = "eager",
    fused: bool = False,
) -> StepCosts:
    """Return memory and FLOPs of a training step from shapes alone; cached. FLOPs of *fused* attention are not counted."""
    asked = {
        "model": base_model.sha256, "method": method.name, "options": method.model_dump(), "kind": kind, "labels": labels,
        "rows": rows, "length": length, "text": text, "precision": precision, "attention": attention, "fused": fused,
        "versions": [__version__, version("transformers"), version("peft"), version("torch")],
        "base_precision": base_precision, "checkpointing": checkpointing,
    }  # fmt: skip
    path = cache_folder("steps") / f"{content_hash(asked)}.json"
    # A third-party method may change under the same versions, so its counts outlive no process.
    is_kept = type(method).__module__.startswith("lora_bench.")
    before = kept_as(path, StepCosts) if is_kept else _of_process.get(path)
    if before is not None:
        return before
    # Imported only here, so that reading a cached prediction loads no torch.
    from lora_bench.models.base_precision import checkpoint_layers, meet
    from lora_bench.models.chunked_loss import chunk_loss
    from lora_bench.training.measure.step_bytes import predict_step

    model, head = load_model(
        base_model, kind=kind, labels=labels, attention=attention, on_meta=True, precision=base_precision
    )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # warnings of one library about another
        adapted = method.apply(model, head=head)
    meet(adapted, head, base_precision)
    if checkpointing:
        checkpoint_layers(adapted)
    if find_kind(kind).writes:
        chunk_loss(adapted, rows * length)
    batch, real = find_kind(kind).batch_shapes(rows, length, labels, text), find_kind(kind).real_labels
    memory, flops = predict_step(adapted, batch, precision, fused_attention=fused, real=real)
    found = _of_process[path] = StepCosts(memory=memory, flops=flops)
    if is_kept:
        keep(path, found.model_dump(mode="json"))
    return found
