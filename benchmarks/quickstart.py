"""What a run of the quickstart takes: one process a run, the code of an earlier commit, and now, on the same machine.

    python -m benchmarks.quickstart                    half an hour on two cores
    python -m benchmarks.quickstart --before REF       another commit than the one before these changes
    python -m benchmarks.quickstart --out FILE         what it prints, as a page of Markdown too
    python -m benchmarks.quickstart --quick            minutes: shows that it runs, and no time in it means anything

Full fine-tuning, LoRA, bottleneck adapters and prefix tuning train on film reviews, on a RoBERTa, a DeBERTa and a GPT-2. Three
ways do it, one after the other:

* a loop that starts a process for each run, as scripts around transformers' examples do: imports, the model from the disk,
  Trainer, every input padded to the suite's `max_length`, an evaluation. It does one seed of each method and base model;
* `lora-bench run` of the earlier commit, from a git worktree, with the suite as it is;
* `lora-bench run` of this code, with the recipe that new suites have (`--recipe`).

The suite is `smoke`, the quickstart of the earlier commit and not today's. Seconds are the clock's, from the command to the
report's end. Padding is the tokens that a model computes for each real one in training. Efficiency is the time that the
floating-point operations of all steps and evaluations, of whole models on real tokens alone, take at the speed of a large
product of matrices on every core or on the card.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from benchmarks.packing import BEFORE, ROOT, checked_out, flops_per_second, hardware, ours, timed

SUITE = ROOT / "baselines" / "smoke" / "suite.yaml"
RECIPE = "order: grouped, last_layer: read_position, masks: keyed"

LOOP = """\
import csv, json, sys
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed
from lora_bench.methods import known_methods
given = json.loads(sys.argv[1])
set_seed(0)
torch.set_num_threads(given["threads"])
tokenizer = AutoTokenizer.from_pretrained(given["model"])
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
def encoded(path):
    rows = Dataset.from_list([{"text": row["text"], "label": int(row["label"])} for row in csv.DictReader(open(path))])
    return rows.map(
        lambda one: tokenizer(one["text"], padding="max_length", truncation=True, max_length=given["max_length"]), batched=True
    )
train, test = encoded("train.csv"), encoded("test.csv")
model = AutoModelForSequenceClassification.from_pretrained(given["model"], num_labels=2, dtype=torch.float32)
model.config.pad_token_id = tokenizer.pad_token_id
model = known_methods()[given["method"]](**given["options"]).apply(model, head=given["head"])
arguments = TrainingArguments(
    "out", max_steps=given["steps"], per_device_train_batch_size=given["batch"], per_device_eval_batch_size=64,
    learning_rate=given["rate"], report_to="none", save_strategy="no", disable_tqdm=True, label_names=["labels"],
    use_cpu=not torch.cuda.is_available(), seed=0,
)
trainer = Trainer(model, args=arguments, train_dataset=train, eval_dataset=test, processing_class=tokenizer)
trainer.train()
print(trainer.evaluate())
"""


@dataclass(frozen=True)
class Way:
    """How one way went.

    Args:
        runs: Number of runs.
        seconds: Of all of them, from the command to its end.
        padding: Tokens computed in training for each real one.
        ideal: Seconds that their floating-point operations take at the speed of a large product.
    """

    runs: int
    seconds: float
    padding: float
    ideal: float

    def row(self, name: str, loop: Way) -> str:
        """A line of the table."""
        each = self.seconds / self.runs
        faster = loop.seconds / loop.runs / each
        efficiency = f"{self.ideal / self.seconds:.0%}"
        return f"| {name} | {self.runs} | {each:.2f} | {faster:.2f} | {self.padding:.2f} | {efficiency} |"


def write_suite(path: Path, recipe: str, quick: bool) -> Path:
    """The suite with more lines in its recipe; with *quick*, LoRA on one base model and few examples."""
    content = yaml.safe_load(SUITE.read_text(encoding="utf-8"))
    content["training"] |= yaml.safe_load(f"{{{recipe}}}")
    if quick:
        content["models"], content["seeds"] = content["models"][:1], [0]
        content["methods"] = [one for one in content["methods"] if one["method"] == "lora"]
        content["budget"] = {"train_examples": 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def planned(suite: Path, runs: Path) -> list[Any]:
    """The jobs of a suite."""
    from lora_bench.plan.make_plan import make_plan
    from lora_bench.suite.load_suite import load_suite

    return [cell.job for cell in make_plan(load_suite(suite), runs).cells]


def padding_of(jobs: list[Any]) -> float:
    """Tokens computed in training for each real one, in the batches of these runs."""
    from lora_bench.models.loading import load_tokenizer
    from lora_bench.tasks import encode, load_data
    from lora_bench.training.step_plan import plan_course

    data = load_data(jobs[0].task, jobs[0].task_base)
    real = padded = 0
    encoded: dict[str, Any] = {}
    for job in jobs:
        recipe, name = job.spec.training, job.base_model.name
        if name not in encoded:
            encoded[name] = encode(data.splits["train"], load_tokenizer(job.base_model), recipe.max_length)[0]
        course = plan_course(recipe, job.spec.seed, encoded[name])
        for batch in map(course.batch, range(course.last_step or 0)):
            lengths = [len(example["input_ids"]) for example in batch]
            real, padded = real + sum(lengths), padded + len(lengths) * max(lengths)
    return padded / real


def needed_flops(jobs: list[Any], records: dict[str, Any]) -> dict[str, float]:
    """Floating-point operations of each run on real tokens, by its id."""
    from lora_bench.methods import known_methods
    from lora_bench.training.measure.step_costs import step_flops

    needed = {}
    for job in jobs:
        spec, record = job.spec, records[job.run_id]
        steps, rows = spec.training.steps, spec.training.batch_size
        length = max(1, round(record["speed"]["train_real_tokens"] / (steps * rows)))
        method = known_methods()[spec.method.name](**spec.method.options)
        step = step_flops(job.base_model, method, kind=job.task.kind, labels=2, rows=rows, length=length)
        # A forward pass is a third of a step that trains all weights, and half of one that trains little.
        forward = step / (3 if spec.method.name == "full" else 2)
        needed[job.run_id] = steps * step + record["predictions"]["count"] / rows * forward
    return needed


def looped(folder: Path, jobs: list[Any], rows: int | None) -> float:
    """Seconds of a process for each of these jobs, with at most so many rows of each split."""
    from lora_bench.families import family_of
    from lora_bench.tasks import load_data

    data = load_data(jobs[0].task, jobs[0].task_base)
    for name in ("train", "test"):
        split = data.splits[name]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            pairs = list(zip(split.texts, split.labels, strict=True))[:rows]
            writer.writerows([text[0], label] for text, label in pairs)
    (folder / "loop.py").write_text(LOOP, encoding="utf-8")
    seconds = 0.0
    for job in jobs:
        recipe, family = job.spec.training, family_of(job.base_model.model_type)
        heads = {"roberta": ["classifier"], "deberta-v2": ["pooler", "classifier"], "gpt2": ["score"]}
        given = {
            "model": str(job.base_model.folder), "method": job.spec.method.name, "options": job.spec.method.options,
            "head": heads[family.name], "threads": os.cpu_count(), "max_length": recipe.max_length, "steps": recipe.steps,
            "batch": recipe.batch_size, "rate": recipe.learning_rate,
        }  # fmt: skip
        seconds += timed([sys.executable, "loop.py", json.dumps(given)], folder)
        print(f"loop: {job.spec.method.label} on {job.spec.model.name}", file=sys.stderr)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, metavar="REF", help=f"commit of the code before; {BEFORE}")
    parser.add_argument("--recipe", default=RECIPE, help=f"what the suite's recipe has more now; {RECIPE}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="a file for the table")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suites = {
            "before": write_suite(folder / "before" / "suite.yaml", "", given.quick),
            "now": write_suite(folder / "now" / "suite.yaml", given.recipe, given.quick),
        }
        jobs = {way: planned(suite, suite.parent / "runs") for way, suite in suites.items()}
        once = [job for job in jobs["before"] if job.spec.seed == jobs["before"][0].spec.seed]
        peaks = [flops_per_second("float32")]
        loop = looped(folder, once, 64 if given.quick else None)
        took = {}
        with checked_out(given.before, folder / "code") as before:
            for way, root in (("before", before), ("now", ROOT)):
                peaks.append(flops_per_second("float32"))
                seconds, records = ours(suites[way], suites[way].parent / "runs", given.workers, root=root)
                took[way] = seconds, {record["run_id"]: record for record in records}
                print(f"{way}: {seconds:.0f} s for {len(records)} runs", file=sys.stderr)
        peaks.append(flops_per_second("float32"))
        peak = max(peaks)
        needed = {way: needed_flops(jobs[way], took[way][1]) for way in took}
        real = sum(took["before"][1][job.run_id]["speed"]["train_real_tokens"] for job in once)
        fixed = sum(
            job.spec.training.steps * job.spec.training.batch_size * job.spec.training.max_length for job in once
        )
        ways = {
            "a process a run": Way(
                len(once), loop, fixed / real, sum(needed["before"][job.run_id] for job in once) / peak
            ),
            **{
                label: Way(len(jobs[way]), took[way][0], padding_of(jobs[way]), sum(needed[way].values()) / peak)
                for label, way in ((f"`lora-bench run` at {given.before}", "before"), ("`lora-bench run` now", "now"))
            },
        }
    lines = [
        f"{given.workers} workers; {hardware()}; float32 at {peak / 1e12:.2f} TFLOP/s in a large product; "
        f"recipe of now: `{given.recipe}`",
        "",
        "| way | runs | seconds a run | times as fast | padded tokens for a real one | efficiency |",
        "| :-- | --: | --: | --: | --: | --: |",
        *(way.row(label, ways["a process a run"]) for label, way in ways.items()),
    ]
    print(*lines, sep="\n")
    if given.out is not None:
        command = (
            f"python -m benchmarks.quickstart --before {given.before} --workers {given.workers}"
            + " --quick" * given.quick
        )
        versions = ", ".join(f"{one} {metadata.version(one)}" for one in ("torch", "transformers", "peft"))
        what = __doc__.split("\n\n")[-1].strip()
        page = ["# A run of the quickstart", "", *lines, "", f"`{command}`,", f"with {versions}. {what}", ""]
        given.out.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
