"""The answers of each row's runs to the test items, where their predictions are stored, and the scores that follow.

    Comparison + predictions → {run ids: GivenAnswers} → scores by class, errors, and the items that methods answer differently

Trials are left out: they choose, and are no results.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_bench.kinds import known_kinds
from lora_bench.metrics import find
from lora_bench.metrics.multilabel_macro_f1 import weighted_macro_f1
from lora_bench.metrics.support.label_arrays import are_label_sets, label_arrays
from lora_bench.metrics.support.tags import UNTYPED, entities, is_tag, type_of
from lora_bench.records.spec import TaskSpec
from lora_bench.records.store import Answers
from lora_bench.report import text
from lora_bench.report.model.comparison import Comparison, ModelTable
from lora_bench.report.model.rows import Row
from lora_bench.report.model.seed_scores import AnswersOf
from lora_bench.stats import Summary, summarise
from lora_bench.stats.class_scores import (
    Classes,
    brier_score,
    calibration_error,
    confusion,
    mean_of_classes,
    precision_recall_f1,
)
from lora_bench.stats.items import Floats

# A confusion matrix of more classes takes too much memory.
MOST_CLASSES = 1_000

# Classes that a sentence names.
MOST_TOLD = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenAnswers:
    """The answers of the runs of a row that have a score.

    Args:
        classes: Names of the classes, or the types of entities; empty for regression.
        references: Right answer to each item, shape (items,); of several labels a text 1 for each right one, shape (items,
            classes). Of labels of words each word is an item, one sentence's after the other.
        answers: Shape (runs, items), or (runs, items, classes). Runs that test a fold each are one.
        probabilities: Probabilities of each run, shape (items, classes); empty if a run kept none.
        lengths: Words of each sentence, of labels of words; else empty.
        tags: Names of the answers, where `classes` are the types of entities; else empty.
        seeds: Seeds of the folds whose items these are, in their order; empty where all runs test the same.
    """

    classes: tuple[str, ...]
    references: Classes | Floats
    answers: Classes | Floats
    probabilities: tuple[Floats, ...]
    lengths: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    seeds: tuple[int | None, ...] = ()

    @property
    def several(self) -> bool:
        """True if an item may have several of the classes."""
        return self.references.ndim == 2


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of a row by class, over its runs; those of probabilities are None if a run kept none.

    *confusion* has the mean count of each answer, shape (right class, answered class); empty for several labels and entities.
    """

    items: tuple[int, ...]
    precision: tuple[Summary, ...]
    recall: tuple[Summary, ...]
    f1: tuple[Summary, ...]
    macro_f1: Summary
    confusion: Floats
    calibration_error: Summary | None = None
    brier_score: Summary | None = None


@dataclass(frozen=True, kw_only=True)
class NeverFound:
    """Classes of test items that no run answered rightly, so that their F1 is 0, with the number of items of each.

    *answered* if one of them was ever answered, for other items; *noun* is the word for one item.
    """

    items: Mapping[str, int]
    answered: bool
    noun: str

    def words(self, by: str = "", shown: Callable[[str], str] = str) -> str:
        """Return them in words, such as "never predicted by lora: security (4 test rows)"; *shown* writes a name."""
        word = "never rightly predicted" if self.answered else "never predicted"
        named = [f"{shown(name)} ({text.plural(number, f'test {self.noun}')})" for name, number in self.items.items()]
        more = [] if len(named) <= MOST_TOLD else [f"{len(named) - MOST_TOLD + 1} others"]
        return f"{word}{f' by {by}' if by else ''}: {text.listed([*named[: MOST_TOLD - len(more)], *more])}"


# By the ids of a row's runs: a row may stand in the tables of several targets.
GivenByRow = Mapping[tuple[str, ...], GivenAnswers]


def given_answers(comparison: Comparison, answers: AnswersOf) -> GivenByRow:
    """Return the answers of every row of the results whose predictions are all stored."""
    found: dict[tuple[str, ...], GivenAnswers] = {}
    for setting in comparison.results:
        if setting.search or setting.trials:
            continue
        for row in setting.rows:
            if row.run_ids not in found and (given := given_by(row, setting.spec.task, answers)) is not None:
                found[row.run_ids] = given
    return found


def given_by(row: Row, task: TaskSpec, answers: AnswersOf) -> GivenAnswers | None:
    """Return the answers of a row, or None if some are missing, or are not classes or numbers of the same items."""
    stored = [found for score in row.scores if (found := answers(score.run_id)) is not None]
    if len(stored) < len(row.scores):
        return None
    if not row.overlap or not stored:
        return given_in(stored, task)
    given = given_in([_as_one_run(stored)], task)
    return None if given is None else replace(given, seeds=tuple(score.seed for score in row.scores))


def _as_one_run(folds: Sequence[Answers]) -> Answers:
    """Return the answers of runs that test a fold each as if one run had given them to all rows."""
    shares = [share for one in folds for share in one.probabilities or ()]
    predictions = [value for one in folds for value in one.predictions]
    references = [value for one in folds for value in one.references]
    return Answers(predictions, references, shares if len(shares) == len(references) else None)


def given_in(stored: Sequence[Answers], task: TaskSpec) -> GivenAnswers | None:
    """Return the answers of some runs, or None without any, or if they are not classes or numbers of the same items."""
    metric = find(task.metric)
    if not stored or (metric is not None and metric.kind == "likelihood"):
        return None
    first = stored[0].references
    if not first or any(one.references != first or len(one.predictions) != len(first) for one in stored):
        return None
    predictions = [one.predictions for one in stored]
    every = [first, *predictions]
    classes = task.labels or ()
    kind = known_kinds().get(str((task.definition or {}).get("kind")))
    forms = kind.metric_kinds if kind is not None else ()
    if "tokens" in forms:
        return _given_words(first, predictions, classes)
    if "multilabel" in forms:
        if len(classes) > MOST_CLASSES or not all(are_label_sets(one, len(classes)) for one in every):
            return None
        right, of_runs = label_arrays(first, predictions, len(classes))
        return GivenAnswers(classes=classes, references=right, answers=of_runs, probabilities=())
    if not all(isinstance(value, int | float) for one in every for value in one):
        return None
    references, said = np.array(first), np.array(predictions)
    if classes:
        kinds, both = {references.dtype.kind, said.dtype.kind}, np.append(references, said)
        if len(classes) > MOST_CLASSES or kinds != {"i"} or (both < 0).any() or (both >= len(classes)).any():
            return None
    elif task.labels is None or not (np.isfinite(references).all() and np.isfinite(said).all()):
        return None
    shares = [np.array(one.probabilities) for one in stored if one.probabilities is not None]
    whole = len(shares) == len(stored) and all(one.shape == (len(first), len(classes)) for one in shares)
    kept = tuple(shares) if whole else ()
    return GivenAnswers(classes=classes, references=references, answers=said, probabilities=kept)


def _given_words(first: Sequence[Any], said: Sequence[Sequence[Any]], labels: Sequence[str]) -> GivenAnswers | None:
    """Return the labels of words, or None if some are none of the task's, or sentences have other words."""
    number = {label: place for place, label in enumerate(labels)}
    each = [first, *said]
    if len(labels) > MOST_CLASSES or not all(isinstance(tags, list | tuple) for one in each for tags in one):
        return None
    lengths = tuple(map(len, first))
    known = all(isinstance(tag, str) and tag in number for one in each for tags in one for tag in tags)
    if not known or any(tuple(map(len, one)) != lengths for one in each):
        return None
    right, *answers = (np.array([number[tag] for tags in one for tag in tags], dtype=np.int64) for one in each)
    types = {type_of(label) for label in labels} - {None} if all(map(is_tag, labels)) else set()
    return GivenAnswers(
        classes=tuple(sorted(filter(None, types))) if types else tuple(labels),
        references=right,
        answers=np.array(answers),
        probabilities=(),
        lengths=lengths,
        tags=tuple(labels) if types else (),
    )


def never_found(given: GivenAnswers) -> NeverFound | None:
    """Return the classes of test items that no run answered rightly; None if there are none."""
    if not given.classes:
        return None
    if given.tags:
        scores = _entity_scores(given)
        right = {place for place, f1 in enumerate(scores.f1) if f1.mean > 0}
        items, said = scores.items, set[int]()
    elif given.several:
        both = given.references.astype(bool) & given.answers.astype(bool)
        right, said = (set(np.flatnonzero(of.any(axis=(0, 1))).tolist()) for of in (both, given.answers))
        items = tuple(map(int, given.references.sum(axis=0)))
    else:
        right = set(given.references[(given.answers == given.references).any(axis=0)].tolist())
        items = tuple(np.bincount(given.references.astype(np.int64), minlength=len(given.classes)).tolist())
        said = set(np.unique(given.answers).tolist())
    lost = [place for place, number in enumerate(items) if number and place not in right]
    noun = "item" if given.tags else "word" if given.lengths else "row"
    named = {given.classes[place]: items[place] for place in lost}
    return NeverFound(items=named, answered=bool(given.tags) or not said.isdisjoint(lost), noun=noun) if named else None


def class_scores(given: GivenAnswers) -> ClassScores:
    """Return the scores of a row of classification by class."""
    if given.several:
        return _label_scores(given)
    if given.tags:
        return _entity_scores(given)
    references, number = given.references.astype(np.int64), len(given.classes)
    counts = [confusion(references, said.astype(np.int64), number) for said in given.answers]
    by_run = np.array([precision_recall_f1(one) for one in counts])
    macro = [mean_of_classes(run[2], one) for run, one in zip(by_run, counts, strict=True)]
    found = _over_runs(by_run, counts[0].sum(axis=1).tolist(), macro, np.mean(counts, axis=0))
    if not given.probabilities:
        return found
    return replace(
        found,
        calibration_error=summarise([calibration_error(references, one) for one in given.probabilities]),
        brier_score=summarise([brier_score(references, one) for one in given.probabilities]),
    )


def _label_scores(given: GivenAnswers) -> ClassScores:
    """Return the scores of each of several labels: those of the second class of its own two."""
    number = len(given.classes)
    right, answers = given.references.astype(np.int64), given.answers.astype(np.int64)
    counts = [[confusion(right[:, label], said[:, label], 2) for label in range(number)] for said in answers]
    of_items, of_runs = given.references.astype(np.float64), given.answers.astype(np.float64)
    macro = [weighted_macro_f1(references=of_items, predictions=said[None]) for said in of_runs]
    everything = np.ones((1, len(right)))
    return _scores_of_each(counts, [float(np.nan_to_num(one(everything)[0, 0])) for one in macro])


def _entity_scores(given: GivenAnswers) -> ClassScores:
    """Return the scores of the entities of each type: right if type, first and last word are."""
    real = _entities(given, given.references)
    counts, macro = [], []
    for answers in given.answers:
        said = _entities(given, answers)
        of_types = []
        for type_ in given.classes:
            own, found = ({one for one in some if one[1] == type_} for some in (real, said))
            of_types.append(np.array([[0, len(found - own)], [len(own - found), len(own & found)]]))
        counts.append(of_types)
        f1 = [float(precision_recall_f1(one)[2][1]) for one in of_types if one.any()]
        macro.append(sum(f1) / len(f1) if f1 else 0.0)
    return _scores_of_each(counts, macro)


def _entities(given: GivenAnswers, answers: Classes | Floats) -> set[tuple[int, str, int, int]]:
    """Return sentence, type, first and last word of each entity."""
    ends = np.cumsum(given.lengths)
    return {
        (sentence, type_ or UNTYPED, first, last)
        for sentence, numbers in enumerate(np.split(answers, ends[:-1]))
        for type_, first, last in entities([given.tags[int(number)] for number in numbers])
    }


def _scores_of_each(counts: Sequence[Sequence[Classes]], macro: Sequence[float]) -> ClassScores:
    """Return the scores of classes that are found or not, each with a matrix of two, for each run."""
    by_run = np.array([[precision_recall_f1(one) for one in of_classes] for of_classes in counts])[..., 1]
    return _over_runs(by_run.transpose(0, 2, 1), [int(one[1].sum()) for one in counts[0]], macro, np.zeros((0, 0)))


def _over_runs(by_run: Floats, items: Sequence[int], macro: Sequence[float], counts: Floats) -> ClassScores:
    """Return the scores from precision, recall and F1 of each class, shape (runs, 3, classes)."""
    precision, recall, f1 = (tuple(map(summarise, score.T.tolist())) for score in by_run.transpose(1, 0, 2))
    return ClassScores(
        items=tuple(items), precision=precision, recall=recall, f1=f1, macro_f1=summarise([*macro]), confusion=counts
    )


def error_scores(given: GivenAnswers) -> tuple[Summary, Summary]:
    """Return the MAE and the RMSE of a row of regression over its runs, in the unit of the label."""
    errors = given.answers - given.references
    return summarise(np.abs(errors).mean(axis=1).tolist()), summarise(np.sqrt((errors**2).mean(axis=1)).tolist())


def rows_with_answers(table: ModelTable, given: GivenByRow) -> list[tuple[Row, GivenAnswers]]:
    """Return the rows of a table whose answers are stored, to the same items."""
    found = [(row, given[row.run_ids]) for row in table.rows if row.run_ids in given]
    return [
        (row, own)
        for row, own in found
        if own.seeds == found[0][1].seeds and np.array_equal(own.references, found[0][1].references)
    ]


def differing_items(rows: Sequence[tuple[Row, GivenAnswers]]) -> list[int]:
    """Return the items that a method answers right in most runs and another wrong in most, the clearest first.

    Items with several labels and words are not among them. Equally clear ones are in a fixed random order: files are often
    sorted by class, and readers see the first items alone.
    """
    if not rows or not rows[0][1].classes or rows[0][1].several or rows[0][1].lengths:
        return []
    # Of each item the share of runs that are right.
    shares = np.array([(given.answers == given.references).mean(axis=0) for _, given in rows])
    most, least = shares.max(axis=0), shares.min(axis=0)
    found = np.random.default_rng(0).permutation(np.flatnonzero((most > 0.5) & (least < 0.5)))
    return [int(place) for place in found[np.argsort(least[found] - most[found], kind="stable")]]
