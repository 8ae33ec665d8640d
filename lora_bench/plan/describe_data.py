"""Describe the data of a plan: classes, repeats and lengths of each split, and the difference that the test split can show.

Every row is counted; lengths in tokens are those of a sample, so that a large data set costs a second and not minutes.
"""

import random
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.support.row_values import normal
from lora_bench.metrics import find
from lora_bench.models.loading import load_tokenizer, reads_apart
from lora_bench.models.registry import BaseModel
from lora_bench.plan.cell import Cell
from lora_bench.plan.inputs import LoadedTask
from lora_bench.records.budget import TARGETS
from lora_bench.suite.from_table import rows_needed, smallest_difference
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import Split
from lora_bench.tasks.examples import count_classes
from lora_bench.tasks.text_facts import contradicting, repeated, shared_texts, spread

# Of more tasks with one fault the first is shown.
MOST_WARNINGS = 5

if TYPE_CHECKING:
    from lora_bench.kinds.exercises.base_exercise import Exercise
    from lora_bench.kinds.exercises.predicting import Example

# Examples of a split that are encoded, and those with most characters that are encoded beside them for the longest.
SAMPLE, LONGEST = 1_000, 20


@dataclass(frozen=True, kw_only=True)
class SplitLengths:
    """Lengths of a split in tokens: of so many encoded examples, of which a share is cut."""

    encoded: int
    median: int
    longest: int
    cut_share: float


@dataclass(frozen=True, kw_only=True)
class DataLengths:
    """Lengths by split for base models that agree on them, with the number of tokens after which an input is cut."""

    models: tuple[str, ...]
    max_length: int
    splits: dict[str, SplitLengths]


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """Facts about a split.

    Args:
        classes: Examples (words, for tokens) of each class or label, in the order of their indexes; empty for other kinds.
        majority_share: Share of the most frequent one; None for other kinds.
        values: Smallest, mean and greatest label of a regression; None for other kinds.
        repeated: Examples whose text stands in an earlier example.
        contradicting: Texts with several classes.
        shared: Examples whose text stands in an example of another split, by the name of that split.
    """

    examples: int
    classes: dict[str, int]
    majority_share: float | None
    values: tuple[float, float, float] | None
    repeated: int
    contradicting: int
    shared: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts about the data of a task.

    Args:
        lengths: Lengths in tokens, of each base model that can run.
        smallest_difference: Smallest difference that the test split can show, by rule of thumb, where examples that belong
            together count once; None for other metrics than a share of right answers.
        margin: Difference that does not matter; None if there is none.
        tested: Independent examples that all seeds test, where each tests a fold of its own; the splits are those of the first.
    """

    task: str
    splits: dict[str, SplitFacts]
    lengths: tuple[DataLengths, ...]
    smallest_difference: float | None
    margin: float | None
    tested: int | None = None


def describe(suite: Suite, loaded: LoadedTask, models: Sequence[BaseModel], cells: Sequence[Cell]) -> DataFacts:
    """Return the facts about the data of a task; *cells* include the runs that wait."""
    data = loaded.data
    texts = {name: [normal(text) for text in split.texts] for name, split in data.splits.items()}
    shared = shared_texts(texts)
    splits = {
        name: _split_facts(
            split, texts[name], data.labels, {known: count for (of, known), count in shared.items() if of == name}
        )
        for name, split in data.splits.items()
    }
    lengths: list[DataLengths] = []
    for base_model in models:
        of_pair = [
            cell
            for cell in cells
            if cell.job.task.task == loaded.task.task and cell.job.base_model is base_model and cell.fit.reason is None
        ]
        rooms = sorted({(cell.job.spec.training.max_length, _written(cell)) for cell in of_pair})
        if rooms:
            lengths += _lengths(loaded, of_pair[0], rooms)
    return DataFacts(
        task=loaded.task.task,
        splits=splits,
        lengths=_by_agreement(lengths),
        smallest_difference=_smallest(suite, loaded),
        margin=_margin(suite, loaded),
        tested=_tests(suite, loaded) if loaded.data.folds else None,
    )


def odd_classes(tasks: Iterable[LoadedTask]) -> list[str]:
    """Return a warning for each task with a test split of one class, or with one label in two forms of Unicode."""
    warnings = []
    for loaded in tasks:
        labels, test = loaded.data.labels, loaded.data.splits.get("test")
        classes = count_classes(test, labels) if test is not None else {}
        present = [label for label, count in classes.items() if count]
        if len(labels) > 1 and len(present) == 1:
            warnings.append(
                f"{loaded.task.task}: test has the class {present[0]} alone, so no score tells models apart"
            )
        twins = [label for label in labels if (form := unicodedata.normalize("NFC", label)) != label and form in labels]
        if twins:
            warnings.append(f"{loaded.task.task}: {twins[0]} is two labels, in two forms of Unicode: write it in one")
    return warnings


def too_small(suite: Suite, tasks: Iterable[LoadedTask]) -> list[str]:
    """Return a warning for each test split that cannot show a difference as small as the margin."""
    if suite.content.score_on != "test" or suite.command[:1] == ("reproduce",):
        return []  # the test split of a published table is given
    warnings: list[str] = []
    for loaded in tasks:
        smallest, margin = _smallest(suite, loaded), _margin(suite, loaded)
        if smallest is not None and margin is not None and smallest > margin:
            groups = "groups of " if loaded.data.splits["test"].groups else ""
            tests = f"{_tests(suite, loaded):,} {groups}test examples"
            warnings.append(
                f"{loaded.task.task}: {tests} show differences of about {smallest:.2g} or more, so nothing as "
                f"small as the margin of {margin:g} can be decided; that takes about {rows_needed(margin):,} "
                "(if two models differ on a tenth of them)"
            )
    if len(warnings) > MOST_WARNINGS:
        return [warnings[0], f"so do those of {len(warnings) - 1} further tasks"]
    return warnings


def _smallest(suite: Suite, loaded: LoadedTask) -> float | None:
    metric = find(loaded.task.metric)
    if metric is None or metric.item_scores is None or "classification" not in loaded.task.kind_of.metric_kinds:
        return None
    return smallest_difference(_tests(suite, loaded))


def _tests(suite: Suite, loaded: LoadedTask) -> int:
    """Return the independent test examples of all seeds together: of one test split, or of the folds that they test."""
    folds = loaded.data.folds
    tested = {seed % len(folds) for seed in suite.content.every_seed} if folds else ()
    return sum(folds[fold]["test"] for fold in tested) or loaded.data.splits["test"].independent


def _margin(suite: Suite, loaded: LoadedTask) -> float | None:
    return suite.analysis.margin_of(loaded.task.task, loaded.task.metric) if suite.analysis is not None else None


def _written(cell: Cell) -> int:
    """Return the tokens that an input to be answered leaves free for its answer; none where an encoder reads it apart."""
    decoding = cell.job.spec.decoding
    return 0 if decoding is None or reads_apart(cell.job.base_model.model_type) else decoding.max_new_tokens


def _lengths(loaded: LoadedTask, cell: Cell, rooms: Sequence[tuple[int, int]]) -> list[DataLengths]:
    """Return the lengths of a task's splits for a base model, for each pair of a length and what an answer takes of it."""
    base_model = cell.job.base_model
    made = exercise(loaded.task, load_tokenizer(base_model), cell.job.spec)
    counted = {name: _token_counts(split, made, train=name == "train") for name, split in loaded.data.splits.items()}
    return [
        DataLengths(
            models=(base_model.name,),
            max_length=max_length,
            splits={
                name: SplitLengths(
                    encoded=len(counts),
                    median=spread(counts)[0],
                    longest=longest,
                    cut_share=0.0
                    if loaded.task.kind_of.reads_all
                    else sum(count > max_length - (written if name != "train" else 0) for count in counts)
                    / len(counts),
                )
                for name, (counts, longest) in counted.items()
            },
        )
        for max_length, written in rooms
    ]


def _token_counts(split: Split, made: "Exercise", *, train: bool) -> tuple[list[int], int]:
    """Return the tokens of a sample of a split, and those of its longest example."""
    everything = range(len(split.ids))
    places = everything if len(everything) <= SAMPLE else sorted(random.Random(0).sample(everything, SAMPLE))
    counts = _counts(made.whole(_part(split, places), train=train))
    if len(places) == len(everything):
        return counts, max(counts)
    largest = sorted(everything, key=lambda place: -sum(map(len, split.texts[place])))[:LONGEST]
    return counts, max(counts + _counts(made.whole(_part(split, largest), train=train)))


def _counts(examples: "Sequence[Example]") -> list[int]:
    """Return the tokens of each example; those of the longer, if its input and its text to write are apart."""
    return [max(len(example["input_ids"]), len(example.get(TARGETS, ()))) for example in examples]


def _part(split: Split, places: Sequence[int]) -> Split:
    labels = [split.labels[place] for place in places]
    return Split([split.ids[place] for place in places], [split.texts[place] for place in places], labels)  # type: ignore[arg-type]


def _by_agreement(lengths: Sequence[DataLengths]) -> tuple[DataLengths, ...]:
    """Return the lengths with one entry for all base models that have the same."""
    found: list[DataLengths] = []
    for one in lengths:
        same = next((other for other in found if replace(other, models=one.models) == one), None)
        if same is None:
            found.append(one)
        else:
            found[found.index(same)] = replace(same, models=(*same.models, *one.models))
    return tuple(found)


def _split_facts(split: Split, texts: Sequence[str], labels: Sequence[str], shared: dict[str, int]) -> SplitFacts:
    classes = count_classes(split, labels)
    numbers = [value for value in split.labels if isinstance(value, float)]
    return SplitFacts(
        examples=len(split.ids),
        classes=classes,
        majority_share=max(classes.values()) / sum(classes.values()) if classes else None,
        values=(min(numbers), sum(numbers) / len(numbers), max(numbers)) if numbers else None,
        repeated=repeated(texts),
        contradicting=contradicting(texts, split.labels) if labels else 0,
        shared=shared,
    )
