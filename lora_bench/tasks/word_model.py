"""The score of words alone: tf-idf with logistic or ridge regression, on the rows that a run is trained on.

    u = tf-idf of the words of a text, of length 1
    one text:   x = u
    two texts:  x = (|u − v|, u ∘ v)

Logistic regression answers with a class, ridge regression with a number, as scikit-learn fits them. Of three penalties, the
one with the best score on the selection split is taken, the strongest of equals; without that split, the middle one.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

from lora_bench.kinds.support.row_values import Split
from lora_bench.metrics import kind_of
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.examples import TaskData
from lora_bench.tasks.task_scores import score

# The strongest penalty first: C of logistic regression, alpha of ridge regression.
STRENGTHS = {"logistic": (1.0, 10.0, 100.0), "ridge": (10.0, 1.0, 0.1)}
# Beyond, a fit takes minutes.
MOST_ROWS, MOST_CLASSES = 20_000, 100


def word_model_score(task: Task, data: TaskData, split: str, rows: Sequence[int] | None = None) -> float | None:
    """Return the score of tf-idf with a linear model on a split, fit on the training rows of these indexes, all by default.

    Returns:
        The value of the task's metric; None for a kind of task without one class or number a row, for more than `MOST_ROWS`
        rows or `MOST_CLASSES` classes, or where all labels are the same or no text has a word.
    """
    train = data.splits["train"]
    rows = range(len(train.ids)) if rows is None else rows
    labels = [train.labels[row] for row in rows]
    if (
        task.kind_of.word_model is None
        or len(rows) > MOST_ROWS
        or len(data.labels) > MOST_CLASSES
        or len(set(labels)) < 2
    ):
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    texts = [train.texts[row] for row in rows]
    try:
        words.fit([text for pair in texts for text in pair])
    except ValueError:  # an empty vocabulary
        return None
    features = _features(words, texts)
    better = 1 if task.higher_is_better else -1
    strengths = STRENGTHS[task.kind_of.word_model]
    best, chosen = -math.inf, None
    for strength in strengths if "selection" in data.splits else strengths[1:2]:
        model = _fitted(task.kind_of.word_model, strength, features, labels)
        value = _score(task, data.splits["selection"], words, model) if "selection" in data.splits else None
        if chosen is None or (value is not None and better * value > best):
            best, chosen = -math.inf if value is None else better * value, model
    return _score(task, data.splits[split], words, chosen)


def _features(words: Any, texts: Sequence[tuple[str, ...]]) -> Any:
    from scipy.sparse import hstack

    columns = [words.transform(column) for column in zip(*texts, strict=True)]
    if len(columns) == 1:
        return columns[0]
    first, second = columns
    return hstack([abs(first - second), first.multiply(second)], format="csr")


def _fitted(which: str, strength: float, features: Any, labels: Sequence[Any]) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=strength, max_iter=1_000) if which == "logistic" else Ridge(alpha=strength)
    # One thread, so that the last digits do not depend on the machine's number of cores.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # of a fit that ends at max_iter
        return model.fit(features, labels)


def _score(task: Task, split: Split, words: Any, model: Any) -> float | None:
    features = _features(words, split.texts)
    right, answers = task.kind_of.as_scored(split, model.predict(features).tolist())
    shares: list[list[float]] = []
    if kind_of(task.metric) == "probabilities":
        # A class without a training row has the probability 0.
        of_known = dict(zip(model.classes_, model.predict_proba(features).T.tolist(), strict=True))
        columns = [of_known.get(label, [0.0] * len(right)) for label in range(len(task.labels or of_known))]
        shares = [list(row) for row in zip(*columns, strict=True)]
    return score(task, right, answers, probabilities=shares).get(task.metric)
