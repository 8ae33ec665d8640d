"""lora_bench: which fine-tuning method gives the better model under one budget, and how sure are we?

    from lora_bench import load_suite, read_records, run_suite

    outcome = run_suite("quickstart")
    print(outcome.answer)
    frame = read_records("runs/quickstart")

A Trainer script of one's own leaves the same records with `callbacks=[BenchmarkCallback("runs/mine")]`.

Names are imported when they are first used, so `import lora_bench` costs nothing.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_bench.version import __version__

if TYPE_CHECKING:
    import pandas

    from lora_bench.exchange.scores import judge
    from lora_bench.execute.run_suite import run_suite
    from lora_bench.plan.make_plan import make_plan
    from lora_bench.plugin.benchmark_callback import BenchmarkCallback
    from lora_bench.report import Report, write_report
    from lora_bench.report.model.choose_method import choose_method
    from lora_bench.suite.load_suite import load_suite

_WHERE = {
    "BenchmarkCallback": "plugin.benchmark_callback",
    "Report": "report",
    "choose_method": "report.model.choose_method",
    "judge": "exchange.scores",
    "load_suite": "suite.load_suite",
    "make_plan": "plan.make_plan",
    "run_suite": "execute.run_suite",
    "write_report": "report",
}

__all__ = [
    "BenchmarkCallback",
    "Report",
    "__version__",
    "choose_method",
    "judge",
    "load_suite",
    "make_plan",
    "read_records",
    "run_suite",
    "write_report",
]


def read_records(path: str | Path) -> "pandas.DataFrame":
    """Every record at *path*, one row a run, failures included: a runs folder, a baseline, or one record.

    Raises:
        LoraBenchError: If there is no such path or no record in it.
    """
    from lora_bench.records.store import read_records as read
    from lora_bench.report import to_frame

    return to_frame(read(Path(path)))


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'lora_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lora_bench.{_WHERE[name]}"), name)
