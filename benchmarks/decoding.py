"""What decoding each distinct input once, many at a time, saves over the paper's way: one line after another.

    python benchmarks/decoding.py                  about two minutes on one CPU core
    python benchmarks/decoding.py --data FOLDER    on E2E's own inputs: devset.csv and testset_w_refs.csv
    python benchmarks/decoding.py --quick          seconds: shows that it runs, and no time in it means anything

E2E's test set has 4,693 lines with 630 distinct inputs. The LoRA paper's code decodes every line alone with ten beams: the
prompt goes through the model once a beam, and 64 steps are taken whatever the hypotheses do. That loop is written out here
with the cache of transformers. Beside it stand the same loop on distinct inputs, ours with one prompt a batch (the beams
share their prompt, and a search ends when nothing can win any more), and ours in batches.

All get the same inputs, a sample of the distinct ones with all their lines, in one run on one model; no time is
extrapolated. The model is gpt2-mini after a short training on lines of the same kind, so that completions end as trained
ones do. Without --data, inputs are made up, as many lines to each as E2E has on average. Texts are compared: the ways
differ in time alone.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lora_bench.kinds.exercises.generation.decode import complete
from lora_bench.kinds.exercises.generation.encode import CompletionCollator, encode_completions, encode_prompts
from lora_bench.kinds.exercises.generation.steps import End, NoRepeat
from lora_bench.models.loading import load_tokenizer
from lora_bench.models.registry import find_model
from lora_bench.records.spec import Decoding
from lora_bench.tasks import Split

E2E_LINES, E2E_INPUTS = 4693, 630
MAX_LENGTH = 256
PAPER = Decoding(beams=10, length_penalty=0.9, no_repeat_ngram=4, max_new_tokens=64, end=("\n\n",))

Line = tuple[str, str]

NAMES = [
    "The Old Oak",
    "Miller's Table",
    "River Court",
    "Lantern House",
    "Blue Gate",
    "Seven Stairs",
    "The Quiet Goose",
]
VALUES = {
    "kind": ["inn", "tea room", "wine house", "tavern", "soup kitchen"],
    "food": ["fish", "roast meat", "noodles", "pies", "cheese", "garden greens"],
    "price": ["low", "middling", "high", "more than ten shillings"],
    "guests": ["praised by all", "praised by some", "praised by nobody"],
    "place": ["by the river", "on the hill", "behind the church", "near the station"],
    "children": ["welcome", "not welcome"],
}
SENTENCES = {
    "kind": "It is a {} of the old sort.",
    "food": "You can eat {} there.",
    "price": "Its prices are {}.",
    "guests": "It is {}.",
    "place": "You find it {}.",
    "children": "Children are {} there.",
}


def made_up(inputs: int, seed: int) -> list[Line]:
    """Distinct inputs with a line for each of their references, in E2E's mean multiplicity."""
    draw = random.Random(seed)
    found: dict[str, list[str]] = {}
    while len(found) < inputs:
        name = draw.choice(NAMES)
        slots = [(slot, draw.choice(VALUES[slot])) for slot in VALUES if draw.random() < 0.7]
        source = " | ".join(f"{slot} : {value}" for slot, value in [("name", name), *slots])
        count = (len(found) + 1) * E2E_LINES // E2E_INPUTS - len(found) * E2E_LINES // E2E_INPUTS
        texts = []
        for _ in range(count):
            draw.shuffle(slots)
            texts.append(" ".join([f"This is {name}.", *(SENTENCES[slot].format(value) for slot, value in slots)]))
        found.setdefault(source, texts)
    return [(source, text) for source, texts in found.items() for text in texts]


def lines_of(path: Path) -> list[Line]:
    """The inputs and references of a file of E2E."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["mr"], row["ref"]) for row in csv.DictReader(file)]


def sample(lines: list[Line], inputs: int) -> list[Line]:
    """Evenly spaced distinct inputs with all their lines."""
    distinct = list(dict.fromkeys(source for source, _ in lines))
    chosen = {distinct[place * len(distinct) // inputs] for place in range(min(inputs, len(distinct)))}
    return [line for line in lines if line[0] in chosen]


def split_of(lines: list[Line]) -> Split:
    return Split(
        [str(number) for number in range(len(lines))],
        [(source,) for source, _ in lines],
        [(text,) for _, text in lines],
    )


def trained(lines: list[Line], steps: int) -> tuple[Any, Any]:
    """gpt2-mini after a short training on completions, and its tokenizer."""
    found = find_model("gpt2-mini", base=Path())
    tokenizer = load_tokenizer(found)
    model = AutoModelForCausalLM.from_pretrained(found.folder, dtype=torch.float32)
    examples, _ = encode_completions(split_of(lines), tokenizer, MAX_LENGTH)
    collate, draw = CompletionCollator(tokenizer), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        model(**collate(draw.sample(examples, 8))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


@torch.no_grad()
def papers_way(model: Any, prompt: list[int], end: End, decoding: Decoding) -> str:
    """One prompt by the loop of the paper's code: every beam reads the prompt, and every step is taken."""
    beams, no_repeat = decoding.beams, NoRepeat(decoding.no_repeat_ngram, 0)
    cache: dict[str, Any] = {}
    tokens = torch.tensor([prompt] * beams)
    completions, sums = torch.empty(beams, 0, dtype=torch.long), torch.zeros(beams)
    best: tuple[float, list[int]] = (-float("inf"), [])
    for length in range(1, decoding.max_new_tokens + 1):
        outputs = model(input_ids=tokens, use_cache=True, logits_to_keep=1, **cache)
        name = "cache" if "cache" in outputs else "past_key_values"  # its name until transformers 5.24
        cache = {name: outputs[name]}
        logits = outputs.logits[:, -1]
        candidates = no_repeat.forbid(completions, logits).log_softmax(-1) + sums[:, None]
        sums, chosen = (candidates[0] if length == 1 else candidates.flatten()).topk(beams)
        parents, tokens = chosen // logits.shape[-1], (chosen % logits.shape[-1])[:, None]
        completions = torch.cat([completions[parents], tokens], dim=1)
        cache[name].reorder_cache(parents)
        ended = end.reached(completions) | (length == decoding.max_new_tokens)
        for beam in ended.nonzero().flatten().tolist():
            score = float(sums[beam]) / length**decoding.length_penalty
            best = max(best, (score, completions[beam].tolist()), key=lambda scored: scored[0])
        sums = sums.masked_fill(ended, -torch.inf)
    return end.text_of(best[1])


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of the processor, which other programs on the machine leave alone."""

    clock: float
    processor: float


def timed(work: Callable[[], Any]) -> tuple[Any, Spent]:
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, Spent(time.perf_counter() - clock, time.process_time() - processor)


def total(parts: Iterable[Spent]) -> Spent:
    parts = list(parts)
    return Spent(sum(part.clock for part in parts), sum(part.processor for part in parts))


def measure(model: Any, tokenizer: Any, lines: list[Line], decoding: Decoding) -> str:
    """Decode all lines both ways; the table of times and ratios."""
    prompts, _ = encode_prompts(split_of(lines), tokenizer, MAX_LENGTH, decoding.max_new_tokens)
    end = End(tokenizer, decoding.end, torch.device("cpu"))
    theirs = [timed(lambda prompt=prompt: papers_way(model, prompt["input_ids"], end, decoding)) for prompt in prompts]
    first = {tuple(prompt["input_ids"]): number for number, prompt in reversed([*enumerate(prompts)])}
    distinct = [prompts[number] for number in first.values()]
    _, alone = timed(lambda: complete(model, distinct, tokenizer, decoding, 0, batch_tokens=1))
    texts, together = timed(lambda: complete(model, prompts, tokenizer, decoding, 0))
    whole = total(spent for _, spent in theirs)
    ways = {
        "the paper's way, every line": (len(prompts), whole),
        "the paper's way, distinct inputs": (len(first), total(theirs[number][1] for number in first.values())),
        "ours, one prompt a batch": (len(first), alone),
        "ours, in batches": (len(first), together),
    }
    rows = [
        "| way | prompts decoded | seconds | times as fast | CPU seconds | times as fast, by CPU |",
        "| --- |" + " ---: |" * 5,
    ]
    for way, (count, spent) in ways.items():
        rows.append(
            f"| {way} | {count} | {spent.clock:.2f} | {whole.clock / spent.clock:.1f} "
            f"| {spent.processor:.2f} | {whole.processor / spent.processor:.1f} |"
        )
    same = sum(text == other for text, (other, _) in zip(texts, theirs, strict=True))
    lengths = sorted(len(tokenizer(text)["input_ids"]) for text in texts)
    middle = lengths[len(lengths) // 2]
    return "\n".join(
        [*rows, "", f"{same} of {len(lines)} texts are the same both ways; their median length is {middle} tokens"]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with E2E's devset.csv and testset_w_refs.csv")
    parser.add_argument("--inputs", type=int, default=14, help="distinct inputs, each with all its lines")
    parser.add_argument("--train-steps", type=int, default=150, help="steps of training before it, eight lines each")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--quick", action="store_true", help="two inputs, two steps and four beams of eight tokens")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    inputs, steps, decoding = options.inputs, options.train_steps, PAPER
    if options.quick:
        inputs, steps, decoding = 2, 2, PAPER.model_copy(update={"beams": 4, "max_new_tokens": 8})
    if options.data is not None:
        training, test = lines_of(options.data / "devset.csv"), lines_of(options.data / "testset_w_refs.csv")
    else:
        training, test = made_up(200, seed=0), made_up(max(inputs, 200), seed=1)
    model, tokenizer = trained(training, steps)
    lines = sample(test, inputs)
    most = max(Counter(source for source, _ in lines).values())
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers"))
    print(f"# Decoding {len(lines)} lines with {decoding.beams} beams\n\n{libraries}, {options.threads} threads")
    print(f"{inputs} distinct inputs with {len(lines) / inputs:.1f} lines each, at most {most}\n")
    print(measure(model, tokenizer, lines, decoding), flush=True)


if __name__ == "__main__":
    main()
