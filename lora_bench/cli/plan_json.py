"""A plan as one JSON object, for scripts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from lora_bench.plan.cell import Cell
from lora_bench.plan.make_plan import Plan


def plan_json(plan: Plan) -> str:
    """Return a plan as JSON: the data of each task, every run with its size and cost, and the warnings."""
    content = {
        "suite": plan.suite.name,
        "data": [dataclasses.asdict(facts) for facts in plan.data],
        "runs": [_run(cell) for cell in plan.cells],
        "waiting": [
            {"runs": waiting.runs, "reason": waiting.reason, "seconds": waiting.seconds} for waiting in plan.waiting
        ],
        "warnings": [*plan.warnings, *plan.cautions],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _run(cell: Cell) -> dict[str, Any]:
    spec, counts = cell.job.spec, cell.fit.parameters
    return {
        "run_id": cell.job.run_id,
        "task": spec.task.name,
        "model": spec.model.name,
        "method": spec.method.label,
        "size": spec.method.options[spec.method.size] if spec.method.size is not None else None,
        "learning_rate": spec.training.learning_rate,
        "distinct_examples": spec.training.distinct_examples,
        "seed": spec.seed,
        "trial": cell.trial,
        "status": cell.record.status if cell.record is not None else None,
        "unsupported": cell.reason,
        "parameters": counts.model_dump(mode="json") if counts is not None else None,
        "seconds": cell.estimate.seconds,
        "measured": cell.estimate.measured,
        "memory_bytes": cell.estimate.memory_bytes,
        "disk_bytes": cell.estimate.disk_bytes,
    }
