"""Examples encoded for a model, and scores of its predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.support.row_values import Split
from lora_bench.metrics import HUB, find, metric, unavailable
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.examples import TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> tuple[list[dict[str, list[int]]], float]:
    """Encode the examples of a split for a model, cut to *max_length* tokens and not padded.

    Returns:
        For each example its `input_ids`, `attention_mask` and the tokenizer's other values, each of the example's own length;
        and the share of examples that were cut.
    """
    texts = [list(column) for column in zip(*split.texts, strict=True)]
    if not texts:
        return [], 0.0
    batch = tokenizer(*texts, truncation=True, max_length=max_length, padding=False)
    columns = {name: list(values) for name, values in batch.items()}
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if tokenizer.is_fast:
        cut = sum(bool(encoding.overflowing) for encoding in batch.encodings)
    else:
        whole = tokenizer(*texts, truncation=False, padding=False, verbose=False)["input_ids"]
        cut = sum(len(ids) > max_length for ids in whole)
    return examples, cut / len(examples)


@dataclass(frozen=True)
class Likelihood:
    """How likely the right text of an example is to a model: minus the log probability of its tokens, and their number."""

    nats: float
    tokens: int


def score(
    task: Task,
    references: Sequence[Any],
    predictions: Sequence[Any],
    likelihoods: Sequence[Likelihood] = (),
    probabilities: Sequence[Sequence[float]] = (),
) -> dict[str, float]:
    """Return the task's metrics on predictions: class indexes, numbers, texts, lists of words' labels or of label indexes.

    Answers that stand in a text are texts here; see `TaskKind.as_scored`. References are those of `Split.labels`. Predictions,
    *likelihoods* of the right text of each example, or *probabilities* of classes may be left out if no metric reads them.

    Returns:
        Values by the metrics' names, without undefined ones, such as a correlation with a constant, and without those that
        this machine cannot compute (`unavailable_metrics`).

    Raise LoraBenchError if a metric is a script that the task does not allow (`Task.allowing`), or has changed since.
    """
    references = [list(each) if isinstance(each, tuple) else each for each in references]
    found: dict[str, float] = {}
    for name in task.all_metrics:
        if unavailable(name) is not None:
            continue
        declared = find(name)
        options = {} if declared is None else declared.options(len(task.labels or ()))
        scorer = metric(name, _allowed(task, name)) if name.startswith(HUB) else metric(name)
        right, given = list(references), list(predictions)
        if declared is not None and declared.kind == "likelihood":
            right, given = [one.tokens for one in likelihoods], [one.nats for one in likelihoods]
        if declared is not None and declared.kind == "probabilities":
            if not probabilities:
                continue
            given = list(probabilities)
        values = scorer.compute(references=right, predictions=given, **options) or {}
        found |= {name: float(value) for name, value in values.items() if value is not None}
    return found


def _allowed(task: Task, name: str) -> str:
    """The hash of the code that may run for a metric that is a script."""
    from lora_bench.metrics.support.hub_metric import script_name

    script = script_name(name)
    if script not in task.allowed_code:
        raise LoraBenchError(f"metric {name!r} of task {task.task} is code that was not allowed to run")
    return task.allowed_code[script]


def split_scores(
    task: Task,
    split: Split,
    predictions: Sequence[Any],
    prefix: str = "",
    likelihoods: Sequence[Likelihood] = (),
    probabilities: Sequence[Sequence[float]] = (),
) -> dict[str, float]:
    """Return the scores of a split and its subsets, as `score` does; names have the *prefix*, or the subset's, and a slash."""
    before = f"{prefix.rstrip('/')}/" if prefix else ""
    right, answers = task.kind_of.as_scored(split, predictions)
    found = {
        f"{before}{name}": value for name, value in score(task, right, answers, likelihoods, probabilities).items()
    }
    for subset, places in split.subsets.items():
        of_each = [_at(places, of) for of in (answers, likelihoods, probabilities)]
        values = score(task, _at(places, right), *of_each)
        found |= {f"{before}{subset}/{name}": value for name, value in values.items()}
    return found


def _at(places: Sequence[int], items: Sequence[Any]) -> list[Any]:
    """Return the items at these places; none if there are none at all."""
    return [items[place] for place in places] if items else []


def item_scores(task: Task, split: Split, predictions: Sequence[Any]) -> dict[str, list[float]]:
    """Return the score of each item by each metric that is a mean over items with texts, rounded to 6 decimals."""
    right, given = task.kind_of.as_scored(split, predictions)
    found = {name: find(name) for name in task.all_metrics}
    return {
        name: [round(metric_.of_item(*pair), 6) for pair in zip(right, given, strict=True)]
        for name, metric_ in found.items()
        if metric_ is not None and metric_.of_item is not None
    }


def unavailable_metrics(task: Task) -> list[str]:
    """Return why this machine cannot compute some of the task's metrics, a sentence for each."""
    return [reason for reason in map(unavailable, task.all_metrics) if reason is not None]


def majority_score(task: Task, data: TaskData, split: str) -> float | None:
    """Return the score of training's most frequent class or label, or mean, if defined; None where texts are written."""
    constant = task.kind_of.constant(data.splits["train"], data.splits[split])
    if constant is None:
        return None
    right, answers = task.kind_of.as_scored(data.splits[split], constant)
    alike = [[1 / max(1, len(data.labels))] * len(data.labels)] * len(right)
    return score(task, right, answers, probabilities=alike).get(task.metric)
