"""What a further run costs a warm worker beyond its training steps and its evaluation, and where that goes.

    python benchmarks/overhead.py                              40 runs of a model of some thousand weights
    python benchmarks/overhead.py --model minilm-l6-roberta    of MiniLM-L6 in the RoBERTa class
    python benchmarks/overhead.py --methods full lora          of other methods
    python benchmarks/overhead.py --beside 10000               in a folder with so many finished runs
    python benchmarks/overhead.py --quick                      3 runs: shows that it runs

A suite of so many runs is planned and done in this process, one run after the other, from the claim to the record on the disk.
The cost of a run is what it took less its `train_seconds` and its `evaluation_seconds`. The first run pays for imports, for
reading the base model and for tokenising the data, and is shown apart. CPU seconds are of all threads of the process.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUITE = """\
suite: many
tasks:
  - {{task: tickets, data: tickets.csv, text: subject, label: queue}}
models: [{model}]
methods: [{methods}]
seeds: {seeds}
budget: {{train_examples: 64}}
training: {{batch_size: 16, max_length: 32}}
"""

WORDS = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    *["the", "a", "film", "was", "is", "and", "but", "quite", "very", "praise", "complaint"],
]


def write_data(path: Path, rows: int) -> None:
    """Sentences of a few words, each with one that gives its label away."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "queue"])
        for _ in range(rows):
            label = draw.choice(["praise", "complaint"])
            writer.writerow([" ".join([*draw.choices(WORDS[4:-2], k=8), label]), label])


def write_model(folder: Path) -> None:
    """A RoBERTa of two layers of width 32 with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


class Stopwatch:
    """Seconds by the clock and of the CPU of each part of a run."""

    def __init__(self) -> None:
        self.clock: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()
        self._inside = False
        self._originals: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, new: Any) -> Any:
        """Put something in the place of what is called *name*, until `restore`; what was there."""
        self._originals.append((owner, name, vars(owner).get(name)))
        before = getattr(owner, name)
        setattr(owner, name, new)
        return before

    def restore(self) -> None:
        """Put everything back."""
        for owner, name, before in reversed(self._originals):
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    def around(self, owner: Any, name: str, part: str) -> None:
        """From now on, time what is called *name*; a part within a part counts as the outer one."""
        call = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            if self._inside:
                return call(*given, **named)
            self._inside = True
            began, used = time.perf_counter(), time.process_time()
            try:
                return call(*given, **named)
            finally:
                self.add(part, time.perf_counter() - began, time.process_time() - used)
                self._inside = False

        self.replace(owner, name, timed)

    def add(self, part: str, clock: float, cpu: float) -> None:
        """So many seconds more of a part."""
        self.clock[part] += clock
        self.cpu[part] += cpu


def watch_parts(watch: Stopwatch) -> None:
    """Time the parts of a run that are neither training nor evaluation, and apart from these the CPU of both."""
    from lora_bench import methods
    from lora_bench.kinds.exercises import labelling
    from lora_bench.records import run_lock, store
    from lora_bench.training import lessons, prepare, run
    from lora_bench.training import process_cache as warm

    watch.around(store.RunFolder, "try_lock", "lock")
    watch.around(run_lock.RunLock, "release", "lock")
    watch.around(prepare, "others_at_work", "company")
    watch.around(run, "others_at_work", "company")
    watch.around(prepare.MeasureCallback, "begin", "freed memory returned")
    watch.around(type(prepare.WARM), "base", "base model")
    watch.around(prepare, "load_for", "base model")
    watch.around(warm, "load_tokenizer", "tokenizer")
    for method in set(methods.known_methods().values()):
        watch.around(method, "apply", "method")
    watch.around(prepare, "draw_head", "head")
    watch.around(prepare, "count_parameters", "counting")
    watch.around(type(prepare.WARM), "data", "data")
    watch.around(lessons, "examples_of", "data")
    watch.around(lessons, "plan_course", "course")
    watch.around(prepare, "latest_checkpoint", "checkpoint")
    watch.around(prepare, "training_arguments", "Trainer")
    watch.around(prepare.Trainer, "__init__", "Trainer")
    watch.around(run, "scores_of", "scores")
    watch.around(run, "keep_answers", "predictions")
    watch.around(run, "keep_weights", "weights")
    watch.around(store.RunFolder, "publish", "record")
    watch.around(labelling.Labelling, "answers", "evaluation")

    began = used = 0.0
    start, end = prepare.MeasureCallback.on_train_begin, prepare.MeasureCallback.on_train_end

    def on_train_begin(*given: Any, **named: Any) -> None:
        nonlocal began, used
        start(*given, **named)
        began, used = time.perf_counter(), time.process_time()

    def on_train_end(*given: Any, **named: Any) -> None:
        watch.add("training", time.perf_counter() - began, time.process_time() - used)
        end(*given, **named)

    watch.replace(prepare.MeasureCallback, "on_train_begin", on_train_begin)
    watch.replace(prepare.MeasureCallback, "on_train_end", on_train_end)
    train = prepare.Trainer.train

    def trained(*given: Any, **named: Any) -> Any:
        before = watch.clock["training"], watch.cpu["training"]
        began, used = time.perf_counter(), time.process_time()
        done = train(*given, **named)
        clock, cpu = time.perf_counter() - began, time.process_time() - used
        steps = watch.clock["training"] - before[0], watch.cpu["training"] - before[1]
        watch.add("around the steps", clock - steps[0], cpu - steps[1])
        return done

    watch.replace(prepare.Trainer, "train", trained)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--rows", type=int, default=400, help="of the data")
    parser.add_argument("--model", help="a model that lora_bench knows; a tiny one by default")
    parser.add_argument("--methods", nargs="+", default=["lora"])
    parser.add_argument("--beside", type=int, default=0, help="finished runs in the same folder")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    if given.quick:
        given.runs = 3

    from lora_bench.plan.make_plan import make_plan
    from lora_bench.suite.load_suite import load_suite
    from lora_bench.training.run import run_job

    watch = Stopwatch()
    watch_parts(watch)
    found: list[tuple[float, float, Counter[str], Counter[str]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "tickets.csv", given.rows)
        if given.model is None:
            write_model(folder / "base")
        path = folder / "many.yaml"
        seeds = list(range(-(-given.runs // len(given.methods))))
        path.write_text(
            SUITE.format(model=given.model or "base", methods=", ".join(given.methods), seeds=seeds), encoding="utf-8"
        )
        cells = make_plan(load_suite(path), folder / "runs").cells[: given.runs]
        # Methods alternate, as in a suite whose runs take equally long.
        cells = tuple(sorted(cells, key=lambda cell: cell.job.spec.seed))
        for cell in cells:
            watch.clock, watch.cpu = Counter(), Counter()
            began, used = time.perf_counter(), time.process_time()
            record = run_job(cell.job)
            clock, cpu = time.perf_counter() - began, time.process_time() - used
            if record.status != "ok" or record.speed is None:
                raise SystemExit(f"a run failed: {record.reason}")
            spent = (record.speed.train_seconds or 0.0) + (record.speed.evaluation_seconds or 0.0)
            cpu -= watch.cpu["training"] + watch.cpu["evaluation"]
            found.append((clock - spent, cpu, watch.clock, watch.cpu))
            if not found[1:]:
                for index in range(given.beside):
                    _copy_of(cell.job.folder.path, index)
    watch.restore()
    first, further = found[0], found[1:]
    print(f"{len(found)} runs of {', '.join(given.methods)} on {given.model or 'a tiny RoBERTa'}")
    print(f"beyond training and evaluation, the first run: {first[0]:.3f} s, {first[1]:.3f} s of CPU")
    print(f"a further run, median: {statistics.median(one[0] for one in further):.3f} s, "
          f"{statistics.median(one[1] for one in further):.3f} s of CPU")  # fmt: skip
    print(f"the worst: {max(one[0] for one in further):.3f} s, {max(one[1] for one in further):.3f} s of CPU\n")
    print("| part of a further run | median seconds | of CPU |\n| :-- | --: | --: |")
    parts = {part for one in further for part in one[2]} - {"training", "evaluation"}
    for part in sorted(parts, key=lambda part: -_median(further, part, 3)):
        print(f"| {part} | {_median(further, part, 2):.4f} | {_median(further, part, 3):.4f} |")


def _median(found: Sequence[tuple[Any, ...]], part: str, which: int) -> float:
    return statistics.median(one[which][part] for one in found)


def _copy_of(done: Path, index: int) -> None:
    """The folder of another finished run, as far as others look at it."""
    copy = done.parent / f"{index:016x}"
    copy.mkdir()
    for file in done.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())


if __name__ == "__main__":
    main()
