"""Pretrain a small GPT-2 on a folder of plain text, on a CPU or a GPU, within a given number of minutes.

The tokenizer is a byte-level BPE of the corpus itself. Blocks are drawn at random from one stream of tokens; AdamW has a
short warm-up and a linear decay that follows the clock, so that the run ends well wherever it is stopped. `gpt2-mini`, which
comes with lora_bench, is what this made in 98 minutes on two CPU cores from 94 public-domain novels, American presidential
speeches, film reviews (Pang and Lee 2004) and the validation and test parts of WikiText-2:

    python benchmarks/pretrain_gpt2_mini.py CORPUS gpt2-mini

CORPUS is a folder of .txt files, at any depth.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

END_OF_TEXT = "<|endoftext|>"
POSITIONS = 512
HELD_OUT_TOKENS = 200_000
# Blocks of the held-out part over which its loss is averaged.
HELD_OUT_BATCHES = 8
REPORT_STEPS = 200
# The share of the time at the full learning rate, and what is left of it at the end.
FULL_RATE_SHARE, LAST_RATE = 0.3, 0.05


@dataclass(frozen=True)
class Recipe:
    """How to pretrain.

    Args:
        vocabulary: Tokens of the BPE.
        layers: Transformer layers.
        width: Width of hidden states.
        heads: Attention heads.
        block: Tokens of a training example.
        batch: Examples of a step.
        learning_rate: Highest, after the warm-up.
        warmup_steps: Steps to get there.
        minutes: Wall time of training.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    block: int
    batch: int
    learning_rate: float
    warmup_steps: int
    minutes: float


def main() -> None:
    """Read the arguments, make the tokenizer, train, and save model, tokenizer and figures."""
    corpus, out, recipe = arguments()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = tokenised(corpus, out, recipe.vocabulary)
    if len(stream) < 2 * HELD_OUT_TOKENS:
        raise SystemExit(f"{corpus} gives {len(stream):,} tokens; at least {2 * HELD_OUT_TOKENS:,} are needed")
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=recipe.vocabulary,
            n_positions=POSITIONS,
            n_embd=recipe.width,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            bos_token_id=0,
            eos_token_id=0,
            # One pass or less over the corpus: nothing to regularise.
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ).to(device)
    steps = train(model, stream[:-HELD_OUT_TOKENS], stream[-HELD_OUT_TOKENS:], recipe)
    figures = {
        "steps": steps,
        "tokens": steps * recipe.batch * recipe.block,
        "parameters": model.num_parameters(),
    }
    model.half().save_pretrained(out)
    (out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def arguments() -> tuple[Path, Path, Recipe]:
    """The corpus, the folder to write, and the recipe; the defaults are gpt2-mini's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    whole = {"vocabulary": 8192, "layers": 4, "width": 256, "heads": 4, "block": 128, "batch": 48, "warmup-steps": 200}
    for name, default in whole.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=2.5e-3)
    parser.add_argument("--minutes", type=float, default=98)
    given = vars(parser.parse_args())
    return given.pop("corpus"), given.pop("out"), Recipe(**given)


def paragraphs(path: Path) -> list[str]:
    """The paragraphs of a file, hard-wrapped lines joined."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    return [re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def tokenised(corpus: Path, out: Path, vocabulary: int) -> NDArray[np.uint16]:
    """Make and save the tokenizer, and return the corpus as one stream of token ids, shape (tokens,).

    Documents come in a random order, a newline after each paragraph and the end-of-text token after each document.
    """
    documents = [paragraphs(path) for path in sorted(corpus.rglob("*.txt")) if path.is_file()]
    if not documents:
        raise SystemExit(f"{corpus} has no .txt files")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        (paragraph for document in documents for paragraph in document),
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
    )
    out.mkdir(parents=True, exist_ok=True)
    bpe.save_model(str(out))
    tokenizer = GPT2TokenizerFast.from_pretrained(out)
    tokenizer.model_max_length = POSITIONS
    tokenizer.save_pretrained(out)

    random.Random(0).shuffle(documents)
    newline = bpe.encode("\n").ids[0]

    def ids() -> Iterator[int]:
        for document in documents:
            for encoded in bpe.encode_batch(document):
                yield from encoded.ids
                yield newline
            yield 0

    return np.fromiter(ids(), dtype=np.uint16)


def train(model: GPT2LMHeadModel, stream: NDArray[np.uint16], held_out: NDArray[np.uint16], recipe: Recipe) -> int:
    """Train until the time is up; return the number of steps."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    draw, began, step, total = np.random.default_rng(0), time.monotonic(), 0, recipe.minutes * 60
    while (elapsed := time.monotonic() - began) < total:
        rate = rate_at(step, elapsed / total, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss_on(model, stream, draw, recipe).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % REPORT_STEPS == 0:
            seen = step * recipe.batch * recipe.block / 1e6
            loss = held_out_loss(model, held_out, recipe)
            print(f"{elapsed:.0f} s, step {step}, {seen:.1f} M tokens, held-out loss {loss:.3f}", flush=True)
    return step


def rate_at(step: int, share: float, recipe: Recipe) -> float:
    """The learning rate at a step, when a share of the time has passed."""
    decay = 1.0
    if share > FULL_RATE_SHARE:
        decay = LAST_RATE + (1 - LAST_RATE) * (1 - share) / (1 - FULL_RATE_SHARE)
    return recipe.learning_rate * min(1, (step + 1) / recipe.warmup_steps) * decay


def loss_on(
    model: GPT2LMHeadModel, stream: NDArray[np.uint16], draw: np.random.Generator, recipe: Recipe
) -> torch.Tensor:
    """The mean loss of one batch of blocks drawn at random."""
    starts = draw.integers(0, len(stream) - recipe.block - 1, size=recipe.batch)
    blocks = np.stack([stream[start : start + recipe.block + 1] for start in starts]).astype(np.int64)
    ids = torch.from_numpy(blocks).to(model.device)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        logits = model(ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, held_out: NDArray[np.uint16], recipe: Recipe) -> float:
    """The mean loss over the same few batches of the held-out part each time."""
    draw = np.random.default_rng(1)
    return sum(loss_on(model, held_out, draw, recipe).item() for _ in range(HELD_OUT_BATCHES)) / HELD_OUT_BATCHES


if __name__ == "__main__":
    main()
