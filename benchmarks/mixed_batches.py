"""What a batch with an adapter for each row costs, beside swapping adapters, PEFT's own mixed batch, and no adapter at all.

    python -m benchmarks.mixed_batches                        both models, some ten minutes of one core
    python -m benchmarks.mixed_batches --model gpt2-mini      one model
    python -m benchmarks.mixed_batches --answers 100000       instead: how many answers of mixed batches are another's
    python -m benchmarks.mixed_batches --stored 512           instead: the memory of so many adapters that are loaded
    python -m benchmarks.mixed_batches --quick                seconds: shows that it runs, and no time in it means anything

A batch has 64 rows of random tokens, half as long as the longest or longer. The adapters are LoRA of rank 8 with random weights
on queries and values (GPT-2: `c_attn`), without heads of their own, since PEFT's mixed batch refuses RoBERTa's. Ways of
answering it take turns in one process, with one thread; seconds are those of the process and not of the clock, so other work on
the machine counts little. A speed is the median over rounds. A mixed batch pads its rows; rows that are answered one by one are
not padded, and those of one adapter together are padded among themselves. Each difference is the greatest of a logit from that
of the lone adapter on the row alone.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.tuners import mix_adapters

MODELS = {"minilm-l6-roberta": ["query", "value"], "gpt2-mini": ["c_attn"]}
ROWS, RANK = 64, 8
ADAPTERS, LENGTHS, ROUNDS = (1, 4, 16, 64), (1, 4, 8, 16, 32, 128), 5

Batch = dict[str, Tensor]


def fleet(name: str, adapters: int, ranks: tuple[int, ...] = (RANK,), *, heads: bool = False) -> PeftModel:
    """Return a base model with adapters "0", "1" … of these ranks in turn, with random weights."""
    torch.manual_seed(0)
    base, _ = load_model(find_model(name, base=Path()), kind="classification", labels=2)
    base.config.pad_token_id = 1
    configs = [
        LoraConfig(
            r=rank,
            target_modules=MODELS[name],
            fan_in_fan_out=name == "gpt2-mini",
            task_type="SEQ_CLS" if heads else None,
        )
        for rank in ranks
    ]
    model = get_peft_model(base, configs[0], adapter_name="0")
    for number in range(1, adapters):
        model.add_adapter(str(number), copy.copy(configs[number % len(configs)]))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "lora_B" in path or "modules_to_save" in path:
                weight.normal_(std=0.05)
    return model.eval()


def rows_of(vocabulary: int, length: int, rows: int = ROWS, seed: int = 0) -> list[Tensor]:
    """Return rows of random tokens, of half the length to the length."""
    drawn = torch.Generator().manual_seed(seed)
    lengths = torch.randint((length + 1) // 2, length + 1, (rows,), generator=drawn).tolist()
    return [torch.randint(5, vocabulary, (own,), generator=drawn) for own in lengths]


def padded(rows: list[Tensor]) -> Batch:
    """Return rows as a batch."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}


def ways(name: str, model: PeftModel, plain: Any, merged: Any, rows: list[Tensor], adapters: int) -> dict[str, Any]:
    """Return the functions that answer rows, by the name of the way."""
    names = [str(row % adapters) for row in range(len(rows))]
    batch, each = padded(rows), [padded([row]) for row in rows]
    parts = {one: padded([row for row, own in zip(rows, names, strict=True) if own == one]) for one in set(names)}
    own_context = type(model.base_model)._enable_peft_forward_hooks

    def one_by_one() -> Tensor:
        found = []
        for own, row in zip(names, each, strict=True):
            model.set_adapter(own)
            found.append(model(**row).logits)
        return torch.cat(found)

    def by_adapter() -> Tensor:
        found: Any = [None] * len(rows)
        for own, part in parts.items():
            model.set_adapter(own)
            places = [place for place, given in enumerate(names) if given == own]
            for place, logits in zip(places, model(**part).logits, strict=True):
                found[place] = logits
        return torch.stack(found)

    def of_peft() -> Tensor:
        model.base_model._enable_peft_forward_hooks = own_context.__get__(model.base_model)
        found: Tensor = model(**batch, adapter_names=names).logits
        return found

    def ours() -> Tensor:
        found: Tensor = mix_adapters(model)(**batch, adapter_names=names).logits
        return found

    return {
        "mixed": ours,
        "PEFT's mixed": of_peft,
        "by adapter": by_adapter,
        "one by one": one_by_one,
        "base": lambda: plain(**batch).logits,
        "merged": lambda: merged(**batch).logits,
    }


def measure(name: str, lengths: tuple[int, ...], counts: tuple[int, ...], rounds: int) -> None:
    """Print the rows a second of each way, by length and number of adapters."""
    model = fleet(name, max(counts))
    plain, _ = load_model(find_model(name, base=Path()), kind="classification", labels=2)
    plain.config.pad_token_id = 1
    merged: Any = copy.deepcopy(get_peft_model(copy.deepcopy(plain), model.peft_config["0"])).merge_and_unload()
    print(f"\n## {name}, {ROWS} rows a batch\n")
    for number, length in enumerate(lengths):
        for adapters in counts:
            calls = ways(name, model, plain.eval(), merged.eval(), rows_of(plain.config.vocab_size, length), adapters)
            seconds = in_turn(calls, rounds)
            if not number and adapters == counts[0]:
                print(f"| tokens | adapters | {' | '.join(calls)} | to one by one | to PEFT's | difference, PEFT's |")
                print(f"|{' --: |' * (len(calls) + 5)}")
            alone = calls["one by one"]()
            gaps = [float((calls[way]() - alone).abs().max()) for way in ("mixed", "PEFT's mixed")]
            speeds = " | ".join(f"{ROWS / one:,.0f}" for one in seconds.values())
            gains = [seconds[way] / seconds["mixed"] for way in ("one by one", "PEFT's mixed")]
            print(
                f"| {length} | {adapters} | {speeds} | × {gains[0]:.1f} | × {gains[1]:.2f} | {gaps[0]:.1g}, {gaps[1]:.1g} |",
                flush=True,
            )


def in_turn(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each call, the calls in turn after a round that is not counted."""
    taken: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(rounds + 1):
        for way, call in calls.items():
            began = time.process_time()
            call()
            taken[way].append(time.process_time() - began)
    return {way: statistics.median(seconds[1:]) for way, seconds in taken.items()}


def answers(name: str, wanted: int, adapters: int = 64) -> None:
    """Print how many answers of mixed batches differ from the lone adapter's, with unequal ranks and a head each."""
    model = mix_adapters(fleet(name, adapters, (4, 8, 16), heads=True))
    vocabulary, wrong, greatest = model.config.vocab_size, 0, 0.0
    batches = -(-wanted // ROWS)
    rows = [rows_of(vocabulary, 8, seed=seed) for seed in range(batches)]
    drawn = torch.randint(adapters, (batches, ROWS), generator=torch.Generator().manual_seed(1))
    mixed = torch.stack(
        [
            model(**padded(own), adapter_names=[*map(str, who.tolist())]).logits
            for own, who in zip(rows, drawn, strict=True)
        ]
    )
    for adapter in range(adapters):
        model.set_adapter(str(adapter))
        places = (drawn == adapter).nonzero().tolist()
        for start in range(0, len(places), ROWS):
            part = places[start : start + ROWS]
            alone = model(**padded([rows[batch][row] for batch, row in part])).logits
            got = torch.stack([mixed[batch, row] for batch, row in part])
            wrong += int((got.argmax(-1) != alone.argmax(-1)).sum())
            greatest = max(greatest, float((got - alone).abs().max()))
    print(
        f"{name}: {batches * ROWS:,} rows of {adapters} adapters: {wrong} other answers, greatest difference {greatest:.1g}"
    )


def stored(name: str, adapters: int) -> None:
    """Print the bytes of a stored adapter, of its file, and what the process grows by for each that is loaded."""
    model = mix_adapters(fleet(name, 1))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = Path(folder, "0", "adapter_model.safetensors")
        place = file.parent if file.exists() else Path(folder)
        of_file = (place / "adapter_model.safetensors").stat().st_size
        rows = padded(rows_of(model.config.vocab_size, 8))
        model(**rows, adapter_names=["0"] * ROWS)
        gc.collect()
        before, weights = resident(), sum(one.nbytes for one in model.parameters())
        for number in range(1, adapters + 1):
            model.load_adapter(place, str(number))
        model(**rows, adapter_names=[str(number % adapters) for number in range(ROWS)])
        gc.collect()
        grown = (resident() - before) / adapters
        tensors = (sum(one.nbytes for one in model.parameters()) - weights) / adapters
    print(
        f"{name}: an adapter of {of_file:,} bytes on disk holds {tensors:,.0f} bytes of weights in memory; with {adapters} "
        f"of them the process grew by {grown:,.0f} bytes each"
    )


def resident() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--answers", type=int)
    parser.add_argument("--stored", type=int)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with torch.no_grad():
        for name in arguments.model or MODELS:
            if arguments.answers is not None:
                answers(name, arguments.answers)
            elif arguments.stored is not None:
                stored(name, arguments.stored)
            elif arguments.quick:
                measure(name, (4,), (1, 4), 1)
            else:
                measure(name, tuple(arguments.lengths), ADAPTERS, ROUNDS)


if __name__ == "__main__":
    main()
