"""A generation task from its rows to its record: what is trained on, what is written, and what is kept of it."""

import csv
import json
import math
import random

import pytest

from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import accept
from lora_bench.suite.load_suite import load_suite
from tests.project import WORDS, write_model

SUITE = """\
suite: echo
tasks:
  - task: echo
    kind: generation
    data: {train: train.csv, selection: selection.csv, test: test.csv}
    text: source
    label: target
    metric: bleu
    metrics: [nist, chrf]
models: [base]
methods: [{method: full, learning_rate: 1e-2}]
seeds: [0]
budget: {train_examples: 960}
training: {batch_size: 16, max_length: 24, base_dropout: 0.0}
decoding: {beams: 2, max_new_tokens: 8, no_repeat_ngram: 4}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def write_project(folder, suite=SUITE, family="gpt2"):
    """A task in which the completion is the input's last word, then `end`; every test input stands twice."""
    folder.mkdir()
    write_model(folder / "base", family)
    draw = random.Random(0)
    rows = []
    for _ in range(240):
        words = draw.choices(WORDS, k=3)
        rows.append((" ".join(words), f"{words[-1]} end"))
    parts = {"train": rows[:200], "selection": rows[200:220], "test": rows[220:] * 2}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("source", "target"), *part])
    (folder / "echo.yaml").write_text(suite)
    return folder / "echo.yaml"


def test_a_causal_model_learns_to_write_and_its_texts_are_kept_beside_the_record(tmp_path):
    path = write_project(tmp_path / "project")
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok", made.reason
    assert set(made.scores) == {"bleu", "nist", "chrf"} and made.data.majority_score is None
    assert (made.parameters.head, made.spec.decoding.beams) == (0, 2)
    folder = runs_folder(load_suite(path), tmp_path / "runs") / made.run_id
    written = json.loads((folder / made.predictions.file).read_text())["completions"]
    assert len(written) == made.predictions.count == made.data.examples["test"] == 20  # each distinct input once
    # The task can be learned: most inputs are answered in the form of the targets.
    assert sum(text.endswith("end") for text in written) > 10


def test_written_texts_are_not_committed_with_a_baseline(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project")
    run_suite(path, runs=tmp_path / "runs", workers=0)
    accept(runs_folder(load_suite(path), tmp_path / "runs"), tmp_path / "baseline")
    (only,) = (tmp_path / "baseline" / "records").iterdir()
    assert "completions" not in only.name


@pytest.mark.parametrize("family", ["roberta", "deberta-v2"])
def test_an_encoder_is_an_unsupported_row(tmp_path, family):
    (made,) = run_suite(write_project(tmp_path / "project", family=family), runs=tmp_path / "runs", workers=0).records
    assert made.status == "unsupported" and "is an encoder and writes no text" in made.reason


def test_all_four_methods_train_and_score(tmp_path):
    suite = SUITE.replace(
        "[{method: full, learning_rate: 1e-2}]", "[full, lora, bottleneck_adapter, prefix_tuning]"
    ).replace("train_examples: 960", "train_examples: 32")
    records = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    assert [(made.spec.method.label, made.status) for made in records] == [
        ("full", "ok"), ("lora", "ok"), ("bottleneck_adapter", "ok"), ("prefix_tuning", "ok"),
    ]  # fmt: skip


def test_the_loss_on_the_right_texts_is_a_score_too_and_needs_no_texts_of_the_model(tmp_path):
    suite = SUITE.replace("metric: bleu\n    metrics: [nist, chrf]", "metric: loss")
    (made,) = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    # A target is one of 15 words, and `end` and the end of the text, which are certain.
    assert 0 < made.scores["loss"] < math.log(15) and made.spec.decoding is None


def test_decoding_is_part_of_what_a_run_is(tmp_path):
    path = write_project(tmp_path / "project")
    ids = set()
    for decoding in ("{beams: 2}", "{beams: 3}", "{beams: 2, length_penalty: 0.8}"):
        path.write_text(
            SUITE.replace("{beams: 2, max_new_tokens: 8, no_repeat_ngram: 4}", decoding).replace(
                "max_length: 24", "max_length: 80"
            )
        )
        (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
        ids.add(cell.job.spec.run_id)
    assert len(ids) == 3


def test_label_smoothing_changes_the_loss(tmp_path):
    losses = []
    for smoothing in (0.0, 0.2):
        suite = SUITE.replace("base_dropout: 0.0", f"base_dropout: 0.0, label_smoothing: {smoothing}")
        suite = suite.replace("train_examples: 960", "train_examples: 16")
        path = write_project(tmp_path / f"project{smoothing}", suite)
        (made,) = run_suite(path, runs=tmp_path / f"runs{smoothing}", workers=0).records
        losses.append(made.curve[0].loss)
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)
