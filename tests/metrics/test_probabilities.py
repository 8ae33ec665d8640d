"""Metrics of the probabilities of classes: scikit-learn's numbers, in a run too, and refused where no class has one."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.metrics import metric
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import score
from lora_bench.tasks.declaration import Task
from tests.project import SUITE, write_project

OF_SCIKIT_LEARN = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
DRAWN = np.random.default_rng(0)


@pytest.mark.parametrize("name", OF_SCIKIT_LEARN)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_value_is_scikit_learns_of_the_second_class_and_of_more_the_mean_against_the_rest(name, classes):
    right = DRAWN.integers(classes, size=60)
    shares = DRAWN.dirichlet(np.ones(classes), size=60).round(1)
    found = metric(name).compute(references=right, predictions=shares.tolist(), classes=classes)[name]
    if classes == 2:
        expected = OF_SCIKIT_LEARN[name](right, shares[:, 1])
    else:
        expected = OF_SCIKIT_LEARN[name](np.eye(classes)[right], shares, average="macro")
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", OF_SCIKIT_LEARN)
def test_a_class_without_rows_is_left_out_and_one_class_alone_gives_no_value(name):
    right, shares = [0, 2, 0, 2], [[0.6, 0.1, 0.3], [0.2, 0.1, 0.7], [0.5, 0.0, 0.5], [0.5, 0.1, 0.4]]
    expected = np.mean([OF_SCIKIT_LEARN[name]([one == of for one in right], np.array(shares)[:, of]) for of in (0, 2)])
    assert metric(name).compute(references=right, predictions=shares, classes=3)[name] == pytest.approx(expected)
    assert metric(name).compute(references=[1, 1], predictions=[[0.5, 0.5], [0.1, 0.9]])[name] is None


def test_answers_alone_have_no_such_score():
    task = Task.model_validate(
        {
            "task": "t",
            "data": "t.csv",
            "text": ("a",),
            "label": "b",
            "labels": ("n", "y"),
            "metric": "roc_auc",
            "metrics": ("f1",),
        }
    )
    assert set(score(task, [0, 1], [0, 1])) == {"f1"}


@pytest.mark.parametrize("kind", ["regression", "tokens", "multilabel", "generation"])
def test_a_kind_whose_answers_have_no_probabilities_refuses_it(tmp_path, kind):
    suite = SUITE.replace("label: queue", f"label: queue\n    kind: {kind}\n    metric: roc_auc")
    with pytest.raises(BadInput, match=f"'roc_auc' is for probabilities, and the task's kind is {kind}"):
        load_suite(write_project(tmp_path, suite))


def test_a_run_has_the_score_of_the_probabilities_that_it_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    suite = SUITE.replace(
        "label: queue",
        "label: queue\n    labels: [complaint, praise]\n    metric: roc_auc\n    metrics: [average_precision]",
    )
    trained = "[{method: lora, learning_rate: 1e-2}]"  # of a model as drawn, probabilities differ beyond what is kept
    suite = suite.replace("[full, lora, bottleneck_adapter, prefix_tuning]", trained).replace(": 48", ": 640")
    suite += "selection_every: 20\n"
    (made,) = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok", made.reason
    folder = tmp_path / "runs" / "tickets" / made.run_id
    shares = json.loads((folder / "probabilities.json").read_text())["probabilities"]
    right = json.loads((folder / "predictions.json").read_text())["references"]
    for name, of in OF_SCIKIT_LEARN.items():
        assert made.scores[name] == pytest.approx(of(right, np.array(shares)[:, 1]), abs=5e-3)
    scored = [point.scores for point in made.curve if point.scores is not None]
    assert scored and all("roc_auc" in scores for scores in scored)
    # The same probability for all is right by chance, and words alone give the label away.
    assert made.data.majority_score == 0.5 and made.data.word_model_score > 0.9
