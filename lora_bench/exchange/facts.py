"""A record as an experiment tracker sees it: tags, parameters, metrics and a curve, read off the frame's own columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_bench.errors import LoraBenchError
from lora_bench.records.record import CurvePoint, Record
from lora_bench.records.store import to_json
from lora_bench.report.frames.records import columns_of
from lora_bench.util.redaction import without_secrets, without_secrets_in

Value = str | int | float | bool
NUMBERS = ("Int64", "Float64")


@dataclass(frozen=True, kw_only=True)
class RecordFacts:
    """What a tracker is told of one record. What the record lacks is not in it.

    Args:
        name: For people: task, base model, label, seed and run id.
        sha256: Hash of the whole record, so that a changed one is known from the one that was exported before.
        tags: Which record it is and how it ended; `run_id`, `suite`, `status` and `reason` among them.
        conditions: What was run. Options of the method, arguments and versions stand one by one, as `option_<name>`,
            `argument_<name>` and `package_<name>`.
        results: What came of it, as numbers.
        curve: Step and metrics of each point of the learning curve.
        last_step: Steps of the run, where they are known, else the curve's last.
    """

    run_id: str
    suite: str
    name: str
    sha256: str
    ok: bool
    tags: Mapping[str, str]
    conditions: Mapping[str, Value]
    results: Mapping[str, int | float]
    curve: Sequence[tuple[int, Mapping[str, float]]]
    last_step: int


ONE_BY_ONE = {"options": "option_{}", "arguments": "argument_{}", "packages": "package_{}"}


def facts_of(record: Record) -> RecordFacts:
    """What a tracker is told of *record*."""
    tags: dict[str, str] = {}
    conditions: dict[str, Value] = {}
    results: dict[str, int | float] = {}
    for name, column in columns_of([record]).items():
        value = column.of(record)
        if value is None:
            continue
        if column.role == "tag":
            tags[name] = _plain(value)
        elif name in ONE_BY_ONE:
            conditions |= {ONE_BY_ONE[name].format(key): _scalar(inner) for key, inner in value.items()}
        elif column.role == "result" and column.dtype in NUMBERS:
            results[name] = value
        else:
            conditions[name] = _scalar(value)
    curve = [(point.step, _of_point(point)) for point in record.curve]
    spec = record.spec
    words = (spec.task.name, spec.model.shown, spec.method.label, f"seed {spec.seed}", record.run_id)
    return RecordFacts(
        run_id=record.run_id,
        suite=without_secrets(record.suite),
        name=without_secrets(" · ".join(words)),
        sha256=hashlib.sha256(to_json(record)).hexdigest(),
        ok=record.status == "ok",
        tags=without_secrets_in(tags),
        conditions=without_secrets_in(conditions),
        results=results,
        curve=curve,
        last_step=spec.training.steps or max((step for step, _ in curve), default=0),
    )


def by_suite(records: Sequence[Record]) -> dict[str, list[RecordFacts]]:
    """The facts of *records* by suite, in their order."""
    suites: dict[str, list[RecordFacts]] = {}
    for record in records:
        suites.setdefault(record.suite, []).append(facts_of(record))
    return suites


@dataclass
class Count:
    """What an export did to a tracker."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def sentence(self, where: str) -> str:
        """What was done, and where."""
        total = self.new + self.changed + self.unchanged
        return (
            f"{total:,} runs in {where}: {self.new:,} new, {self.changed:,} replaced, {self.unchanged:,} as they were"
        )


def not_installed(package: str) -> LoraBenchError:
    """The error for a tracker whose package is not there."""
    return LoraBenchError(f"{package} is not installed, and the export needs it: pip install 'lora_bench[export]'")


def _of_point(point: CurvePoint) -> dict[str, float]:
    loss = {} if point.loss is None else {"loss": point.loss}
    return loss | {f"score_{metric}": value for metric, value in (point.scores or {}).items()}


def _scalar(value: object) -> Value:
    return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
