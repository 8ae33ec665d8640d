"""Predict if a training step fits a card, before any weight is loaded.

The step is done on fake tensors, which have shapes and no numbers, so its peak memory is counted and not estimated (see
`lora_bench.training.measure.step_bytes`). A process also needs room for the CUDA context and for the allocator's gaps.
"""

from __future__ import annotations

import re
from importlib.metadata import version

from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.kinds import KindName, find_kind
from lora_bench.methods import Method
from lora_bench.models.loading import load_model
from lora_bench.models.registry import BaseModel
from lora_bench.records.probe_record import StepBytes
from lora_bench.records.spec import Precision
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import cache_folder
from lora_bench.util.sealed_json import keep, kept_as
from lora_bench.version import __version__

# Memory of well-known cards in GiB, as torch tells it (`total_memory`): less than in their names, because of the driver and of
# error correction. Where drivers differ, the least that users' logs show.
CARDS = {
    "T4 16GB": 14.56,
    "V100 16GB": 15.77,
    "V100 32GB": 31.73,
    "RTX 3090 24GB": 23.56,
    "RTX 4090 24GB": 23.51,
    "RTX 5090 32GB": 31.33,
    "RTX 8000 48GB": 44.47,
    "L4 24GB": 21.95,
    "A10 24GB": 22.03,
    "L40S 48GB": 44.39,
    "A100 40GB": 39.38,
    "A100 80GB": 79.14,
    "H100 80GB": 79.09,
    "H200 141GB": 139.71,
    "B200 180GB": 178.34,
}

# Context of a process with its kernels loaded, and share of the allocator's memory lost in gaps.
CONTEXT_BYTES = 700 * 2**20
GAPS = 0.05


def card_bytes(name: str) -> int:
    """Return the memory of a card: a known one such as "T4" or "A100 80GB", or any with its size, such as "24GB" (24e9 bytes).

    A size may also be in GiB, as in "my card 22.5 GiB".

    Raises:
        LoraBenchError: If the name is unknown, or stands for cards of different sizes, and gives no size.
    """
    words = set(name.lower().split())
    found = {card: size for card, size in CARDS.items() if words and words <= set(card.lower().split())}
    given = re.search(r"(\d+(?:\.\d+)?)\s*G(i?)B\b", name, re.IGNORECASE)
    # A size alone is what it says; with other words it names a known card.
    if len(found) == 1 and (given is None or given[0].lower() not in words or len(words) > 1):
        return int(next(iter(found.values())) * 2**30)
    if given is not None:
        return int(float(given[1]) * (2**30 if given[2] else 10**9))
    if found:
        raise LoraBenchError(f"device {name!r} could be any of {', '.join(found)}: name one")
    raise LoraBenchError(
        f"unknown device {name!r}{did_you_mean(name, CARDS)}: use one of {', '.join(CARDS)}, or a size such as 24GB"
    )


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
    attention: str | None = None,
    cuda: bool = True,
) -> StepBytes:
    """Return the predicted peak memory of a training step of a method, from shapes alone; cached.

    Of the base model only the configuration is read. Attention is by the kernel path of that name, or the model's own choice;
    *cuda* says that it is one fused kernel where the choice allows it.

    Raises:
        UnsupportedPair: If the method cannot adapt the base model.
    """
    asked = {
        "model": base_model.sha256, "method": method.name, "options": method.model_dump(), "kind": kind, "labels": labels,
        "batch_size": batch_size, "length": length, "precision": precision, "attention": attention, "cuda": cuda,
        "versions": [__version__, version("transformers"), version("peft"), version("torch")],
    }  # fmt: skip
    path = cache_folder("steps") / f"{content_hash(asked)}.json"
    before = kept_as(path, StepBytes)
    if before is not None:
        return before
    # Imported only here, so that reading a cached prediction loads no torch.
    from lora_bench.training.measure.step_bytes import predict_step

    model, head = load_model(base_model, kind=kind, labels=labels, attention=attention, on_meta=True)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    batch = find_kind(kind).batch_shapes(batch_size, length, labels)
    found, _ = predict_step(
        method.apply(model, head=head),
        batch,
        precision,
        fused_attention=cuda and attention != "eager",
        real=find_kind(kind).real_labels,
    )
    keep(path, found.model_dump(mode="json"))
    return found
