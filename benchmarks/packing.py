"""What a sweep of small LoRA runs takes from the command to the report: now, at an earlier commit, and one process a run.

    python -m benchmarks.packing                  some seventy minutes on two cores
    python -m benchmarks.packing --runs 20        fewer of ours
    python -m benchmarks.packing --before REF     another commit than the one before grouped batches and the read position
    python -m benchmarks.packing --out FILE       what it prints, as a page of Markdown too
    python -m benchmarks.packing --bfloat16       ours in bfloat16 too
    python -m benchmarks.packing --model shape:roberta-base    a known shape with random weights
    python -m benchmarks.packing --quick          a minute: shows that it runs, and no time in it means anything

A run is 60 steps of 16 pairs of sentences on MiniLM-L6 in the RoBERTa class, or in DeBERTa's with --model; the pairs are made
of film reviews and have the lengths of MRPC's, some 45 tokens. Seeds, ranks and learning rates differ. These ways are timed one
after the other on the same machine:

* `lora-bench run`, which packs what may be packed, with the recipe that new suites have;
* on a card, `lora-bench run --no-pack`; on a CPU a run of this size fills a core and nothing packs;
* on a CPU, one run at once over all cores, and two settings of glibc's malloc by which freed memory is kept;
* `lora-bench run` of the earlier commit, from a git worktree, with the recipe of that time;
* a loop that starts a process for each run, as scripts around transformers' run_glue and PEFT's examples do: imports, the model
  from the disk, Trainer, every input padded to 128 tokens, an evaluation.

Ours are timed by the clock on the wall, planning, report and all. Two shares say where that time goes. The first is that of
steps and evaluations in the workers' time, by the records' own clocks; the rest is imports, loading, planning, reporting. The
second is the suite's efficiency: what the same floating-point operations, on real tokens alone, would take at the speed of a
large product of matrices on every core or on the card, in the same precision, taken right before and after each way.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEFORE = "e89b241"  # the last commit without grouped batches, the read position and cheaper masks
RECIPE = ", order: grouped, last_layer: read_position"
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
STEPS, BATCH, LENGTH = 60, 16, 128

SUITE = """\
suite: sweep
tasks:
  - {{task: pairs, data: pairs.csv, text: [first, second], label: same}}
models: [{model}]
methods:
{methods}
seeds: {seeds}
budget: {{train_examples: {examples}}}
training: {{batch_size: {batch}, max_length: {length}, masks: keyed, precision: {precision}{recipe}}}
"""

LOOP = """\
import csv, sys
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed
model, data, seed, steps, batch, length, out, targets = sys.argv[1:]
set_seed(int(seed))
torch.set_num_threads({threads})
tokenizer = AutoTokenizer.from_pretrained(model)
rows = list(csv.DictReader(open(data, encoding="utf-8")))
labels = sorted({{row["same"] for row in rows}})
def encoded(rows):
    found = Dataset.from_list(rows).map(
        lambda one: tokenizer(one["first"], one["second"], padding="max_length", truncation=True, max_length=int(length)),
        batched=True,
    )
    return found.map(lambda one: {{"label": labels.index(one["same"])}})
train, test = encoded(rows[: len(rows) * 4 // 5]), encoded(rows[len(rows) * 4 // 5 :])
base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
base = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules=targets.split(",")))
arguments = TrainingArguments(
    out, max_steps=int(steps), per_device_train_batch_size=int(batch), per_device_eval_batch_size=64, learning_rate=1e-3,
    report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), seed=int(seed),
)
trainer = Trainer(base, args=arguments, train_dataset=train, eval_dataset=test, processing_class=tokenizer)
trainer.train()
print(trainer.evaluate())
"""


WHAT = """\
Seconds are the clock's, from the command to the report's end; *times as fast* is
against a process a run, per run. *In steps and evaluations* is their share of the workers' time by the records' own clocks.
*Efficiency* is what the same floating-point operations, on real tokens alone, take at the speed of a large product of matrices.
"""


def write_pairs(path: Path, rows: int) -> None:
    """Pairs of film reviews, cut to the lengths of MRPC's sentences; the label says whether both praise or both blame."""
    from lora_bench.tasks import load_data, load_task

    data = load_data(load_task("movie_reviews"), Path())
    split = data.splits["train"]
    drawn = random.Random(0)
    texts = list(zip((row[0] for row in split.texts), split.labels, strict=True))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["first", "second", "same"])
        for _ in range(rows):
            (first, one), (second, other) = drawn.choices(texts, k=2)
            words = drawn.randint(14, 24)
            writer.writerow(
                [" ".join(first.split()[:words]), " ".join(second.split()[:words]), "yes" if one == other else "no"]
            )


def drawn_at_random(shape: str, folder: Path) -> Path:
    """A base model of a known shape with random weights and MiniLM's tokenizer, as no hub is asked.

    Args:
        shape: Its name, such as `shape:roberta-base`; its vocabulary must hold MiniLM's 30,522 tokens.
        folder: Where its files go.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from lora_bench.models.registry import find_model
    from lora_bench.models.shapes import shape_folder

    tokenizer = AutoTokenizer.from_pretrained(find_model("minilm-l6-roberta", base=Path()).folder)
    config = AutoConfig.from_pretrained(shape_folder(shape))
    config.pad_token_id, config.bos_token_id, config.eos_token_id = (
        tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_suite(path: Path, model: str, runs: int, precision: str = "float32", recipe: str = RECIPE) -> Path:
    """A sweep of so many runs: five methods by rank and learning rate, as many seeds as it takes."""
    methods = [(2, 3e-4), (4, 1e-3), (8, 1e-3), (8, 3e-3), (16, 1e-3)][: max(1, min(5, runs))]
    lines = "\n".join(
        f"  - {{method: lora, label: lora-{rank}-{rate}, rank: {rank}, learning_rate: {rate}}}"
        for rank, rate in methods
    )
    path.write_text(
        SUITE.format(
            model=model, methods=lines, seeds=list(range(math.ceil(runs / len(methods)))), examples=STEPS * BATCH,
            batch=BATCH, length=LENGTH, precision=precision, recipe=recipe,
        ),
        encoding="utf-8",
    )  # fmt: skip
    return path


@dataclass(frozen=True)
class Asked:
    """How one of our ways is asked for.

    Args:
        precision: Of training.
        recipe: What the suite's recipe has more.
        workers: Runs at once; as many as there are cores or cards if not given.
        root: Folder of the code.
        options: Of the command.
        environment: Variables of the processes.
    """

    precision: str = "float32"
    recipe: str = RECIPE
    workers: int | None = None
    root: Path = ROOT
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How one way went.

    Args:
        runs: How many.
        seconds: From the command to its end, all runs together.
        within: Of the workers' time, the share that was steps and evaluations; none for the loop, which has no such clock.
        ideal: Seconds that the floating-point operations of these runs take at the speed of a large product.
    """

    runs: int
    seconds: float
    within: float | None
    ideal: float

    def row(self, name: str, loop: Way) -> str:
        """A line of the table."""
        each, of_loop = self.seconds / self.runs, loop.seconds / loop.runs
        within = "" if self.within is None else f"{self.within:.0%}"
        efficiency = f"{self.ideal / self.seconds:.0%}"
        return f"| {name} | {self.runs} | {each:.2f} | {of_loop / each:.2f} | {within} | {efficiency} |"


def timed(command: list[str], folder: Path, root: Path = ROOT, environment: dict[str, str] | None = None) -> float:
    """Seconds that a command takes with the code in *root*; its output is shown where it fails."""
    usual = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(root)}
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **usual, **(environment or {})}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return seconds


def ours(
    suite: Path, runs: Path, workers: int, *options: str, root: Path = ROOT, environment: dict[str, str] | None = None
) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of `lora-bench run` of the code in *root*, and the records that it leaves."""
    command = [sys.executable, "-P", "-c", "import sys; from lora_bench.cli import main; sys.exit(main())"]
    command += ["run", str(suite), "--runs", str(runs), "--workers", str(workers), "--quiet"]
    seconds = timed([*command, *options], suite.parent, root, environment)
    records = [json.loads(path.read_text()) for path in runs.rglob("record.json")]
    failed = [record["reason"] for record in records if record["status"] != "ok"]
    if failed:
        sys.exit(f"{len(failed)} runs failed, such as: {failed[0]}")
    return seconds, records


@contextlib.contextmanager
def checked_out(ref: str, folder: Path) -> Iterator[Path]:
    """A worktree of a commit, while this lasts."""
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(folder), ref], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder)], check=True)


def within(records: list[dict[str, Any]]) -> float:
    """Seconds that workers spent in steps and evaluations; members of a pack share theirs."""
    return sum(
        (record["speed"]["train_seconds"] + record["speed"]["evaluation_seconds"]) / (1 + len(record["packed_with"]))
        for record in records
    )


def flops_per_second(precision: str) -> float:
    """Of a large product of matrices on every core, or on the card."""
    import torch

    cuda = torch.cuda.is_available()
    size, times = (8192, 50) if cuda else (2048, 20)
    a, b = torch.randn(2, size, size, device="cuda" if cuda else "cpu", dtype=getattr(torch, precision))
    for count in (3, times):
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        if cuda:
            torch.cuda.synchronize()
    return times * 2 * size**3 / (time.perf_counter() - began)


def hardware() -> str:
    """The card, or the processor."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of ours")
    parser.add_argument("--loop", type=int, default=10, help="runs of the loop")
    parser.add_argument("--model", default="minilm-l6-roberta")
    parser.add_argument("--workers", type=int, help="default: one a card, or one a core")
    parser.add_argument("--before", default=BEFORE, metavar="REF", help=f"commit of the code before; {BEFORE}")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the table")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.runs, given.loop = 4, 1
    from lora_bench.models.registry import find_model
    from lora_bench.records.environment import cuda_devices

    given.workers = given.workers or len(cuda_devices()) or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model
        if model.startswith("shape:"):
            model = str(drawn_at_random(model, folder / model.removeprefix("shape:")))
        base = find_model(model, base=Path())
        targets = {"roberta": "query,value", "deberta-v2": "query_proj,value_proj", "gpt2": "c_attn"}[base.model_type]
        write_pairs(folder / "pairs.csv", 1500)
        (folder / "loop.py").write_text(LOOP.format(threads=os.cpu_count()), encoding="utf-8")
        peak, loop = flops_per_second("float32"), 0.0
        for seed in range(given.loop):
            loop += timed(
                [sys.executable, "loop.py", str(base.folder), "pairs.csv", str(seed), str(STEPS), str(BATCH), str(LENGTH),
                 "out", targets], folder,
            )  # fmt: skip
        peak = max(peak, flops_per_second("float32"))
        print(f"a process a run: {loop / given.loop:.2f} s a run", file=sys.stderr)
        wanted = {"`lora-bench run`": Asked()}
        if cuda_devices():
            wanted["`lora-bench run --no-pack`"] = Asked(options=("--no-pack",))
        else:
            cores = os.cpu_count() or 1
            wanted[f"one run at once, over {cores} threads"] = Asked(recipe=f"{RECIPE}, threads: {cores}", workers=1)
            wanted["malloc that keeps its memory"] = Asked(environment=KEEPING)
        if given.bfloat16:
            wanted["`lora-bench run`, in bfloat16"] = Asked(precision="bfloat16")
        ways: dict[str, Way] = {}
        with checked_out(given.before, folder / "before") as before:
            wanted[f"`lora-bench run` at {given.before}"] = Asked(recipe="", root=before)
            for way, asked in wanted.items():
                suite = write_suite(
                    folder / f"sweep-{len(ways)}.yaml", model, given.runs, asked.precision, asked.recipe
                )
                workers = asked.workers or given.workers
                speed = flops_per_second(asked.precision)
                seconds, records = ours(
                    suite, folder / f"runs-{len(ways)}", workers, *asked.options,
                    root=asked.root, environment=asked.environment,
                )  # fmt: skip
                speed = max(speed, flops_per_second(asked.precision))
                needed = needed_flops(base, records)
                share = within(records) / seconds / workers
                ways[way] = Way(len(records), seconds, share, needed / speed)
                print(f"{way}: {seconds / len(records):.2f} s a run", file=sys.stderr)
                if len(ways) == 1:
                    sizes = sorted(len(record["packed_with"]) + 1 for record in records)
                    of_loop = Way(given.loop, loop, None, needed / len(records) * given.loop / peak)
    table = [of_loop.row("a process a run", of_loop), *(found.row(way, of_loop) for way, found in ways.items())]
    packs = f"packs of {sizes[0]} to {sizes[-1]}" if sizes[-1] > 1 else "none packed, since one fills a core"
    lines = [
        f"{given.model}, {STEPS} steps of {BATCH} pairs, {given.workers} workers, {packs}; "
        f"{hardware()}; float32 at {peak / 1e12:.2f} TFLOP/s in a large product",
        "",
        "| way | runs | seconds a run | times as fast | in steps and evaluations | efficiency |",
        "| :-- | --: | --: | --: | --: | --: |",
        *table,
    ]
    print(*lines, sep="\n")
    if given.out is not None:
        command = f"python -m benchmarks.packing --runs {given.runs} --loop {given.loop} --model {given.model}"
        command += f" --workers {given.workers} --before {given.before}" + " --bfloat16" * given.bfloat16
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft"))
        page = ["# A sweep of small LoRA runs", "", *lines, "", f"`{command}`,", f"with {versions}. {WHAT}"]
        given.out.write_text("\n".join(page), encoding="utf-8")


def needed_flops(base: Any, records: list[dict[str, Any]]) -> float:
    """Floating-point operations of all steps and evaluations, on real tokens."""
    from lora_bench.methods import known_methods
    from lora_bench.training.measure.step_costs import step_flops

    method = known_methods()["lora"](rank=8)
    needed = 0.0
    for record in records:
        length = max(1, round(record["speed"]["train_real_tokens"] / (STEPS * BATCH)))
        step = step_flops(base, method, kind="classification", labels=2, rows=BATCH, length=length)
        # A forward pass is about a third of a step on full weights, and half of one that trains little.
        needed += STEPS * step + record["predictions"]["count"] / BATCH * step / 2
    return needed


if __name__ == "__main__":
    main()
