"""The page *Which method fits my card*: what `lora-bench fits` computes, beside what others measured."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_bench.methods import known_methods
from lora_bench.models.registry import BaseModel, find_model
from lora_bench.models.shapes import PREFIX
from lora_bench.plan.what_fits import Base, largest_batch, named_method, step_seconds, step_traces
from lora_bench.training.measure.step_costs import card_bytes

LENGTH = 512
MODELS = (
    "Qwen2.5-0.5B",
    "Llama-3.2-1B",
    "gemma-2-2b",
    "Llama-3.2-3B",
    "Qwen3-4B",
    "Mistral-7B-v0.1",
    "Llama-3.1-8B",
    "phi-4",
)
SHOWN_CARDS = ("T4 16GB", "RTX 4090 24GB", "A100 40GB", "L40S 48GB", "H100 80GB", "H200 141GB")
ROWS: dict[str, tuple[str, Base]] = {
    "full": ("full", "bfloat16"),
    "adapters": ("bottleneck_adapter", "bfloat16"),
    "prefixes": ("prefix_tuning", "bfloat16"),
    "LoRA": ("lora_all", "bfloat16"),
    "QLoRA": ("lora_all", "4 bits"),
}


@dataclass(frozen=True)
class Published:
    """A peak that others measured, in bytes, and the seconds of a step of so many tokens, if they say."""

    what: str
    model: str
    method: str
    base: Base
    rows: int
    length: int
    peak: int
    options: dict[str, Any] = field(default_factory=dict)
    checkpointing: bool = False
    seconds: float | None = None
    mean_length: int = 210
    in_chunks: bool = False


# Gigabytes of models in use, by the QLoRA paper's Table 6; width, layers, heads and inner width of the LLaMA that each is.
QLORA = "https://arxiv.org/abs/2305.14314"
GUANACO = {
    "Guanaco 13B": (10, 5120, 40, 40, 13824),
    "Guanaco 33B": (21, 6656, 60, 52, 17920),
    "Guanaco 65B": (41, 8192, 80, 64, 22016),
}
GIB = 2**30
PEFT = "https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA"
TUNE = "https://github.com/pytorch/torchtune/blob/0031bfb080bd35ec533c412df883cf2bf7bf7fe4/README.md"


def _peft(what: str, method: str, peak: int, seconds: float, **options: Any) -> Published:
    return Published(what, "Llama-3.2-3B", method, "bfloat16", 4, 768, peak, options, seconds=seconds)


def _tune(what: str, base: Base, gibibytes: float, *, checkpointing: bool) -> Published:
    """A run of torchtune, whose configurations adapt query and value at rank 8 and checkpoint every layer on 24 GB."""
    return Published(
        what, "Llama-3.1-8B", "lora", base, 2, 2048, int(gibibytes * GIB), checkpointing=checkpointing, in_chunks=True
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    PEFT: (
        _peft("LoRA, rank 32, query and value", "lora", 22292725760, 0.1170, rank=32),
        _peft("LoRA, rank 64, query and value", "lora", 22552772608, 0.1188, rank=64),
        _peft("LoRA, rank 10, feed-forward", "lora", 24698159104, 0.1331, rank=10, targets=("ffn",)),
        _peft("DoRA, rank 32, query and value", "lora", 24532484096, 0.1414, rank=32, use_dora=True),
        _peft("prefix of 200 tokens", "prefix_tuning", 21952987136, 0.1122, num_virtual_tokens=200),
        _peft("full", "full", 38868615168, 0.3626),
    ),
    TUNE: (
        _tune("LoRA", "bfloat16", 30.3, checkpointing=False),
        _tune("LoRA, checkpointed", "bfloat16", 16.2, checkpointing=True),
        _tune("QLoRA, checkpointed", "4 bits", 7.4, checkpointing=True),
    ),
}


def fits_page() -> str:
    """Return the page."""
    return "\n".join(
        [HEADER, *_batches(), CHECKS, *_published(PEFT), BETWEEN, *_published(TUNE), IN_USE, *_in_use(), FOOTER]
    )


def _model(name: str) -> BaseModel:
    return find_model(f"{PREFIX}{name}", base=Path())


def _batches() -> list[str]:
    lines = [f"| model | method | {' | '.join(SHOWN_CARDS)} |", f"| --- | --- |{' ---: |' * len(SHOWN_CARDS)}"]
    for name in MODELS:
        for shown, (label, base) in ROWS.items():
            pair = [
                step_traces(_model(name), named_method(label), base, LENGTH, checkpointing=each)
                for each in (False, True)
            ]
            cells = []
            for card in SHOWN_CARDS:
                plain, again = (largest_batch(traces, card_bytes(card)) for traces in pair)
                cells.append(f"{plain or '–'} / {again or '–'}" if plain or again else "–")
            lines.append(f"| {name} | {shown} | {' | '.join(cells)} |")
    return lines


def _published(source: str) -> list[str]:
    lines = [
        "| run | measured GiB | computed GiB | factor | measured s | computed s | factor |",
        f"| --- |{' ---: |' * 6}",
    ]
    for one in PUBLISHED[source]:
        model, method = _model(one.model), known_methods()[one.method](**one.options)
        traces = step_traces(model, method, one.base, one.length, checkpointing=one.checkpointing)
        step = (traces if one.in_chunks else traces.whole).at(one.rows)
        timed = ["–"] * 3
        if one.seconds is not None:
            mean = step_traces(model, method, one.base, one.mean_length, checkpointing=one.checkpointing).at(one.rows)
            seconds = step_seconds(mean, "L40S 48GB")
            timed = [f"{one.seconds:.3f}", f"{seconds:.3f}", f"{seconds / one.seconds:.2f}"]
        memory = [f"{one.peak / GIB:.1f}", f"{step.peak / GIB:.1f}", f"{step.peak / one.peak:.2f}"]
        lines.append(f"| {one.what} | {' | '.join([*memory, *timed])} |")
    return lines


def _in_use() -> list[str]:
    lines = ["| model | published GB | computed weights GB | factor |", "| --- | ---: | ---: | ---: |"]
    method = known_methods()["lora"](rank=64, targets=("all",))
    for name, (published, width, layers, heads, between) in GUANACO.items():
        config = {
            "model_type": "llama", "vocab_size": 32_000, "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": between, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            model = find_model(f"{PREFIX}{folder}", base=Path())
            computed = step_traces(model, method, "4 bits", LENGTH, checkpointing=True).at(1).weights / 1e9
        lines.append(f"| {name} | {published} | {computed:.1f} | {computed / published:.2f} |")
    return lines


HEADER = f"""# Which method fits my card

Made by `docs/generate.py fits`. **We measured nothing on this page on a card**: batches are computed from shapes, and the
measurements beside them are other people's.

    lora-bench fits Llama-3.2-3B --device T4

Largest batch of rows of {LENGTH} tokens, without / with checkpointed layers; – if not one row fits. Weights and products are
in bfloat16 (on a T4 in float16, of the same size), QLoRA's weights in four bits; AdamW; LoRA of rank 16 in all linear layers;
adapters of width 16 and prefixes of 16 tokens; 5 % and 0.7 GiB are left for the allocator and the CUDA context. From 2^28
logits on they are counted in chunks, as runs compute them.
"""

CHECKS = f"""
## How far off

**Torch's own count, on a CPU**: the peak of a step of twelve shrunken models (GPT-2, Llama, Mistral, Qwen 2 and 3, Gemma 2 and
3, Phi-3, GPT-NeoX, OPT, RoBERTa, BERT), whole and by LoRA with checkpointed layers, is within 5 % of the one computed
(`tests/training/test_layer_traces.py`).

**Time on a CPU core**: in [`base-precision`](../reports/base-precision.md) `plan` said 43 s for a run of LoRA, 56 s for one of
`full`; they took 41 and 49 in the median, evaluation included.

**PEFT's results on an L40S** ([source]({PEFT})): Llama-3.2-3B in bfloat16, 4 rows of at most 768 tokens. Measured is what the
allocator reserved, gaps included; computed is what tensors need at 768 tokens. Seconds are means over 5,000 steps, computed for
210 tokens a row, the mean without padding.
"""

BETWEEN = f"""
**torchtune's README** ([source]({TUNE})): Llama-3.1-8B, 2 rows of 2,048 tokens, compiled, which fuses
operations; the computation does not. Both take logits in chunks. It does not say its LoRA: computed is rank 8 on query and
value. Its full fine-tuning keeps an optimiser in 8 bits, which `fits` does not count.
"""

IN_USE = f"""
**QLoRA's Table 6** ([source]({QLORA})): memory of Guanaco, LLaMA in four bits under LoRA of rank 64 in all linear layers, while
it answers. Computed are its weights alone, those of LoRA in float32, without keys, values and what a product needs.
"""

FOOTER = """
Times on other cards follow from their data sheets alone. `tox -e gpu` compares predicted with measured memory on your own card.
"""
