"""The suite of a table, as much of it as fits into some minutes on this machine.

The plan of a first draft tells what each method costs. From that come the numbers of seeds and of examples: as many seeds as
leave every run enough examples, and at least four. All seeds are counted, also those that a decided method will not need.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.plan.cost_estimate import default_workers
from lora_bench.plan.make_plan import Plan, make_plan
from lora_bench.stats.rates import half
from lora_bench.suite.from_table import BATCH, TRIAL_SEEDS, Draft, rates_of
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks.look import TableFacts

DEFAULT_MODEL = "minilm-l6-roberta"
# Models of more weights need smaller learning rates.
SMALL_MODEL = 60_000_000
SEEDS = (10, 8, 6, 5, 4)
# Fewer examples than enough teach a method too little to be judged by.
ENOUGH_EXAMPLES, LEAST_EXAMPLES, MOST_EPOCHS = 960, 160, 5
PROBED_EXAMPLES = 1_600
TRAIN_SHARE = 0.8
# Estimates are rough, and the report is to be written within the minutes too.
USED_SHARE = 0.7
# The budget is LoRA of twice the usual rank: at its steps of size every method comes within 5 %.
TIMES_DEFAULT_SIZE = 2


def draft_suite(seen: TableFacts, folder: Path, *, model: str = DEFAULT_MODEL, minutes: float = 10.0) -> Draft:
    """Return a suite of a table that takes about some minutes on this machine; its file will be in *folder*.

    Raises:
        BadInput: With every fault of the data or the base model.
        LoraBenchError: If no method fits the base model.
    """
    draft = Draft(seen, model, SEEDS[-1], PROBED_EXAMPLES, None, False, minutes)
    plan = _plan_of(draft, folder)
    counts = {cell.job.spec.method.label: cell.fit.parameters for cell in plan.cells}
    known = {label: count for label, count in counts.items() if count is not None}
    if not known:
        reasons = "; ".join(sorted({cell.fit.reason or "" for cell in plan.cells}))
        raise LoraBenchError(f"no method can train {model}: {reasons}")
    seeds, examples = _fit(plan, minutes * 60 * USED_SHARE, seen)
    return replace(
        draft,
        seeds=seeds,
        train_examples=examples,
        adapter_parameters=TIMES_DEFAULT_SIZE * known["lora"].adapter if "lora" in known else None,
        large=any(count.total > SMALL_MODEL for count in known.values()),
    )


def _plan_of(draft: Draft, folder: Path) -> Plan:
    """Return the plan of a draft, as if there were no records: the same table always gives the same suite."""
    # The file lies where the suite will, so that paths in it lead to the same places.
    handle, path = tempfile.mkstemp(prefix=f".{draft.name}-", suffix=".yaml", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(draft.text(folder))
        with tempfile.TemporaryDirectory() as elsewhere:
            return make_plan(load_suite(path), Path(elsewhere) / "runs")
    except BadInput as error:
        # The file is gone when the user reads its name.
        own = Path(path).name
        raise BadInput(
            replace(fault, file=None, line=None) if fault.file is not None and Path(fault.file).name == own else fault
            for fault in error.faults
        ) from None
    finally:
        Path(path).unlink()


def _fit(plan: Plan, seconds: float, seen: TableFacts) -> tuple[int, int]:
    """Return the number of seeds and the examples of a run that fit into *seconds*."""
    cost: dict[str, float] = {}
    for cell in [*plan.cells, *(cell for waiting in plan.waiting for cell in waiting.cells)]:
        label = cell.job.spec.method.label
        cost[label] = max(cost.get(label, 0.0), cell.estimate.seconds)
    workers = default_workers([cell.estimate for cell in plan.cells], plan.suite.content.training.threads)
    seconds_per_example = sum(cost.values()) / PROBED_EXAMPLES / workers
    rows = TRAIN_SHARE * seen.rows
    most = max(LEAST_EXAMPLES, int(rows * MOST_EPOCHS))
    enough = min(most, max(ENOUGH_EXAMPLES, int(rows)))
    # One rate more, as the best may be at an edge.
    rates = max(map(len, rates_of(large=False).values()))
    trials = rates + half(rates) * (len(TRIAL_SEEDS) - 1) + len(TRIAL_SEEDS)

    def examples(seeds: int) -> int:
        return int(seconds / (seconds_per_example * (seeds + trials)))

    seeds = next((seeds for seeds in SEEDS if examples(seeds) >= enough), SEEDS[-1])
    return seeds, max(LEAST_EXAMPLES, min(most, examples(seeds))) // BATCH * BATCH
