"""Find the columns of a table of scores by their names: method, task, seed, score. Each guess is said in a line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.records.record import MOST_SCORE

Head = Mapping[str, Sequence[Any]]
"""The first values of each column."""

# So many columns that are not read are named.
SHOWN_COLUMNS = 10
# Names of columns in the order of preference, in lower case and with `_` between words.
_NAMES = {
    "method": "method algorithm approach peft_method method_name adapter system framework model_name model name label "
    "experiment",
    "task": "task dataset task_name dataset_name benchmark evaluation_name data subset environment env",
    "base_model": "base_model backbone pretrained_model base model_name_or_path model model_name",
    "seed": "seed random_seed random_state run replicate repetition repeat rep trial fold split",
    "item": "item item_id example_id doc_id question_id sample_id instance_id example question",
    "measure": "measure metric metric_name measure_name",
}
# What a cost is called, by any word of the name, in the order of preference; a moment or a rate is none.
_COSTS = (
    "cost", "price", "usd", "dollars", "eur", "seconds", "secs", "sec", "hours", "hour", "minutes", "runtime", "duration",
    "time", "kwh", "energy",
)  # fmt: skip
_NO_COSTS = {"start", "end", "date", "step", "steps", "per", "tokens", "examples", "samples", "iterations", "it"}
_SCORES = (
    "score", "accuracy", "acc", "acc_norm", "f1", "macro_f1", "exact_match", "em", "correct", "is_correct",
    "matthews_correlation", "mcc", "auc", "auroc", "roc_auc", "pearson", "spearman", "rouge_l", "rouge_1", "rouge_2", "bleu",
    "chrf", "pass_at_1", "win_rate", "reward", "value", "metric_value", "result", "loss", "perplexity", "ppl", "error",
    "error_rate", "rmse", "mae",
)  # fmt: skip
_SAME = {"acc": "accuracy", "mcc": "matthews_correlation", "matthews_corrcoef": "matthews_correlation"}
_SET = re.compile(r"^(?:(?:test|eval|evaluation|final|mean|best|valid|validation|val|dev)_)+")
# Numbers of a wide table that are no scores of a task, by any word of the name.
_NO_SCORES = {
    "avg", "average", "mean", "macro", "std", "sd", "stderr", "ci", "n", "count", "rank", "params", "parameters", "param",
    "trainable", "time", "seconds", "sec", "memory", "mem", "gb", "mb", "bytes", "flops", "cost", "lr", "rate", "epoch",
    "epochs", "step", "steps", "batch", "size", "alpha", "dropout", "index", "idx", "id", "unnamed", "version", "year", "date",
    "timestamp", "overall", "total", *_COSTS,
}  # fmt: skip
_LOWER = re.compile(r"(?:^|_)(?:loss|perplexity|ppl|error|err|rmse|mae|mse|wer|cer|ter|fid|nll|bits|latency)(?:_|$)")


@dataclass(frozen=True, kw_only=True)
class AskedColumns:
    """The user's own answers in place of guesses: names of columns, of scores also several, one for each task."""

    method: str | None = None
    task: str | None = None
    base_model: str | None = None
    seed: str | None = None
    item: str | None = None
    cost: str | None = None
    score: tuple[str, ...] = ()
    lower_is_better: bool | None = None


@dataclass(frozen=True)
class ChosenColumns:
    """The column of each kind that a table has, the columns of scores, and a sentence for each."""

    columns: Mapping[str, str]
    scores: tuple[str, ...]
    said: tuple[str, ...]


def plain(name: str) -> str:
    """Return a column's name in lower case, with `_` between words and without the part of the data in front."""
    return re.sub(r"[^a-z0-9@]+", "_", name.lower()).strip("_").replace("@", "_at_")


def lower_is_better(name: str) -> bool:
    """Tell if a score is one of which less is better, by its name."""
    return _LOWER.search(plain(name)) is not None


def known_metric(name: str) -> str:
    """Return the one name of a metric that has several."""
    return _SAME.get(plain(name), name)


def choose(head: Head, asked: AskedColumns) -> ChosenColumns:
    """Choose the columns of a table. Raise LoraBenchError if there is none for the method or the score, or none so named."""
    found: dict[str, str] = {}
    said = []
    for own in (*asked.score, *(getattr(asked, kind) for kind in (*_NAMES, "cost") if kind != "measure")):
        if own is not None and own not in head:
            raise unknown("column", own, head)
    for kind in (one.name for one in fields(AskedColumns) if one.name in _NAMES):
        own = getattr(asked, kind)
        named = own or _named(head, _NAMES[kind].split(), [*found.values(), *asked.score])
        # The words of a column "split" are test and train.
        if named is not None and (own or plain(named) != "split" or _numbers(head[named])):
            found[kind] = named
            said.append(f"{kind.replace('_', ' ')}: column `{named}`")
    if "method" not in found:
        raise LoraBenchError(f"no column is named like a method ({', '.join(head)}); say it with --method COLUMN")
    scores = asked.score or _scores(head, {**found, "cost": asked.cost or ""})
    if not scores:
        for name in _known_scores(head, any):
            known = next(value for value in head[name] if value is not None)
            raise LoraBenchError(f"{known!r} in column `{name}` is no number; write it like 81.29")
        raise LoraBenchError(
            f"no column of numbers is named like a score ({', '.join(head)}); say it with --score COLUMN"
        )
    if len(scores) > 1:
        if "task" in found:
            raise LoraBenchError(
                f"there are {len(scores)} columns of scores beside the tasks in `{found['task']}`: say one with --score COLUMN"
            )
        said.append(f"tasks: columns {', '.join(f'`{name}`' for name in scores)}")
    else:
        said.append(f"score: column `{scores[0]}`")
        measure = _named(head, _NAMES["measure"].split(), [*found.values(), *scores])
        if measure is not None and not _numbers(head[measure]):
            found["measure"] = measure
            said.append(f"what each task's score is: column `{measure}`")
    if (cost := asked.cost or _cost(head, {*found.values(), *scores})) is not None:
        found["cost"] = cost
        said.append(f"cost: column `{cost}`, the mean of a method's runs; no verdict is about it")
    others = [f"`{name}`" for name in head if name not in (*scores, *found.values())]
    more = [f"{len(others) - SHOWN_COLUMNS} more"] if len(others) > SHOWN_COLUMNS else []
    said += [f"columns not read: {', '.join([*others[:SHOWN_COLUMNS], *more])}"] if others else []
    return ChosenColumns(found, scores, tuple(said))


def _named(head: Head, names: Sequence[str], taken: Collection[str]) -> str | None:
    known = {plain(name): name for name in reversed([*head]) if name not in taken}
    return next((known[name] for name in names if name in known), None)


def _cost(head: Head, taken: Collection[str]) -> str | None:
    """Return the column of costs: named so, and without a value that is none."""
    found = {}
    for name, values in head.items():
        known = [number_in(value) for value in values if value is not None]
        if known and min(known) >= 0 and max(known) < math.inf and name not in taken:
            found[name] = {*plain(name).split("_")}
    return next((name for word in _COSTS for name, of in found.items() if word in of and not _NO_COSTS & of), None)


def _known_scores(
    head: Head, holds: Callable[[Sequence[Any]], bool] = lambda values: any(map(_is_number, values))
) -> list[str]:
    """Return the columns that are named like a score and whose values hold, in the order of preference."""
    bare = {name: {plain(name), _SET.sub("", plain(name))} for name in head}
    found = dict.fromkeys(name for word in _SCORES for name in head if word in bare[name])
    return [name for name in found if holds(head[name])]


def _scores(head: Head, found: Mapping[str, str]) -> tuple[str, ...]:
    """Return the column of scores: the first that is named like one, else all numbers, one for each task."""
    known = [name for name in _known_scores(head) if name not in found.values()]
    numbers = [
        name
        for name, values in head.items()
        if name not in found.values() and _numbers(values) and not _NO_SCORES & set(plain(name).split("_"))
    ]
    if known or "task" in found:
        return tuple([*known, *(numbers if len(numbers) == 1 else [])][:1])
    return tuple(numbers)


def _numbers(values: Sequence[Any]) -> bool:
    """Tell if most of the values that are there are numbers."""
    known = [value for value in values if value is not None]
    return 2 * sum(map(_is_number, known)) > len(known)


def _is_number(cell: Any) -> bool:
    return math.isfinite(number_in(cell))


def number_in(cell: Any) -> float:
    """Return the number of a cell, of true and false 1 and 0; NaN for an empty one, and infinity for what is no score."""
    if cell is None:
        return math.nan
    word = cell.strip().lower() if isinstance(cell, str) else cell
    try:
        number = float({"true": 1, "false": 0}.get(word, word))
    except (ValueError, TypeError):
        return math.inf
    return number if abs(number) <= MOST_SCORE and "_" not in str(word) else math.inf
