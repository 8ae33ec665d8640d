"""A record for an experiment tracker: tags, parameters, metrics and a curve, from the frame's own columns."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.records.record import CurvePoint, Record
from lora_bench.records.sealed_records import to_json
from lora_bench.report.frames.record_frame import columns_of
from lora_bench.report.model.rows import grouped
from lora_bench.util.redaction import without_secrets, without_secrets_in

Value = str | int | float | bool
NUMBERS = ("Int64", "Float64")
COMPLETE = "record_sha256"
"""Tag of a run in a tracker that shows which content of its record is exported."""

ONE_BY_ONE = {"options": "option_{}", "arguments": "argument_{}", "packages": "package_{}"}


@dataclass(frozen=True, kw_only=True)
class RecordFacts:
    """One record as a tracker takes it, without missing values; *sha256*, of the whole record, tells a changed one.

    Args:
        conditions: Settings of the run. Options of the method, arguments and versions are separate, as `option_<name>`,
            `argument_<name>` and `package_<name>`.
        last_step: Number of steps of the run, if known, else the curve's last.
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


def facts_of(record: Record) -> RecordFacts:
    """Return *record* as a tracker takes it."""
    tags: dict[str, str] = {}
    conditions: dict[str, Value] = {}
    results: dict[str, int | float] = {}
    for name, column in columns_of([record]).items():
        value = column.of(record)
        if value is None or name == "score_seconds":
            continue  # in the curve
        if column.role == "tag":
            tags[name] = value if isinstance(value, str) else json.dumps(value)
        elif name in ONE_BY_ONE:
            conditions |= {ONE_BY_ONE[name].format(key): _scalar(inner) for key, inner in value.items()}
        elif column.role == "result" and column.dtype in NUMBERS:
            results[name] = value
        else:
            conditions[name] = _scalar(value)
    clocked = (record.speed.score_seconds or ()) if record.speed is not None else ()
    # A run that went on from a checkpoint without the clock has that of its last points alone.
    scored = sum(point.scores is not None for point in record.curve)
    clock = iter(clocked if len(clocked) == scored else ())
    curve = [(point.step, _of_point(point, clock)) for point in record.curve]
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
    """Return the facts of *records* by suite, in their order."""
    return {suite: [*map(facts_of, own)] for suite, own in grouped(records, lambda record: record.suite).items()}


def renew(
    facts: Iterable[RecordFacts],
    there: Iterable[Any],
    *,
    tag: Callable[[Any, str], Any],
    delete: Callable[[Any], object],
    write: Callable[[RecordFacts], object],
) -> Counter[str]:
    """Write the records whose run in a tracker is missing, incomplete or of another content, and delete such runs.

    *there* are the runs in the tracker, of which *tag* gives a tag by its name. Return how many runs are "new", "replaced" and
    "unchanged".
    """
    of_record = grouped(there, lambda run: str(tag(run, "run_id")))
    count: Counter[str] = Counter()
    for fact in facts:
        runs = of_record.get(fact.run_id, [])
        kept = [run for run in runs if tag(run, COMPLETE) == fact.sha256][:1]
        for run in runs:
            if run not in kept:
                delete(run)
        if not kept:
            write(fact)
        count["unchanged" if kept else "replaced" if runs else "new"] += 1
    return count


def sentence(count: Counter[str], where: str) -> str:
    """Return a sentence with the numbers of `renew`, and the tracker's place."""
    numbers = ", ".join(f"{count[word]:,} {word}" for word in ("new", "replaced", "unchanged"))
    return f"{count.total():,} runs in {where}: {numbers}"


def not_installed(package: str) -> LoraBenchError:
    """Return the error for a tracker whose package is missing."""
    return LoraBenchError(f"{package} is not installed, and the export needs it: pip install 'lora_bench[export]'")


def _of_point(point: CurvePoint, clock: Iterator[float]) -> dict[str, float]:
    loss = {} if point.loss is None else {"loss": point.loss}
    seconds = None if point.scores is None else next(clock, None)
    clocked = {} if seconds is None else {"seconds": seconds}
    return loss | {f"score_{metric}": value for metric, value in (point.scores or {}).items()} | clocked


def _scalar(value: object) -> Value:
    return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True, ensure_ascii=False)
