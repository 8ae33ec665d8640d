"""Suites of probes for tests: a folder with tiny models, and a suite written with what a test is about."""

from __future__ import annotations

from pathlib import Path

from lora_bench.plan.probe_plan import ProbePlan, plan_probes
from lora_bench.suite.probe_suite import load_probe_suite
from tests.project import write_model

SUITE = """\
suite: costs
models: [base]
methods: [full, lora]
cell: {batch_size: 2, length: 8, threads: 1}
probe: {latency: [[1, 8]], seconds: 0.1}
"""


def write_suite(folder: Path, text: str = SUITE, **families: str) -> Path:
    """A suite of probes with its models, `base` a tiny RoBERTa unless it is said otherwise; the path of the suite."""
    for name, family in {"base": "roberta", **families}.items():
        if not (folder / name).is_dir():
            write_model(folder / name, family)
    path = folder / "costs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plan(folder: Path, text: str = SUITE, *, processes: int | None = None, **families: str) -> ProbePlan:
    """The plan of a suite of probes."""
    suite = load_probe_suite(write_suite(folder, text, **families))
    return plan_probes(suite, folder / "runs" / "costs", processes=processes)
