"""Every Eval Ever: the log of a model, `NAME.json`, and beside it its results on items, `NAME_samples.jsonl`.

Both are checked by its own package where that is installed. Of several results of one evaluation each is a task.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from lora_bench.errors import Fault, first_line
from lora_bench.exchange.scores.collect import Scale, Source, TaskFacts
from lora_bench.exchange.scores.columns import plain
from lora_bench.exchange.scores.tables import MAX_BYTES, Faults, fault, load, objects_in
from lora_bench.util.regular_files import MIB, read_regular, read_start

_ITEMS = "_samples.jsonl"
_SCALES: dict[tuple[Any, Any], Scale] = {(0, 1): "share", (-1, 1): "share", (0, 100): "percent"}


class Result(NamedTuple):
    """A result of a log: its evaluation and id, by which items name it, its task, and its score."""

    name: str
    result_id: str | None
    task: str
    facts: TaskFacts
    score: Any


def is_items(path: Path) -> bool:
    """Tell if a file has results on items, by its name and first line."""
    first = read_start(path, MIB).partition(b"\n")[0] if path.name.endswith(_ITEMS) else b""
    return all(key in first for key in (b'"evaluation_id"', b'"sample_id"', b'"evaluation"'))


def items_or_logs(files: Sequence[Path]) -> list[Path]:
    """Leave out logs whose results on items are all there, else these results: items of some compare no others."""
    items = {_log_of(file): file for file in files if is_items(file)}
    both = {log: items[log] for log in items if log in files}
    whole = all(file in both for file in files if file.suffix == ".json")
    return [file for file in files if file not in (both.keys() if whole else both.values())]


def _log_of(items: Path) -> Path:
    return items.with_name(items.name.removesuffix(_ITEMS) + ".json")


def log_source(path: Path, log: dict[str, Any]) -> Source:
    """Return the scores of a log."""
    results = _results(path, log)
    items = path.with_name(f"{path.stem}{_ITEMS}").exists()
    return Source(
        file=str(path),
        named={"method": "model_info.id", "task": "evaluation_name", "score": "score_details.score"},
        rows=[(line, [log["model_info"]["id"], one.task, one.score]) for line, one in enumerate(results, start=1)],
        facts={one.task: one.facts for one in results},
        said=[*_said("model_info.id", results), *["items beside the logs are not read"] * items],
    )


def items_source(path: Path) -> Source:
    """Return the results of a model on items, and what they measure by the log beside them."""
    log, checked = _log_of(path), _package("instance_level_types.InstanceLevelEvaluationLog")
    if not log.is_file():
        raise fault(f"lacks its log beside it, {log.name}, which says what is measured", str(path))
    results = _results(log, load(read_regular(log, MAX_BYTES), str(log)))
    tasks = {(one.name, one.result_id): one.task for one in results}

    def rows() -> Iterator[tuple[int, list[Any]]]:
        faults = Faults()
        for line, data in objects_in(path):
            try:
                if checked is not None:
                    checked.model_validate(data)
                key = data["evaluation_name"].strip(), data.get("evaluation_result_id")
                if key not in tasks:
                    raise ValueError(f"{log.name} has no result {' '.join(filter(None, key))}")
                row = [data["model_id"], tasks[key], data["sample_id"], data["evaluation"]["score"]]
            except _WRONG as error:
                faults.add(Fault(f"is no valid item of Every Eval Ever: {_why(error)}", str(path), line))
            else:
                yield line, row
        faults.refuse()

    return Source(
        file=str(path),
        named={"method": "model_id", "task": "evaluation_name", "item": "sample_id", "score": "evaluation.score"},
        rows=rows(),
        # The log may have the share of right items as a per cent.
        facts={one.task: replace(one.facts, scale=None) for one in results},
        said=[*_said("model_id", results), "items are those of the files beside the logs"],
    )


_WRONG = (ValueError, KeyError, TypeError, AttributeError)


def _results(path: Path, log: dict[str, Any]) -> list[Result]:
    """Return the results of a log. A task is an evaluation, or of several results of one each."""
    found = []
    try:
        if (checked := _package("eval_types.EvaluationLog")) is not None:
            checked.model_validate(log)
        number = Counter(of["evaluation_name"].strip() for of in log["evaluation_results"])
        for of in log["evaluation_results"]:
            name, result_id, metric = of["evaluation_name"].strip(), of.get("evaluation_result_id"), of["metric_config"]
            measure = plain(metric.get("metric_name") or "score")
            facts = TaskFacts(
                measure,
                not metric["lower_is_better"],
                _SCALES.get((metric.get("min_score"), metric.get("max_score")), "own"),
            )
            task = name if number[name] == 1 else f"{name} {result_id or measure}"
            found.append(Result(name, result_id, task, facts, of["score_details"]["score"]))
    except _WRONG as error:
        raise fault(f"is no valid log of Every Eval Ever: {_why(error)}", str(path)) from None
    return found


def _package(name: str) -> Any | None:
    """Return a model of the package `every_eval_ever`, or None where that is not installed."""
    module, model = name.split(".")
    try:
        return getattr(importlib.import_module(f"every_eval_ever.{module}"), model)
    except ImportError:
        return None


def _said(method: str, results: Sequence[Result]) -> list[str]:
    installed = _package("eval_types.EvaluationLog") is not None
    package = "the package `every_eval_ever`"
    checked = f"checked by {package}" if installed else f"not checked, as {package} is not installed"
    several = len({one.name for one in results}) < len(results)
    task = "`evaluation_name`" + " with a result's id, as some have several" * several
    return [f"Every Eval Ever, {checked}: the method is `{method}`, the task {task}"]


def _why(error: Exception) -> str:
    """Return what is wrong in a few words, of several faults the first."""
    if isinstance(error, ValidationError):
        first, *others = error.errors()
        more = f", and {len(others)} more" if others else ""
        return f"{'.'.join(map(str, first['loc'])) or 'all'}: {first['msg']}{more}"
    return f"there is no {error}" if isinstance(error, KeyError) else first_line(error)
