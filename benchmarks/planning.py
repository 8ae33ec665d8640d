"""What planning a suite costs: seconds, memory, and how many methods are fitted to a base model.

    python benchmarks/planning.py                 suites of 10, 100, 1,000 and 10,000 runs
    python benchmarks/planning.py --profile       and where the time of the largest goes
    python benchmarks/planning.py --quick         10 and 20 runs: shows that it runs

A suite has ten methods on gpt2-mini and one task, a budget of parameters, and as many seeds as make up its runs. It is planned
in an empty folder with an empty cache, again with the fits in the cache, and with the record of every run there. Seconds are of
the CPU and by the clock; memory is the peak of the process beyond what it had after the imports. A fit is one counting of a
method on a base model, with the bisection that meets the budget.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import os
import pstats
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lora_bench.plan.make_plan import Plan

SIZES = (10, 100, 1_000, 10_000)
METHODS = 10

SUITE = """\
suite: many
tasks:
  - {{task: tickets, data: tickets.csv, text: subject, label: queue}}
models: [gpt2-mini]
methods:
  - full
  - lora
  - {{method: lora, label: lora-1, scaling: 1.0}}
  - {{method: lora, label: lora-4, scaling: 4.0}}
  - {{method: lora, label: lora-fast, learning_rate: 3e-3}}
  - bottleneck_adapter
  - {{method: bottleneck_adapter, label: adapter-fast, learning_rate: 3e-3}}
  - {{method: bottleneck_adapter, label: adapter-slow, learning_rate: 3e-4}}
  - prefix_tuning
  - {{method: prefix_tuning, label: prefix-slow, learning_rate: 3e-4}}
seeds: {seeds}
budget: {{train_examples: 480, adapter_parameters: 24_576, tolerance: 0.2}}
"""

MadeT = TypeVar("MadeT")


def write_data(path: Path, rows: int = 400) -> None:
    """Sentences of made words, each with one that gives its label away."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "queue"])
        for _ in range(rows):
            label = draw.choice(["praise", "complaint"])
            writer.writerow(
                [" ".join([*draw.choices(["the", "a", "film", "was", "is", "and", "but"], k=8), label]), label]
            )


def write_records(plan: Plan) -> None:
    """A record for every run of a plan, without the flushing that a run's own has."""
    from lora_bench.records.layout import RECORD
    from lora_bench.records.sealed_records import sealed

    for cell in plan.cells:
        record = cell.job.record("diverged", "the training loss is nan at step 3", parameters=cell.fit.parameters)
        cell.job.folder.path.mkdir(parents=True)
        (cell.job.folder.path / RECORD).write_bytes(sealed(record))


def peak_mib() -> float:
    """Peak resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def timed(make: Callable[[], MadeT]) -> tuple[MadeT, str]:
    """What is made, and the seconds that it took: of the CPU, and by the clock."""
    clock, cpu = time.perf_counter(), time.process_time()
    made = make()
    return made, f"{time.process_time() - cpu:.2f} ({time.perf_counter() - clock:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="runs of each suite, tens")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    sizes = (10, 20) if given.quick else sorted(given.sizes)

    import lora_bench.training.run  # noqa: F401  # what planning imports on its way, and more
    from lora_bench.plan import size_fitting as fitting
    from lora_bench.plan.make_plan import make_plan
    from lora_bench.suite.load_suite import load_suite

    fits = 0
    count = fitting.count_method

    def counted(*given: object) -> fitting.MethodFit:
        nonlocal fits
        fits += 1
        return count(*given)  # type: ignore[arg-type]

    fitting.count_method = counted  # type: ignore[assignment]
    before = peak_mib()
    print("CPU seconds, by the clock in brackets; memory beyond the imports\n")
    print("| runs | fits | first plan | fits in the cache | every record there | peak MiB |")
    print("| --: | --: | --: | --: | --: | --: |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["LORA_BENCH_CACHE"] = str(folder / "cache")
            write_data(folder / "tickets.csv")
            path = folder / "many.yaml"
            path.write_text(SUITE.format(seeds=list(range(size // METHODS))), encoding="utf-8")

            def planned(path: Path = path, folder: Path = folder) -> Plan:
                return make_plan(load_suite(path), folder / "runs")

            fits = 0
            _, first = timed(planned)
            plan, cached = timed(planned)
            peak = peak_mib() - before
            found = fits
            write_records(plan)
            done, again = timed(planned)
            assert len(plan.cells) == len(plan.missing) == size and not done.missing
            print(f"| {len(plan.cells):,} | {found} | {first} | {cached} | {again} | {peak:.0f} |", flush=True)
            if given.profile and size == sizes[-1]:
                profile = cProfile.Profile()
                profile.runcall(planned)
                pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    fitting.count_method = count


if __name__ == "__main__":
    main()
