"""Rows weighed by the rarity of their class: the weights and the loss of scikit-learn, in runs of the real Trainer."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from lora_bench.errors import BadInput
from lora_bench.kinds.exercises.base_exercise import cross_entropy
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.lessons import balanced_weights
from lora_bench.training.run import run_job
from tests.project import SUITE, WORDS, write_project

LABELS = [0] * 6 + [1] * 3 + [3]
LORA = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: lora, learning_rate: 1e-2}]")
BALANCED = "training: {class_weights: balanced, base_dropout: 0.0, head_dropout: 0.0}\n"


def test_weights_are_those_of_scikit_learn_and_a_class_without_rows_has_none():
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    assert balanced_weights(LABELS, 4).tolist() == pytest.approx([expected[0], expected[1], 0.0, expected[2]])


def test_the_loss_is_the_mean_of_weighted_cross_entropies():
    logits, weights = (
        torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(0)),
        balanced_weights(LABELS, 4),
    )
    loss = cross_entropy(weights=weights)(logits, torch.tensor(LABELS))
    of_rows = weights[LABELS].numpy()
    expected = log_loss(LABELS, logits.softmax(-1).numpy(), labels=range(4), sample_weight=of_rows)
    # scikit-learn divides by the sum of the weights, which is the number of rows.
    assert of_rows.sum() == pytest.approx(len(LABELS)) and loss.item() == pytest.approx(expected, rel=1e-5)


def losses(folder, rare, more):
    """The losses of a run on 400 rows, *rare* of which have the second class."""
    path = write_project(folder, f"{LORA}{more}")
    rows = [
        f"{WORDS[n % 7]} {WORDS[n // 7 % 7]} {WORDS[n // 49 % 9]},{'praise' if n < rare else 'complaint'}"
        for n in range(400)
    ]
    (folder / "tickets.csv").write_text("\n".join(["subject,queue", *rows]) + "\n")
    [cell] = make_plan(load_suite(path), folder / "runs").cells
    made = run_job(cell.job)
    assert made.status == "ok", made.reason
    return [point.loss for point in made.curve]


def test_a_run_weighs_rare_classes_also_in_parts_of_a_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    plain = BALANCED.replace("class_weights: balanced, ", "")
    weighed = losses(tmp_path / "weighed", 40, BALANCED)
    assert weighed != pytest.approx(losses(tmp_path / "plain", 40, plain), rel=1e-3)
    parts = "training_arguments: {gradient_accumulation_steps: 4}\n"
    assert losses(tmp_path / "parts", 40, BALANCED + parts) == pytest.approx(weighed, rel=1e-4)


def test_a_run_with_class_weights_has_another_id_and_is_not_packed(tmp_path):
    jobs = []
    for name, training in (("plain", ""), ("none", "training: {class_weights: null}\n"), ("balanced", BALANCED)):
        path = write_project(tmp_path / name, LORA + training)
        jobs.append(make_plan(load_suite(path), tmp_path / "runs").cells[0].job)
    assert jobs[0].run_id == jobs[1].run_id != jobs[2].run_id
    assert company_of(jobs[2]) is None


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_class_weights_of_a_kind_without_one_class_a_row_are_refused(tmp_path, kind):
    label = {"regression": "label: queue", "multilabel": "label: {column: queue, separator: '|'}"}[kind]
    suite = f"{LORA}{BALANCED}".replace("label: queue", f"{label}\n    kind: {kind}")
    path = write_project(tmp_path, suite)
    text = (tmp_path / "tickets.csv").read_text()
    if kind == "regression":
        text = text.replace(",praise", ",1.0").replace(",complaint", ",-1.0")
    (tmp_path / "tickets.csv").write_text(text)
    with pytest.raises(BadInput, match=f"class_weights is for classification, and the kind of tickets is {kind}"):
        make_plan(load_suite(path), tmp_path / "runs")
