"""Score adapters on the test rows of a task with their base model loaded once.

Each adapter is put on a copy of the base model and answers all rows in full batches, as a run scores itself: its answers are
those of the adapter alone, to the bit. Batches of several adapters would save nothing here, as every adapter reads every row.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_bench.documents import read_yaml
from lora_bench.errors import LoraBenchError
from lora_bench.fleet.find_adapters import FoundAdapter, find_adapters
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.labelling import USUAL, labels_above
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.metrics import find
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.models.loading import load_model, load_tokenizer
from lora_bench.models.read_position import read_alone
from lora_bench.models.registry import LOCAL, BaseModel, find_model
from lora_bench.plan.resolve import model_spec
from lora_bench.records.kept_adapter import WEIGHTS
from lora_bench.records.spec import Decoding, MethodSpec, PlannedSpec, PlannedTask, PlannedTraining, Settings
from lora_bench.stats.items import ItemScores
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.schema import Training
from lora_bench.tasks import Split, Task, TaskData, find_folder, in_folder, load_data, load_task
from lora_bench.tasks.declaration import definition
from lora_bench.tasks.load_task import task_from_document
from lora_bench.training.kept_weights import open_adapter, open_whole
from lora_bench.training.predict import seed_of
from lora_bench.training.prepare import device_of_runs
from lora_bench.training.scoring import scores_of
from lora_bench.training.winner import base_for
from lora_bench.tuners.trial import is_in
from lora_bench.util.paths import task_files
from lora_bench.util.regular_files import tensor_headers

Say = Callable[[str], None]


@dataclass(frozen=True)
class ScoredAdapter:
    """An adapter with its scores by metric, and of each item if the task's metric is a mean over items."""

    adapter: FoundAdapter
    scores: Mapping[str, float]
    items: Sequence[float] | None


@dataclass(frozen=True)
class ScoreSheet:
    """Scores of adapters on one split of a task, the best first, and the folders that could not be scored, with the reason."""

    task: Task
    base: BaseModel
    split: str
    ids: Mapping[int | None, Sequence[str]]
    scored: Sequence[ScoredAdapter]
    refused: Mapping[str, str]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows for `lora-bench judge`: one for each item, or for each adapter if the metric is no mean of items."""
        for one in self.scored:
            own = {
                "method": one.adapter.method,
                "task": self.task.task,
                "base_model": self.base.shown,
                "seed": one.adapter.seed,
            }
            name = self.task.metric
            if one.items is None:
                yield {**own, name: one.scores[name]}
                continue
            ids = self.ids[self.task.fold_of(one.adapter.seed)]
            for item, score in zip(ids, one.items, strict=True):
                yield {**own, "item": item, name: score}


def score_adapters(
    folders: Sequence[Path],
    task: str,
    *,
    base: str | None = None,
    split: str = "test",
    data_dir: Path | None = None,
    max_length: int | None = None,
    say: Say = lambda said: None,
) -> ScoreSheet:
    """Score the adapters in folders on a task, given by its name, its YAML file, or a suite that has it alone.

    Args:
        folders: Of an adapter each, or of folders with one.
        task: Name or file of the task.
        base: Name or folder of the base model; by default the one of the first adapter.
        split: "test" or "selection".
        data_dir: Folder with published data sets in their usual layout.
        max_length: Tokens after which a text is cut for adapters made elsewhere; by default that of the runs beside them, or a
            suite's default.
        say: Function called with a line for each adapter, and with notes.

    Raise LoraBenchError if the task or the base model is not here, or no adapter can be scored.
    """
    refused: dict[str, str] = {}
    found: list[FoundAdapter] = []
    for one in find_adapters(folders):
        if isinstance(one, FoundAdapter):
            found.append(one)
        else:
            refused[one[0]] = one[1]
    if not found:
        raise LoraBenchError("\n".join(f"{folder} {why}" for folder, why in refused.items()))
    declared, place = _task(task, data_dir)
    with quiet():
        scorer = _Scorer(declared, place, _base(found, base), split, base is not None, _usual(found, max_length))
        scored = []
        for number, adapter in enumerate(found, start=1):
            try:
                one_scored = scorer.score(adapter, say)
            except LoraBenchError as error:
                refused[adapter.given] = str(error).removeprefix(str(adapter.folder)).lstrip(": ")
            else:
                scored.append(one_scored)
                say(
                    f"{number} of {len(found)}: {adapter.name}, {declared.metric} {one_scored.scores[declared.metric]:.4f}"
                )
    if not scored:
        raise LoraBenchError("\n".join(f"{folder} {why}" for folder, why in refused.items()))
    sign = -1 if declared.higher_is_better is not False else 1
    scored.sort(key=lambda one: sign * one.scores[declared.metric])
    ids = {fold: data.splits[split].ids for fold, data in scorer.read.items()}
    return ScoreSheet(declared, scorer.base, split, ids, scored, refused)


def _task(name: str, data_dir: Path | None) -> tuple[Task, Path]:
    """Return a task and the folder of its paths."""
    if name in task_files() or not Path(name).suffix:
        task, place = load_task(name), task_files()[name].parent
    elif "tasks" in (document := read_yaml(Path(name))).data:
        tasks = load_suite(name).tasks
        if len(tasks) > 1:
            raise LoraBenchError(
                f"{name} has {len(tasks)} tasks, and adapters are scored on one: name it, or its own file"
            )
        ((task, place),) = tasks
    else:
        task, place = task_from_document(document, base=Path(name).parent), Path(name).parent
    if data_dir is not None and task.local is not None:
        place = find_folder(task, data_dir)
        return in_folder(task, place), place
    return task, place


def _base(found: Sequence[FoundAdapter], base: str | None) -> BaseModel:
    """Return the base model that is named, or the one of the first adapter."""
    first = found[0]
    if base is not None:
        return find_model(base, base=Path())
    if first.kept is None:
        named = str(first.config.get("base_model_name_or_path") or "")
        if not named:
            raise LoraBenchError(f"{first.given} does not name its base model: give --base MODEL")
        return find_model(named.removeprefix(LOCAL), base=Path(), revision=first.config.get("revision"))
    if first.kept.beside is not None:
        return find_model(str(first.kept.beside.absolute()), base=Path())
    return base_for(first.kept.spec)


def _usual(found: Sequence[FoundAdapter], max_length: int | None) -> Training:
    """Return the settings with which adapters made elsewhere answer: the greatest length of the runs beside them."""
    of_runs = [one.kept.spec.training.max_length for one in found if one.kept is not None]
    length = max_length or max(of_runs, default=None)
    return Training() if length is None else Training(max_length=length)


class _Scorer:
    """Scores adapters of one base model; *read* has the data by fold, and the base is loaded once for each precision."""

    def __init__(self, task: Task, place: Path, base: BaseModel, split: str, vouched: bool, usual: Training) -> None:
        self.task, self.place, self.base, self.split = task, place, base, split
        self.vouched, self.usual = vouched, usual
        self.read: dict[int | None, TaskData] = {}
        self.tokenizer = load_tokenizer(base)
        self.loaded = functools.cache(self._load)

    def score(self, adapter: FoundAdapter, say: Say) -> ScoredAdapter:
        """Return the scores of an adapter. Raise LoraBenchError if it is not of this base, task or form."""
        adapter.check_base(self.base, vouched=self.vouched)
        fold = self.task.fold_of(adapter.seed)
        if fold is not None and adapter.kept is None:
            raise LoraBenchError(
                f"says of no fold which rows it has not seen, and {self.task.task} tests folds by seed"
            )
        if fold not in self.read:
            self.read[fold] = load_data(self.task, self.place, fold=fold)
        data = self.read[fold]
        if self.split not in data.splits:
            raise LoraBenchError(f"task {self.task.task} has no {self.split} split")
        spec = self._spec(adapter, data)
        if (kept := adapter.kept) is not None and _other_split(kept.spec, self.task, data):
            say(
                f"{adapter.name} was trained on another split of {self.task.task}: test rows may be among those it has seen"
            )
        model = self._opened(adapter, spec, data)
        return ScoredAdapter(adapter, *self._answers(model, spec, data, None if kept is None else kept.threshold))

    def _spec(self, adapter: FoundAdapter, data: TaskData) -> PlannedSpec:
        """Return how an adapter answers: as its run did, on this task."""
        task = PlannedTask(
            name=self.task.task,
            definition=definition(self.task),
            data_sha256=data.sha256,
            labels=data.labels,
            metric=self.task.metric,
            higher_is_better=self.task.higher_is_better,
        )
        if adapter.kept is not None:
            kind = adapter.kept.task.kind
            if kind != self.task.kind:
                raise LoraBenchError(f"was trained for {kind}, and {self.task.task} is {self.task.kind}")
            spec = adapter.kept.spec.model_copy(update={"task": task})
        else:
            own = {name: getattr(self.usual, name) for name in Settings.model_fields}
            spec = PlannedSpec(
                task=task,
                model=model_spec(self.base),
                method=MethodSpec(name="peft", label=adapter.method, size=None, options={}, chosen={}),
                training=PlannedTraining(
                    **own,
                    train_examples=None,
                    steps=None,
                    learning_rate=0.0,
                    warmup_steps=None,
                    threads=1,
                    arguments={},
                ),
                seed=adapter.seed,
            )
        if self.task.writes and spec.decoding is None:
            new = min(Decoding().max_new_tokens, spec.training.max_length // 2)
            spec = spec.model_copy(update={"decoding": Decoding(max_new_tokens=new)})
        return spec

    def _load(self, precision: Any) -> tuple[nn.Module, list[str]]:
        labels = len(next(iter(self.read.values())).labels)
        model, head = load_model(self.base, kind=self.task.kind_of.model_kind, labels=labels, precision=precision)
        model.float().config.pad_token_id = self.tokenizer.pad_token_id
        return model, head

    def _opened(self, adapter: FoundAdapter, spec: PlannedSpec, data: TaskData) -> nn.Module:
        """Return a copy of the base model with the adapter, whose logits are in the order of the task's labels."""
        base, head = self.loaded(spec.training.base_precision)
        own = None if adapter.kept is None else adapter.kept.spec.task.labels
        order = _order(own, data.labels)
        loaded = copy.deepcopy(base)
        if adapter.weights is None:
            model = open_whole(loaded, adapter.folder)
        else:
            headers = tensor_headers(adapter.folder / WEIGHTS, str(adapter.folder / WEIGHTS))
            lacking = [module for module in head if not any(is_in(name, [module]) for name in headers)]
            if lacking:
                raise LoraBenchError(f"has no head ({lacking[0]}) among its weights, and the base model's is random")
            model = open_adapter(loaded, adapter.folder)
        if spec.training.last_layer == "read_position" and self.task.kind_of.reads_one_token:
            read_alone(model, self.base.model_type)
        if order is not None:
            model.register_forward_hook(functools.partial(_reordered, order))
        return model.to(device_of_runs()).eval()

    def _answers(
        self, model: nn.Module, spec: PlannedSpec, data: TaskData, threshold: float | None
    ) -> tuple[dict[str, float], Sequence[float] | None]:
        torch.set_num_threads(spec.training.threads)
        split = data.splits[self.split]
        made = exercise(self.task, self.tokenizer, spec, seed_of(spec))
        questions, _ = made.questions(split)
        replies = made.answers(model, questions)
        if self.task.kind_of.takes_threshold:
            assert replies.logits is not None
            replies = replace(replies, answers=labels_above(replies.logits, USUAL if threshold is None else threshold))
        scores = scores_of(self.task, data, {self.split: replies})
        if self.task.metric not in scores:
            raise LoraBenchError(f"has no {self.task.metric} on these rows: it is undefined for its answers")
        return scores, _items(self.task, split, replies.answers, len(data.labels))


def _items(task: Task, split: Split, answers: Sequence[Any], classes: int) -> Sequence[float] | None:
    """Return the score of each item, or None if the task's metric is no mean over items."""
    facts = find(task.metric)
    if facts is None or not facts.of_items or not answers:
        return None
    right, given = task.kind_of.as_scored(split, answers)
    scores = item_metric(task.metric, right, {0: given}, classes=classes or None)
    return scores.values[0].tolist() if isinstance(scores, ItemScores) else None


def _order(own: Sequence[str] | None, labels: Sequence[str]) -> list[int] | None:
    """Return the place of each of the task's labels among an adapter's own, or None if both are in one order."""
    if own is None or tuple(own) == tuple(labels):
        return None
    if sorted(own) != sorted(labels):
        raise LoraBenchError(f"answers with the labels {', '.join(own)}, and the task has {', '.join(labels)}")
    return [list(own).index(label) for label in labels]


def _reordered(order: Sequence[int], _model: nn.Module, _inputs: Any, output: Any) -> Any:
    output["logits"] = output["logits"][..., list(order)]
    return output


def _other_split(spec: PlannedSpec, task: Task, data: TaskData) -> bool:
    """Return True if a run had the same data as the task, or another state of it, in other splits."""
    if task.task != spec.task.name and data.sha256 != spec.task.data_sha256:
        return False
    return data.sha256 != spec.task.data_sha256 or spec.task.definition.get("split") != definition(task).get("split")
