"""The score of words alone is scikit-learn's own, on the rows of a run, and stands in every table of a report."""

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from lora_bench.kinds.support.row_values import Split
from lora_bench.tasks import Task, TaskData
from lora_bench.tasks.word_model import word_model_score

PLACES = ["north", "south", "east", "west", "shore", "hill"]


def split(texts, labels):
    return Split([str(row) for row in range(len(texts))], texts, labels)


def data(labels=(), **splits):
    return TaskData(splits, labels, "", ())


def task(**keys):
    return Task.model_validate({"task": "t", "data": "t.csv", "text": ["text"], "label": {"column": "label"}, **keys})


def weather():
    """Two words decide, but for one row in five, and the places say nothing."""
    texts = [(f"{'dry' if row % 2 else 'wet'} in the {PLACES[row % 6]} of {PLACES[row % 5]}",) for row in range(60)]
    return texts, [row % 2 if row % 5 else 1 - row % 2 for row in range(60)]


def test_without_a_selection_split_it_is_the_plain_pipeline_of_scikit_learn():
    texts, labels = weather()
    found = word_model_score(
        task(), data(("wet", "dry"), train=split(texts[:40], labels[:40]), test=split(texts[40:], labels[40:])), "test"
    )
    plain = make_pipeline(TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b\w+\b"), LogisticRegression(C=10.0))
    plain.fit([text for (text,) in texts[:40]], labels[:40])
    assert found == plain.score([text for (text,) in texts[40:]], labels[40:])


def test_a_number_is_answered_by_ridge_regression_with_the_penalty_that_is_best_on_the_selection_split():
    texts, labels = weather()
    numbers = [label + len(text) / 10 for (text,), label in zip(texts, labels, strict=True)]
    parts = {"train": slice(0, 30), "selection": slice(30, 45), "test": slice(45, 60)}
    splits = {name: split(texts[part], numbers[part]) for name, part in parts.items()}
    found = word_model_score(task(kind="regression", metric="mae"), data(**splits), "test")
    errors = {}
    for alpha in (10.0, 1.0, 0.1):
        plain = make_pipeline(TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b\w+\b"), Ridge(alpha=alpha))
        plain.fit([text for (text,) in splits["train"].texts], splits["train"].labels)
        wrong = {}
        for name in ("selection", "test"):
            answers = plain.predict([text for (text,) in splits[name].texts])
            pairs = zip(answers, splits[name].labels, strict=True)
            wrong[name] = sum(abs(answer - right) for answer, right in pairs) / len(answers)
        errors[alpha] = wrong
    best = min(errors, key=lambda alpha: errors[alpha]["selection"])
    assert found == pytest.approx(errors[best]["test"], rel=1e-9)


def test_of_a_pair_the_words_that_one_text_has_and_the_other_lacks_decide():
    """Equal pairs and unequal ones of the same words: no word alone tells them apart."""
    pairs = [(first, second) for first in PLACES for second in PLACES] * 2
    same = [int(first == second) for first, second in pairs]
    splits = {"train": split(pairs, same), "test": split([("hill", "hill"), ("hill", "shore")] * 5, [1, 0] * 5)}
    assert word_model_score(task(text=["a", "b"]), data(("other", "same"), **splits), "test") == 1.0


def test_it_is_fitted_on_the_rows_that_a_run_trains_on():
    texts, labels = weather()
    wrong = [1 - label for label in labels]
    splits = {"train": split(texts * 2, labels + wrong), "test": split([("dry",), ("wet",)], [1, 0])}
    right, reverse = (
        word_model_score(task(), data(("wet", "dry"), **splits), "test", rows) for rows in (range(60), range(60, 120))
    )
    assert (right, reverse) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["one class", "no words", "texts to write"])
def test_where_words_cannot_answer_there_is_no_score(name):
    texts, labels = [("a b",), ("c d",)], [0, 1]
    keys = {}
    if name == "one class":
        labels = [1, 1]
    elif name == "no words":
        texts = [("!",), ("?",)]
    else:
        keys, labels = {"kind": "generation", "label": {"column": "written"}}, [("x",), ("y",)]
    splits = {"train": split(texts, labels), "test": split(texts, labels)}
    assert word_model_score(task(**keys), data(("no", "yes"), **splits), "test") is None
