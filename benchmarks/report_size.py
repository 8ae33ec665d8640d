"""What the report of many records costs: CPU time, memory and bytes.

    python benchmarks/report_size.py                10,000 records of one task
    python benchmarks/report_size.py --tasks 8      the same number over eight tasks, with three figures each

The records are those of the baseline `quickstart` with other seeds, sizes and tasks. Time is that of the process and not of
the clock, so other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
from pathlib import Path

from lora_bench.records.record import Record
from lora_bench.records.store import read_records

BASELINE = Path(__file__).parents[1] / "baselines" / "quickstart"


def many_records(number: int, tasks: int, sizes: int) -> list[Record]:
    """*number* records: every task, base model and method, each method with its size in *sizes* variants, seed after seed."""
    templates = [record for record in read_records(BASELINE) if record.spec.seed == 0]
    cells = [
        (template, task, size)
        for task, template, size in itertools.product(range(tasks), templates, range(1, sizes + 1))
        if template.spec.method.size is not None or size == 1
    ]
    every = (_varied(*cell, seed=seed) for seed in itertools.count() for cell in cells)
    return list(itertools.islice(every, number))


def _varied(template: Record, task: int, size: int, seed: int) -> Record:
    method, named = template.spec.method, template.spec.task
    if method.size is not None:
        chosen = {method.size: size}
        changes = {"label": f"{method.label}_{size}", "options": {**method.options, **chosen}, "chosen": chosen}
        method = method.model_copy(update=changes)
    if task:
        named = named.model_copy(update={"name": f"{named.name}_{task}", "data_sha256": f"{task:064}"})
    spec = template.spec.model_copy(update={"method": method, "task": named, "seed": seed})
    scores = {metric: score + 1e-4 * (seed % 97) for metric, score in (template.scores or {}).items()}
    return template.model_copy(update={"spec": spec, "run_id": spec.run_id, "scores": scores})


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mib() -> float:
    """Peak resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--sizes", type=int, default=8, help="variants of each method that has a size")
    arguments = parser.parse_args()
    records = many_records(arguments.records, arguments.tasks, arguments.sizes)
    held, started = peak_mib(), cpu_seconds()

    from lora_bench.report import Report, render_files

    files = render_files(Report(records))
    seconds, peak = cpu_seconds() - started, peak_mib()
    print(f"{len(records):,} records: {seconds:.1f} s of CPU, peak {peak:.0f} MiB of which {held:.0f} MiB before")
    for name, content in files.items():
        print(f"{len(content):>12,} bytes  {name}")


if __name__ == "__main__":
    main()
