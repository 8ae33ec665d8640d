"""What a training step of LoRA gains by each of the ways to make it faster that are known, beside the plain step.

    python benchmarks/levers.py                   some ten minutes on two CPU cores
    python benchmarks/levers.py --compile         with torch.compile too, which takes minutes more
    python benchmarks/levers.py --quick           seconds: shows that it runs, and no time in it means anything
    python benchmarks/levers.py --shape base      the shapes of RoBERTa-base and DeBERTa-v3-base; on a GPU, say
    python benchmarks/levers.py --lengths 8 256   rows of so many tokens, as of chats
    python benchmarks/levers.py --masks           only the share of a step with dropout that drawing its masks takes

The plain step is what a run of `lora_bench` takes by itself: a batch of 16 rows of 24 to 64 tokens, padded to its longest row,
in float32 without TF32, dropout off, fused AdamW. Each lever changes one thing of it. All of them live in one process and
take turns, so that a slow spell of the machine falls on all: the ratio is the median over rounds of the plain step's time and
the lever's in the same round. How far a lever is from the plain path is the largest difference of a loss over the first
steps, which all begin at the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lora_bench.kinds.exercises.generation.encode import CompletionCollator, packing
from lora_bench.models.deberta_positions import cut_to_reach
from lora_bench.training.keyed_dropout import KeyedMasks, StepMasks, key_of, scaled_mask, with_keyed_masks

ROWS, SHORTEST, LONGEST, PADDED = 16, 24, 64, 128
TOKENS_OF_MASKS, DROPOUT = 30, 0.1
COMPARED_STEPS = 4

SIZES = {
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "vocab_size": 30522,
    },
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 50265,
    },
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 1000,
    },
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def roberta(size: str, dropout: float = 0.0) -> nn.Module:
    """A RoBERTa classifier with LoRA on query and value, and this dropout in its base model."""
    torch.manual_seed(0)
    config = RobertaConfig(
        **SIZES[size], max_position_embeddings=514, pad_token_id=1,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, classifier_dropout=0.0,
    )  # fmt: skip
    return with_lora(RobertaForSequenceClassification(config), ["query", "value"])


def deberta(size: str) -> nn.Module:
    """A DeBERTa-v3 classifier with LoRA on query and value."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        **SIZES[size], max_position_embeddings=512, pad_token_id=0, relative_attention=True, position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        type_vocab_size=0, cls_dropout=0.0, pooler_dropout=0.0, **NO_DROPOUT,
    )  # fmt: skip
    return with_lora(DebertaV2ForSequenceClassification(config), ["query_proj", "value_proj"])


def gpt2(size: str) -> nn.Module:
    """A GPT-2 that writes, with LoRA on query, key and value."""
    torch.manual_seed(0)
    sizes = SIZES[size]
    config = GPT2Config(
        vocab_size=sizes["vocab_size"], n_embd=sizes["hidden_size"], n_layer=sizes["num_hidden_layers"],
        n_head=sizes["num_attention_heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return with_lora(GPT2LMHeadModel(config), ["c_attn"])


def with_lora(model: nn.Module, targets: list[str]) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="SEQ_CLS"))


def batches(count: int, device: torch.device, least: int, most: int) -> list[dict[str, Tensor]]:
    """Batches of rows of unequal length, padded to the longest of each."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        lengths = torch.randint(least, most + 1, (ROWS,), generator=draw)
        ids = torch.randint(5, 1000, (ROWS, int(lengths.max())), generator=draw)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        labels = torch.randint(0, 2, (ROWS,), generator=draw)
        found.append({"input_ids": ids * mask + (1 - mask), "attention_mask": mask, "labels": labels})
    return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in found]


def padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch, padded to a fixed length, as the example scripts of transformers do."""
    more = PADDED - batch["input_ids"].shape[1]
    return {
        **batch,
        "input_ids": nn.functional.pad(batch["input_ids"], (0, more), value=1),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, more)),
    }


def unpadded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """All rows of the batch behind one another in one, each of which sees itself alone; for RoBERTa's positions."""
    mask = batch["attention_mask"].bool()
    row, place = torch.nonzero(mask, as_tuple=True)
    return {
        "input_ids": batch["input_ids"][mask][None],
        "position_ids": (place + 2)[None],
        "attention_mask": (row[:, None] == row[None, :])[None, None],
        "first": torch.nonzero(place == 0).squeeze(1),
        "labels": batch["labels"],
    }


class Unpadded(nn.Module):
    """A RoBERTa classifier of rows that lie behind one another: the head looks at the first token of each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: Tensor, labels: Tensor, **inputs: Tensor) -> Any:
        """Shape of the logits: (rows, labels)."""
        whole = self.model.get_base_model()
        hidden = whole.roberta(**inputs).last_hidden_state[0, first]
        logits = whole.classifier(hidden[:, None])

        class Output:
            loss = nn.functional.cross_entropy(logits, labels)

        return Output


def written(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch, whose rows are texts to write."""
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def packed(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The texts of the batch in fewer rows, by `sample_packing`."""
    texts = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    collate = packing(CompletionCollator(SimpleNamespace(pad_token_id=1, pad_token_type_id=0)))
    made = collate([{"input_ids": text, "labels": text} for text in texts])
    return {name: one.to(batch["labels"].device) if isinstance(one, Tensor) else one for name, one in made.items()}


def frozen_in_bfloat16(model: nn.Module) -> nn.Module:
    """The frozen weights once in bfloat16, in place of a cast of each at every step."""
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.bfloat16()
    return model


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, dynamic=True)


def cut(model: nn.Module) -> nn.Module:
    cut_to_reach(model)
    return model


@dataclass(frozen=True)
class Lever:
    """One way to take a step.

    Args:
        model: Changes the model.
        batch: Changes a batch.
        precision: Of autocast; none where it is float32.
        optimiser: Options of AdamW.
    """

    model: Callable[[nn.Module], nn.Module] = lambda model: model
    batch: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda batch: batch
    precision: torch.dtype = torch.float32
    optimiser: dict[str, bool] | None = None


ANY = {
    "plain": Lever(),
    "padded to 128 tokens": Lever(batch=padded),
    "AdamW by a loop over weights": Lever(optimiser={"foreach": False, "fused": False}),
    "AdamW by lists of weights": Lever(optimiser={"foreach": True}),
    "bfloat16 by autocast": Lever(precision=torch.bfloat16),
    "bfloat16, frozen weights cast once": Lever(model=frozen_in_bfloat16, precision=torch.bfloat16),
    "torch.compile": Lever(model=compiled),
}
LEVERS: dict[str, tuple[Callable[[str], nn.Module], dict[str, Lever]]] = {
    "RoBERTa": (roberta, {**ANY, "no padding: rows behind one another": Lever(model=Unpadded, batch=unpadded)}),
    "DeBERTa": (deberta, {**ANY, "relative positions cut to reach": Lever(model=cut)}),
    "GPT-2": (gpt2, {"plain": Lever(batch=written), "sample packing": Lever(batch=packed)}),
}


class Stepper:
    """Takes steps in one way."""

    def __init__(self, model: nn.Module, lever: Lever, device: torch.device) -> None:
        self.lever = lever
        self.device = device
        self.model = lever.model(copy.deepcopy(model)).train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-3, **(lever.optimiser or {"fused": True}))

    def step(self, batch: dict[str, Tensor]) -> tuple[float, float]:
        """The loss, and seconds."""
        given = self.lever.batch(batch)
        self._wait()
        began = time.perf_counter()
        with torch.autocast(self.device.type, self.lever.precision, enabled=self.lever.precision != torch.float32):
            loss = self.model(**given).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._wait()
        return float(loss.detach()), time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measured(
    family: str, size: str, rounds: int, device: torch.device, lengths: tuple[int, int], *, compile: bool
) -> list[str]:
    """A line of the table for each lever."""
    make, levers = LEVERS[family]
    levers = {name: lever for name, lever in levers.items() if compile or lever.model is not compiled}
    model = make(size).to(device)
    steppers: dict[str, Stepper] = {}
    first: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    refused: dict[str, str] = {}
    of_comparison = batches(COMPARED_STEPS, device, *lengths)
    for name, lever in levers.items():
        began = time.perf_counter()
        try:
            steppers[name] = Stepper(model, lever, device)
            losses[name] = [steppers[name].step(batch)[0] for batch in of_comparison]
        except Exception as error:  # a lever that this machine cannot pull is a row too
            steppers.pop(name, None)
            refused[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        first[name] = time.perf_counter() - began
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for number, batch in enumerate(batches(rounds, device, *lengths)):
        for name in list(steppers)[:: 1 if number % 2 else -1]:
            seconds[name].append(steppers[name].step(batch)[1])
    lines = []
    for name in levers:
        if name in refused:
            lines.append(f"| {family} | {name} | - | - | - | {refused[name]} |")
            continue
        ratios = [plain / own for plain, own in zip(seconds["plain"], seconds[name], strict=True)]
        apart = max(abs(a - b) for a, b in zip(losses["plain"], losses[name], strict=True))
        lines.append(
            f"| {family} | {name} | {1000 * statistics.median(seconds[name]):.1f} | {statistics.median(ratios):.2f} "
            f"| {apart:.1e} | {first[name]:.1f} |"
        )
    return lines


class Noted(KeyedMasks):
    """Keyed masks whose shapes are noted."""

    def __init__(self, key: Tensor) -> None:
        super().__init__(key)
        self.shapes: list[torch.Size] = []

    def drop(self, x: Tensor, probability: float) -> Tensor:
        """As without notes."""
        self.shapes.append(x.shape)
        return super().drop(x, probability)


def keyed(model: nn.Module) -> nn.Module:
    with_keyed_masks(model, StepMasks(0))
    return model


def mask_lines(size: str, rounds: int, device: torch.device) -> Iterator[str]:
    """Time drawing the masks of a RoBERTa step alone, as a share of the step; a line for each source of masks."""
    model = roberta(size, DROPOUT).to(device).train()
    ids = torch.randint(5, 1000, (ROWS, TOKENS_OF_MASKS), device=device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    key = torch.tensor(key_of(0, 0), dtype=torch.int32, device=device)
    with Noted(key) as noted:
        model(**batch)
    sources: dict[str, tuple[Lever, Callable[[int, torch.Size], Tensor]]] = {
        "keyed": (
            Lever(model=keyed),
            lambda site, shape: scaled_mask(key, site, shape, DROPOUT, dtype=torch.float32),
        ),
        "torch": (
            Lever(),
            lambda site, shape: torch.empty(shape, device=device).bernoulli_(1 - DROPOUT).div_(1 - DROPOUT),
        ),
    }
    for name, (lever, draw) in sources.items():
        stepper = Stepper(model, lever, device)
        shares = []
        for _ in range(1 + rounds):
            _, seconds = stepper.step(batch)
            began = time.perf_counter()
            for site, shape in enumerate(noted.shapes):
                draw(site, shape)
            stepper._wait()
            shares.append((time.perf_counter() - began) / seconds)
        share = statistics.median(shares[1:])
        yield f"| {name} | {len(noted.shapes)} | {share:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=LEVERS, default=[*LEVERS])
    parser.add_argument("--lengths", nargs=2, type=int, default=(SHORTEST, LONGEST), metavar=("LEAST", "MOST"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.shape, given.rounds = "tiny", 2
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {given.threads} thread(s)"
    if given.masks:
        rows = f"{ROWS} rows of {TOKENS_OF_MASKS} tokens"
        print(f"{where}; RoBERTa, shape {given.shape}, {rows}, {given.rounds} rounds\n")
        print("| masks | a step | share of its time |", "| :-- | --: | --: |", sep="\n")
        print(*mask_lines(given.shape, given.rounds, device), sep="\n")
        return
    print(
        f"{where}; shape {given.shape}, {ROWS} rows of {given.lengths[0]} to {given.lengths[1]} tokens, {given.rounds} rounds\n"
    )
    print("| model | step | ms | times as fast as plain | loss apart by | first steps, s |")
    print("| :-- | :-- | --: | --: | --: | --: |")
    with quietly():
        for family in given.models:
            lines = measured(family, given.shape, given.rounds, device, tuple(given.lengths), compile=given.compile)
            print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
