"""Every Eval Ever: the log of a model, `NAME.json`, and beside it its results on items, `NAME_samples.jsonl`.

Both are checked by its own package where that is installed. Of several results of one evaluation each is a task.
"""

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_bench.errors import Fault, first_line
from lora_bench.exchange.scores.collect import Scale, Source, TaskFacts
from lora_bench.exchange.scores.columns import plain
from lora_bench.exchange.scores.tables import MAX_BYTES, Faults, fault, load, objects_in
from lora_bench.util.regular_files import MIB, read_regular, read_start

_ITEMS = "_samples.jsonl"
_SCALES: dict[tuple[Any, Any], Scale] = {(0, 1): "share", (-1, 1): "share", (0, 100): "percent"}


def is_items(path: Path) -> bool:
    """Tell if a file has results on items, by its name and first line."""
    first = read_start(path, MIB).partition(b"\n")[0] if path.name.endswith(_ITEMS) else b""
    return all(key in first for key in (b'"evaluation_id"', b'"sample_id"', b'"evaluation"'))


def items_or_logs(files: Sequence[Path]) -> list[Path]:
    """Leave out logs whose results on items are all there, else these results: items of some compare no others."""
    items = {log: file for file in files if is_items(file) and (log := _log_of(file)) in files}
    whole = all(file in items for file in files if file.suffix == ".json")
    return [file for file in files if file not in (items.keys() if whole else items.values())]


def _log_of(items: Path) -> Path:
    return items.with_name(items.name.removesuffix(_ITEMS) + ".json")


def log_source(path: Path, data: dict[str, Any]) -> Source:
    """Return the scores of a log."""
    _, log = _read(path, data)
    items = path.with_name(f"{path.stem}{_ITEMS}").exists()
    return replace(log, said=[*log.said, "items beside the logs are not read"]) if items else log


def items_source(path: Path) -> Source:
    """Return the results of a model on items, and what they measure by the log beside them."""
    beside, checked = _log_of(path), _package("instance_level_types.InstanceLevelEvaluationLog")
    if not beside.is_file():
        raise fault(f"lacks its log beside it, {beside.name}, which says what is measured", str(path))
    tasks, log = _read(beside, load(read_regular(beside, MAX_BYTES), str(beside)))

    def rows() -> Iterator[tuple[int, list[Any]]]:
        faults = Faults()
        for line, data in objects_in(path):
            try:
                if checked is not None:
                    checked.model_validate(data)
                key = data["evaluation_name"].strip(), data.get("evaluation_result_id")
                if key not in tasks:
                    raise ValueError(f"{beside.name} has no result {' '.join(filter(None, key))}")
                row = [data["model_id"], tasks[key], data["sample_id"], data["evaluation"]["score"]]
            except _WRONG as error:
                faults.add(Fault(f"is no valid item of Every Eval Ever: {_why(error)}", str(path), line))
            else:
                yield line, row
        faults.refuse()

    named = {"method": "model_id", "task": "evaluation_name", "item": "sample_id", "score": "evaluation.score"}
    # The log may have the share of right items as a per cent.
    facts = {task: replace(of, scale=None) for task, of in log.facts.items()}
    said = [*log.said, "the item is `sample_id`"]
    return Source(file=str(path), named=named, rows=rows(), facts=facts, said=said)


_WRONG = (ValueError, KeyError, TypeError, AttributeError)


def _read(path: Path, data: dict[str, Any]) -> tuple[dict[tuple[str, str | None], str], Source]:
    """Check a log; return its tasks by evaluation and id of a result, and its scores. Several results of one are tasks each."""
    checked, tasks, facts, rows = _package("eval_types.EvaluationLog"), {}, {}, []
    package = "the package `every_eval_ever`"
    words = f"checked by {package}" if checked is not None else f"not checked, as {package} is not installed"
    try:
        if checked is not None:
            checked.model_validate(data)
        number = Counter(of["evaluation_name"].strip() for of in data["evaluation_results"])
        for line, of in enumerate(data["evaluation_results"], start=1):
            name, result_id, metric = of["evaluation_name"].strip(), of.get("evaluation_result_id"), of["metric_config"]
            measure = plain(metric.get("metric_name") or "score")
            scale = _SCALES.get((metric.get("min_score"), metric.get("max_score")), "own")
            tasks[name, result_id] = task = name if number[name] == 1 else f"{name} {result_id or measure}"
            facts[task] = TaskFacts(measure, not metric["lower_is_better"], scale)
            rows.append((line, [data["model_info"]["id"], task, of["score_details"]["score"]]))
    except _WRONG as error:
        raise fault(f"is no valid log of Every Eval Ever: {_why(error)}", str(path)) from None
    named = {"method": "model_info.id", "task": "evaluation_name", "score": "score_details.score"}
    said = [f"Every Eval Ever, {words}: the method is the model's id, the task `evaluation_name`"]
    return tasks, Source(file=str(path), named=named, rows=rows, facts=facts, said=said)


def _package(name: str) -> Any | None:
    """Return a model of the package `every_eval_ever`, or None where that is not installed."""
    module, model = name.split(".")
    try:
        return getattr(importlib.import_module(f"every_eval_ever.{module}"), model)
    except ImportError:
        return None


def _why(error: Exception) -> str:
    """Return what is wrong in a few words, of several faults the first."""
    if isinstance(error, ValidationError):
        first, *others = error.errors()
        more = f", and {len(others)} more" if others else ""
        return f"{'.'.join(map(str, first['loc'])) or 'all'}: {first['msg']}{more}"
    return f"there is no {error}" if isinstance(error, KeyError) else first_line(error)
