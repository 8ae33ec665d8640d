"""Make a small DeBERTa whose attention needs its relative positions, from MiniLM-L6, on a CPU or a GPU.

MiniLM-L6's weights go into the DeBERTa-v2 class without its table of absolute positions: what comes first in a text is known by
the terms between content and relative position alone, which share the projections of queries and keys, as in DeBERTa-v3. The
model then learns to fill masked words of a folder of plain text. Its word vectors stay MiniLM's and are not stored:

    python -m benchmarks.pretrain_deberta_mini CORPUS OUT                hours on two CPU cores
    python -m benchmarks.pretrain_deberta_mini CORPUS OUT --bfloat16     a third of that where the processor has bfloat16
    python -m benchmarks.pretrain_deberta_mini CORPUS OUT --minutes 60   stops there; the same command goes on

CORPUS is a folder of .txt files, at any depth. `deberta-mini`, which comes with lora_bench, is what this made in 43 minutes
from the texts of `gpt2-mini`, with --bfloat16. `benchmarks/other_authors.py` measures the loss of masked words with the terms
of relative position and without them. Their difference says what they carry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from benchmarks.pretrain_gpt2_mini import paragraphs
from lora_bench.models.deberta_mini import CONFIG, WEIGHTS

BLOCK, BATCH = 64, 32
MASKED = 0.15
LEARNING_RATE, LAST_SHARE = 5e-4, 0.05
WARMUP_STEPS, FLAT_SHARE = 200, 0.3
HELD_OUT_TOKENS, HELD_OUT_BATCHES = 200_000, 32
SAVE_STEPS = 500


class MaskedWords(nn.Module):
    """A DeBERTa and the head that tells masked words by MiniLM's word vectors, with products in bfloat16 if asked."""

    def __init__(self, model: DebertaV2Model, bfloat16: bool = False) -> None:
        super().__init__()
        self.bfloat16 = bfloat16
        width, words = model.config.hidden_size, model.config.vocab_size
        self.model = model
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, ids: Tensor, masked: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of the masked words, in nats.

        Args:
            ids: Token ids with masks, shape (rows, tokens).
            masked: True where a word is to be told, of the same shape.
            targets: The words there, shape (masked words,).
        """
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bfloat16):
            hidden = self.transform(self.model(input_ids=ids).last_hidden_state[masked])
            scores = hidden @ self.model.embeddings.word_embeddings.weight.T + self.bias
            return nn.functional.cross_entropy(scores, targets)


def main() -> None:
    """Read the arguments, go on from the last saved step, train, and save weights and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this part")
    parser.add_argument("--bfloat16", action="store_true", help="train with matrix products in bfloat16")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    masked_words = MaskedWords(started(), given.bfloat16).to(device)
    masked_words.model.embeddings.word_embeddings.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    stream = tokenised(given.corpus, given.out / "tokens.npy", tokenizer)
    if len(stream) < 2 * HELD_OUT_TOKENS:
        raise SystemExit(f"{given.corpus} gives {len(stream):,} tokens; at least {2 * HELD_OUT_TOKENS:,} are needed")
    held_out = stream[-HELD_OUT_TOKENS:]
    done = train(masked_words, stream[:-HELD_OUT_TOKENS], held_out, tokenizer, given)
    figures = {
        "steps": done,
        "tokens": done * BATCH * BLOCK,
        "parameters": masked_words.model.num_parameters(),
    }
    print(json.dumps(figures, indent=1))
    if done == given.steps:
        from safetensors.torch import save_file

        kept = {
            name: weight.half().cpu().contiguous()
            for name, weight in masked_words.state_dict().items()
            if "word_embeddings" not in name
        }
        save_file(kept, given.out / WEIGHTS, metadata={"format": "pt"})
        (given.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def minilm() -> Path:
    """The folder of MiniLM-L6 in the DeBERTa-v2 class."""
    from lora_bench.models.registry import find_model

    return find_model("minilm-l6-deberta", base=Path()).folder


def started() -> DebertaV2Model:
    """MiniLM-L6 without absolute positions, whose relative positions are random and faint."""
    from safetensors.torch import load_file

    # Most text is seen once at most, so that dropout would only slow it.
    config = DebertaV2Config(**{**CONFIG, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    model = DebertaV2Model(config)
    weights = load_file(minilm() / "model.safetensors")
    taken = {name: weight for name, weight in weights.items() if name in model.state_dict()}
    lacking = model.load_state_dict(taken, strict=False).missing_keys
    if lacking:
        raise SystemExit(f"MiniLM-L6 lacks {', '.join(lacking)}")
    nn.init.constant_(model.encoder.LayerNorm.weight, 0.1)
    return model


def tokenised(corpus: Path, cache: Path, tokenizer: Any) -> NDArray[np.uint16]:
    """The corpus as one stream of token ids, shape (tokens,): documents in a random order, [SEP] after each."""
    if cache.exists():
        return np.load(cache)
    documents = [paragraphs(path) for path in sorted(corpus.rglob("*.txt")) if path.is_file()]
    if not documents:
        raise SystemExit(f"{corpus} has no .txt files")
    random.Random(0).shuffle(documents)

    def ids() -> Iterator[int]:
        for document in documents:
            for encoded in tokenizer.backend_tokenizer.encode_batch(document, add_special_tokens=False):
                yield from encoded.ids
            yield tokenizer.sep_token_id

    stream = np.fromiter(ids(), dtype=np.uint16)
    np.save(cache, stream)
    return stream


def train(
    masked_words: MaskedWords, stream: NDArray[np.uint16], held_out: NDArray[np.uint16], tokenizer: Any, given: Any
) -> int:
    """Train to the last step or until the time is up, saving as it goes; the number of steps done."""
    trained = [weight for weight in masked_words.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in trained if weight.dim() > 1], "weight_decay": 0.01},
            {"params": [weight for weight in trained if weight.dim() < 2], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    state, step = given.out / "state.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        masked_words.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    began = time.monotonic()
    masked_words.train()
    while step < given.steps and (elapsed := time.monotonic() - began) < given.minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_at(step, given.steps)
        masked_words(*batch(stream, np.random.default_rng([0, step]), tokenizer)).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % SAVE_STEPS == 0 or step == given.steps:
            part = state.with_suffix(".part")
            torch.save({"weights": masked_words.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
            part.replace(state)
            loss = held_out_loss(masked_words, held_out, tokenizer)
            print(f"{elapsed:.0f} s, step {step}, held-out loss {loss:.3f}", flush=True)
    return step


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step."""
    left = (1 - step / steps) / (1 - FLAT_SHARE)
    return min(1, (step + 1) / WARMUP_STEPS) * min(1, LAST_SHARE + (1 - LAST_SHARE) * left)


def batch(stream: NDArray[np.uint16], draw: np.random.Generator, tokenizer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return blocks of the stream with masks, where the masks are, and the words there.

    Of the chosen words 80 % are masked, 10 % are another word, and 10 % stay, as in BERT.
    """
    starts = draw.integers(0, len(stream) - BLOCK + 2, size=BATCH)
    words = np.stack([stream[start : start + BLOCK - 2] for start in starts]).astype(np.int64)
    ends = np.full((BATCH, 1), tokenizer.sep_token_id)
    whole = np.concatenate([np.full((BATCH, 1), tokenizer.cls_token_id), words, ends], axis=1)
    masked = draw.random(whole.shape) < MASKED
    masked[:, [0, -1]] = False
    how = draw.random(whole.shape)
    others = draw.integers(0, tokenizer.vocab_size, size=whole.shape)
    seen = np.where(masked & (how < 0.8), tokenizer.mask_token_id, np.where(masked & (how < 0.9), others, whole))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tuple(torch.from_numpy(one).to(device) for one in (seen, masked, whole[masked]))  # type: ignore[return-value]


@torch.no_grad()
def held_out_loss(
    masked_words: MaskedWords, held_out: NDArray[np.uint16], tokenizer: Any, batches: int = HELD_OUT_BATCHES
) -> float:
    """The mean loss over the same batches of the held-out part each time, in nats a masked word."""
    masked_words.eval()
    losses = [
        masked_words(*batch(held_out, np.random.default_rng([1, index]), tokenizer)).item() for index in range(batches)
    ]
    masked_words.train()
    return sum(losses) / len(losses)


@contextlib.contextmanager
def without_positions() -> Iterator[None]:
    """Leave the terms between content and relative position out of every DeBERTa's attention, while this lasts."""

    def nothing(self: Any, query_layer: Tensor, key_layer: Tensor, *rest: Any) -> Tensor:
        return torch.zeros_like(query_layer @ key_layer.transpose(-1, -2))

    with mock.patch.object(DisentangledSelfAttention, "disentangled_attention_bias", nothing):
        yield


if __name__ == "__main__":
    main()
